"""Headers of NRRD and MetaImage, and the formats that SimpleITK and nibabel read: placed as in Slicer."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.io import load, load_voxels, read_header, save
from RegCore.space.geometry import InputError
from RegCore.space.transforms import DisplacementField
from RegCore.space.volume import Volume
from Testing.RegCore.grids import GRIDS, LPS, OBLIQUE, SHAPE
from Testing.RegCore.io.references import assert_same_in_space, by_itk, by_slicer

VOXELS = (np.random.default_rng(0).normal(size=SHAPE) * 50).astype("<i2")
VECTORS = "(-1,0,0.25) (0,-2,0) (0.75,0,3)"


def nrrd(path, data=None, **changes):
    """A NRRD file of `VOXELS`; names of fields with _ for the blank, None leaves one out."""
    fields = {"type": "short", "dimension": "3", "sizes": "7 8 9", "endian": "little", "encoding": "raw"}
    fields |= {name.replace("_", " "): value for name, value in changes.items()}
    head = "NRRD0005\n" + "".join(f"{name}: {value}\n" for name, value in fields.items() if value)
    path.write_bytes(head.encode() + b"\n" + (VOXELS.tobytes(order="F") if data is None else data))
    return path


def placed(space=None, origin="(1,2,3)", **fields) -> dict:
    return {"space": space, "space_directions": VECTORS, "space_origin": origin, **fields}


SPACINGS, MINS, MAXS = {"spacings": "0.9 1.1 2.5"}, {"axis_mins": "-20 -30 10"}, {"axis_maxs": "-13 -22 19"}
NRRDS = {
    "sizes alone": {},
    "spacings": SPACINGS,
    "spacings, one NaN": {"spacings": "nan 1.1 2.5"},
    "spacings, one negative": {"spacings": "-0.9 1.1 2.5"},
    "spacings and mins": SPACINGS | MINS,
    "spacings and mins in one word": SPACINGS | {"axismins": "-20 -30 10"},
    "cells": SPACINGS | MINS | {"centers": "cell cell cell"},
    "nodes": SPACINGS | MINS | {"centers": "node node node"},
    "nodes, the newer name": SPACINGS | MINS | {"centerings": "node node node"},
    "mins and maxs": MINS | MAXS,
    "nodes from mins to maxs": MINS | MAXS | {"centers": "node node node"},
    "mins alone": MINS,
    "spacings and maxs": SPACINGS | MAXS,
    "no origin": placed("left-posterior-superior", None),
    "a space of 3 dimensions": {"space_dimension": "3", **placed()},
    "units and frame": placed(
        "LPS", space_units='"um" "um" "um"', measurement_frame="(0,1,0) (1,0,0) (0,0,1)"
    ),
    "fields without meaning": placed("LPS", content="x: y", labels='"a" "b" "c"', old_min="0", number="504"),
    "text": placed("LPS", encoding="ascii", data=" ".join(map(str, VOXELS.ravel(order="F"))).encode()),
    "hexadecimal": placed("RAS", encoding="hex", data=VOXELS.tobytes(order="F").hex().encode()),
    "big-endian": placed("RAS", endian="big", data=VOXELS.astype(">i2").tobytes(order="F")),
}
NRRDS |= {
    f"space {name}": placed(name)
    for name in (
        "left-posterior-superior", "LPS", "right-anterior-superior", "RAS", "left-anterior-superior", "las",
        "scanner-xyz", "3D-right-handed", "3D-left-handed",
    )
}  # fmt: skip


def test_a_nrrd_file_of_the_first_version(tmp_path):
    path = nrrd(tmp_path / "v.nrrd", **placed("LPS"))
    path.write_bytes(path.read_bytes().replace(b"NRRD0005", b"NRRD00.01"))
    assert_same_in_space(load(path), by_slicer(path))


@pytest.mark.parametrize("case", NRRDS)
def test_a_nrrd_file_lies_where_slicer_and_simpleitk_put_it(tmp_path, case):
    path = nrrd(tmp_path / "v.nrrd", **NRRDS[case])
    found, itk = load(path), by_itk(path)
    np.testing.assert_array_equal(found.array, VOXELS)
    assert found.geometry.is_close(itk.geometry, 1e-3)
    assert_same_in_space(found, by_slicer(path))
    assert read_header(path) == (SHAPE, found.geometry)


@pytest.mark.parametrize("words", ["none", "(nan,nan,nan)"])
@pytest.mark.parametrize("first", [True, False])
def test_an_axis_that_is_none_of_space(tmp_path, words, first):
    order = (words, VECTORS) if first else (VECTORS, words)
    sizes, kinds = ("1 7 8 9", "list " + "domain " * 3) if first else ("7 8 9 1", "domain " * 3 + "list")
    fields = placed("LPS") | {"space_directions": " ".join(order), "dimension": "4", "sizes": sizes}
    found = load(nrrd(tmp_path / "v.nrrd", kinds=kinds.strip(), **fields))
    assert found.geometry == load(nrrd(tmp_path / "w.nrrd", **placed("LPS"))).geometry
    np.testing.assert_array_equal(found.array, VOXELS)


@pytest.mark.parametrize("line", ["space origin;(1,2,3)", "space orig\xfcn: (1,2,3)", "foo: bar", "nonsense"])
def test_a_line_that_is_no_field_is_refused_as_by_simpleitk(tmp_path, line):
    path = nrrd(tmp_path / "v.nrrd", **placed("LPS"))
    path.write_bytes(
        path.read_bytes().replace(b"space origin", line.encode("latin-1") + b"\nspace origin", 1)
    )
    assert by_itk(path) is None
    with pytest.raises(InputError, match="a line of the NRRD header is no field of the format"):
        load(path)


@pytest.mark.parametrize("name", ["./v.raw", "below/v.raw", "LIST 3\nbelow/v.raw", "v%d.raw 1 1 1 3"])
def test_voxels_in_the_folder_of_the_header_and_below(tmp_path, name):
    (tmp_path / "below").mkdir()
    for place in ("v.raw", "below/v.raw", "v1.raw"):
        (tmp_path / place).write_bytes(VOXELS.tobytes(order="F"))
    head = nrrd(tmp_path / "v.nhdr", data=b"", **placed("LPS")).read_bytes()[:-1]
    (tmp_path / "v.nhdr").write_bytes(head + f"data file: {name}\n".encode())
    if "LIST" not in name:
        (tmp_path / "v.nhdr").write_bytes((tmp_path / "v.nhdr").read_bytes() + b"\n")
    np.testing.assert_array_equal(load(tmp_path / "v.nhdr").array, VOXELS)


@pytest.mark.parametrize("space", ["RAS", "LPS", "left-anterior-superior"])
@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("first", [True, False])
def test_displacements_of_any_space_and_byte_order(tmp_path, space, endian, first):
    """Both the places and the vectors are in the coordinates of the file's space."""
    signs = {"RAS": (1, 1, 1), "LPS": (-1, -1, 1)}.get(space, (-1, 1, 1))
    mm = np.random.default_rng(1).normal(size=(*SHAPE, 3)).astype("f4")
    stored = (np.moveaxis(mm, 3, 0) if first else mm).astype("<f4" if endian == "little" else ">f4")
    sizes, kinds = ("3 7 8 9", "vector " + "domain " * 3) if first else ("7 8 9 3", "domain " * 3 + "vector")
    axes = f"none {VECTORS}" if first else f"{VECTORS} none"
    fields = placed(space, type="float", dimension="4", sizes=sizes, kinds=kinds.strip(), endian=endian)
    path = nrrd(tmp_path / "f.nrrd", stored.tobytes(order="F"), **(fields | {"space_directions": axes}))
    field, grid = load(path), load(nrrd(tmp_path / "v.nrrd", **placed(space))).geometry
    assert isinstance(field, DisplacementField) and field.geometry == grid
    np.testing.assert_allclose(field.mm, mm * np.array(signs), rtol=1e-6)


@pytest.mark.parametrize("ending", ["nrrd", "mha", "nii.gz"])
def test_colours_are_no_displacements(tmp_path, ending):
    colours = np.random.default_rng(0).integers(0, 256, (*SHAPE[::-1], 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), tmp_path / f"rgb.{ending}")
    with pytest.raises(InputError):
        load(tmp_path / f"rgb.{ending}")
    with pytest.raises(InputError):
        load(tmp_path / f"rgb.{ending}", "transform")


# ---- MetaImage ---------------------------------------------------------------------------------------------


def metaimage(path, data=None, name="LOCAL", **changes):
    fields = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False"}
    fields |= {"DimSize": "7 8 9", "ElementType": "MET_SHORT", "Offset": "-20 -30 10", **changes}
    fields["ElementDataFile"] = name
    head = "".join(f"{k} = {v}\n" for k, v in fields.items() if v).encode()
    path.write_bytes(head + (VOXELS.tobytes(order="F") if data is None else data))
    return path


TILTED = " ".join(str(x) for x in (OBLIQUE.direction * LPS[:, None]).T.ravel())
METAIMAGES = {
    "spacing": {"ElementSpacing": "0.9 1.1 2.5"},
    "size alone": {"ElementSize": "0.9 1.1 2.5"},
    "size and spacing": {"ElementSize": "9 9 9", "ElementSpacing": "0.9 1.1 2.5"},
    "tilted": {"ElementSpacing": "0.9 1.1 2.5", "TransformMatrix": TILTED},
    "older names": {"ElementSize": "0.9 1.1 2.5", "Offset": None, "Position": "1 2 3", "Orientation": TILTED},
    "most significant byte first": {"BinaryDataByteOrderMSB": "True"},
}


@pytest.mark.parametrize("case", METAIMAGES)
def test_a_metaimage_lies_where_slicer_and_simpleitk_put_it(tmp_path, case):
    order = ">i2" if "byte" in case else "<i2"
    path = metaimage(tmp_path / "v.mha", VOXELS.astype(order).tobytes(order="F"), **METAIMAGES[case])
    found = load(path)
    np.testing.assert_array_equal(found.array, VOXELS)
    assert found.geometry.is_close(by_itk(path).geometry, 1e-6)
    assert_same_in_space(found, by_slicer(path))
    assert read_header(path) == (SHAPE, found.geometry)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("CHAR", "i1"), ("UCHAR", "u1"), ("USHORT", "<u2"), ("INT", "<i4"), ("UINT", "<u4"), ("LONG", "<i4"),
     ("ULONG", "<u4"), ("LONG_LONG", "<i8"), ("ULONG_LONG", "<u8"), ("FLOAT", "<f4"), ("DOUBLE", "<f8")],
)  # fmt: skip
def test_every_element_type_of_metaimage(tmp_path, name, dtype):
    values = np.abs(VOXELS).clip(0, 100).astype(dtype)
    path = metaimage(tmp_path / "v.mha", values.tobytes(order="F"), ElementType=f"MET_{name}")
    found = load(path)
    assert found.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found.array, values)


@pytest.mark.parametrize("name", ["LIST", "s%02d.raw 0 8 1", "below/all.raw", "./all.raw"])
def test_voxels_of_a_metaimage_in_other_files(tmp_path, name):
    (tmp_path / "below").mkdir()
    slices = [f"s{k:02}.raw" for k in range(SHAPE[2])]
    for k, path in enumerate(slices):
        (tmp_path / path).write_bytes(VOXELS[..., k].tobytes(order="F"))
    for path in ("all.raw", "below/all.raw"):
        (tmp_path / path).write_bytes(VOXELS.tobytes(order="F"))
    listed = "".join(f"{path}\n" for path in slices).encode() if name == "LIST" else b""
    np.testing.assert_array_equal(load(metaimage(tmp_path / "v.mhd", listed, name)).array, VOXELS)


def test_what_simpleitk_gave_outlives_its_image(tmp_path):
    save(Volume(VOXELS, OBLIQUE), tmp_path / "v.mha")
    found = load(tmp_path / "v.mha").array
    for _ in range(20):
        sitk.GetImageFromArray(np.ones(SHAPE[::-1], np.int16))
    np.testing.assert_array_equal(found, VOXELS)
    found += 1  # the voxels are nobody else's


# ---- other formats -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["hdr", "img", "img.gz", "gipl", "mhd", "mrc", "vtk"])
@pytest.mark.parametrize("grid", ["oblique", "lps-like"])
def test_formats_that_simpleitk_reads(tmp_path, ending, grid):
    image = sitk.GetImageFromArray(VOXELS.T)
    image.SetSpacing(GRIDS[grid].spacing)
    image.SetOrigin(GRIDS[grid].origin * LPS)
    image.SetDirection((LPS[:, None] * GRIDS[grid].direction).ravel())
    path = tmp_path / f"v.{ending}"
    sitk.WriteImage(image, tmp_path / "v.hdr" if ending == "img" else path)
    found, (voxels, place) = load(path), load_voxels(path)
    np.testing.assert_array_equal(found.array, VOXELS)
    np.testing.assert_array_equal(voxels, VOXELS)
    assert found.geometry.is_close(by_itk(path).geometry, 1e-4) and place == found.geometry
    assert read_header(path) == (SHAPE, place)
    if ending in ("hdr", "img"):
        assert_same_in_space(found, by_slicer(path))


@pytest.mark.parametrize("ending", ["mgz", "mgh"])
@pytest.mark.parametrize("grid", GRIDS)
def test_files_of_freesurfer_are_read_as_by_nibabel(tmp_path, ending, grid):
    nibabel.save(nibabel.MGHImage(VOXELS.astype(np.int32), GRIDS[grid].affine), tmp_path / f"v.{ending}")
    found = load(tmp_path / f"v.{ending}")
    assert found.array.dtype == np.int32 and found.geometry.is_close(GRIDS[grid], 1e-3)
    np.testing.assert_array_equal(found.array, VOXELS)
    (tmp_path / f"v.{ending}").write_bytes((tmp_path / f"v.{ending}").read_bytes()[:300])
    with pytest.raises(InputError, match="v.mg"):
        load(tmp_path / f"v.{ending}")


def test_an_analyze_file_is_placed_as_in_slicer_and_said_so(tmp_path, caplog):
    image = nibabel.AnalyzeImage(VOXELS, None)
    image.header.set_zooms((1.1, 1.7, 2.3))
    nibabel.save(image, tmp_path / "v.hdr")
    found = load(tmp_path / "v.hdr")
    np.testing.assert_array_equal(found.array, VOXELS)
    assert_same_in_space(found, by_slicer(tmp_path / "v.hdr"))
    assert "does not say where it lies" in caplog.text


@pytest.mark.parametrize("name", ["v.xyz", "v.jpg", "v"])
def test_what_nobody_can_read_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"hello" * 100)
    with pytest.raises(InputError, match="no image of a kind that can be read"):
        load(tmp_path / name)
