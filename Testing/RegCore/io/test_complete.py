"""Voxels that are missing or damaged are missed, also where SimpleITK takes zeros or its memory for them."""

import gzip
import re
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.io import load
from RegCore.space.geometry import InputError
from Testing.RegCore.grids import OBLIQUE, SHAPE

VOXELS = np.random.default_rng(3).integers(-700, 900, SHAPE).astype("<i2")
RAW = VOXELS.tobytes(order="F")
HEAD = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n{more}"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 4 -5 6\nElementSpacing = 0.9 1.2 2.3\n"
    "DimSize = 7 8 9\nElementType = MET_SHORT\nElementDataFile = {data}\n"
)


def written(folder, ending: str):
    """A file with the voxels in the format of the ending, and the file of its voxels."""
    path = folder / f"v.{ending}"
    if ending.startswith(("img", "hdr")):
        nibabel.save(nibabel.Nifti1Pair(VOXELS, OBLIQUE.affine), folder / "v.img")
        if ending.endswith("gz"):
            for name in ("v.img", "v.hdr"):
                (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
                (folder / name).unlink()
    else:
        sitk.WriteImage(sitk.GetImageFromArray(VOXELS.T), str(path), useCompression=ending[0] == "m")
    voxels = {"hdr": "v.img", "hdr.gz": "v.img.gz", "mhd": "v.zraw"}.get(ending, path.name)
    return path, folder / voxels


@pytest.mark.parametrize(
    "ending", ["img", "hdr", "img.gz", "hdr.gz", "gipl", "gipl.gz", "vtk", "mrc", "mha", "mhd"]
)
def test_a_file_without_all_its_voxels_is_refused(tmp_path, ending):
    path, voxels = written(tmp_path, ending)
    np.testing.assert_array_equal(load(path).array, VOXELS)
    good = voxels.read_bytes()
    for share in (0.6, 0.9, 0.999):
        voxels.write_bytes(good[: int(len(good) * share)])
        with pytest.raises(InputError, match=f"^{re.escape(str(path))}: .*cut short"):
            load(path)


@pytest.mark.parametrize("lines", [(b"LOOKUP",), (b"LOOKUP", b"SCALARS")])
def test_a_vtk_file_that_is_cut_is_refused_whatever_its_header_lacks(tmp_path, lines):
    path, _ = written(tmp_path, "vtk")
    good = path.read_bytes()
    for line in lines:
        good = good.replace(line, b"?" * len(line))
    path.write_bytes(good[: len(good) - VOXELS.nbytes // 2])
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: "):
        load(path)


@pytest.mark.parametrize("ending", ["img.gz", "gipl.gz", "mha", "mhd"])
def test_packed_voxels_that_are_damaged_are_refused(tmp_path, ending):
    path, voxels = written(tmp_path, ending)
    good, random = voxels.read_bytes(), np.random.default_rng(0)
    for _ in range(8):
        data = bytearray(good)
        data[random.integers(2 * len(good) // 3, len(good) - 20)] ^= 0x55
        voxels.write_bytes(data)
        with pytest.raises(InputError, match=r"damaged|cut short|no image"):
            load(path)


def test_a_scaled_pair_is_as_long_as_its_stored_voxels(tmp_path):
    header = nibabel.Nifti1Pair.header_class()
    header.set_data_dtype(np.uint8)
    nibabel.save(nibabel.Nifti1Pair(VOXELS / 7.0, OBLIQUE.affine, header), tmp_path / "v.img")
    expected = nibabel.load(tmp_path / "v.img").get_fdata()
    np.testing.assert_allclose(load(tmp_path / "v.hdr").array, expected, rtol=1e-5)


@pytest.mark.parametrize("more", ["", "CompressedDataSize = 11\n", "CompressedDataSize = 99999\n"])
@pytest.mark.parametrize("data", ["LOCAL", "below/voxels of it.z"])
@pytest.mark.parametrize("big", [False, True])
def test_packed_voxels_of_a_metaimage_whatever_size_is_named(tmp_path, more, data, big):
    """MetaIO takes memory for the voxels where the size is missing or too small."""
    packed = zlib.compress(VOXELS.astype(">i2").tobytes(order="F") if big else RAW)
    head = HEAD.format(more=f"CompressedData = True\n{more}", data=data)
    head = head.replace("MSB = False", f"MSB = {big}")
    local = data == "LOCAL"
    if not local:
        (tmp_path / "below").mkdir()
        (tmp_path / data).write_bytes(packed)
    (tmp_path / "v.mha").write_bytes(head.encode() + packed * local)
    found = load(tmp_path / "v.mha")
    np.testing.assert_array_equal(found.array, VOXELS)
    np.testing.assert_allclose(found.geometry.spacing, [0.9, 1.2, 2.3])


def test_packed_channels_of_a_metaimage(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(*SHAPE, 3)).astype(np.float32)
    image = sitk.GetImageFromArray(np.ascontiguousarray(vectors.transpose(2, 1, 0, 3)), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "f.mha"), useCompression=True)
    np.testing.assert_allclose(load(tmp_path / "f.mha", "transform").mm, vectors * [-1, -1, 1])


def lists(folder, data: str, names=(), packed: bool = False):
    """A header that names a file for each plane, all of which are there."""
    for k in range(SHAPE[2]):
        plane = VOXELS[:, :, k].tobytes(order="F")
        (folder / f"p{k:02}.raw").write_bytes(zlib.compress(plane) if packed else plane)
    more = "CompressedData = True\n" * packed
    (folder / "v.mhd").write_text(HEAD.format(more=more, data=data) + "".join(f"{name}\n" for name in names))
    return folder / "v.mhd"


PLANES = [f"p{k:02}.raw" for k in range(SHAPE[2])]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("data", "names"), [("LIST", PLANES), ("LIST 2D", PLANES), ("p%02d.raw 0 8 1", ())], ids=lambda x: str(x)
)
def test_planes_in_files_of_their_own(tmp_path, data, names, packed):
    path = lists(tmp_path, data, names, packed)
    np.testing.assert_array_equal(load(path).array, VOXELS)
    if packed:
        data = bytearray((tmp_path / "p04.raw").read_bytes())
        data[40] ^= 0x55
        (tmp_path / "p04.raw").write_bytes(data)
        with pytest.raises(InputError, match="damaged"):
            load(path)


@pytest.mark.parametrize(
    ("data", "names", "sentence"),
    [
        ("LIST", PLANES[:5], "9 files of voxels were expected, but the header names 5"),
        ("LIST", [*PLANES, "p00.raw"], "9 files of voxels were expected, but the header names 10"),
        ("p%02d.raw 3 8 1", (), "names 6"),
        ("p%02d.raw 0 8 3", (), "names 3"),
        ("LIST 3D", ["p00.raw"], "files of 3 axes each for a volume of 3"),
        ("p%s.raw 0 8 1", (), "a pattern such as"),
    ],
)
def test_a_header_names_as_many_files_as_it_needs(tmp_path, data, names, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))}/v.mhd: .*{re.escape(sentence)}"):
        load(lists(tmp_path, data, names))


def test_what_stands_before_packed_voxels_is_skipped_as_its_header_says(tmp_path):
    path, voxels = written(tmp_path, "mhd")
    header, data = path.read_text(), voxels.read_bytes()
    voxels.write_bytes(b"12345" + data)
    for count in (5, -1):
        path.write_text(header.replace("ElementType", f"HeaderSize = {count}\nElementType"))
        if count > 0:
            np.testing.assert_array_equal(load(path).array, VOXELS)
            np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, VOXELS)
        else:
            with pytest.raises(InputError, match=f"^{re.escape(str(path))}: "):
                load(path)
    path, _ = written(tmp_path, "mha")
    path.write_bytes(path.read_bytes().replace(b"ElementType", b"HeaderSize = -1\nElementType"))
    with pytest.raises(InputError, match="HeaderSize is -1"):
        load(path)


@pytest.mark.parametrize("numbers", ["1 9", "1 9 0", "1 9 -1"])
def test_a_pattern_of_files_without_a_step_is_refused_and_ends_no_process(tmp_path, numbers):
    path, _ = written(tmp_path, "mhd")
    lines = path.read_text().replace("CompressedData = True", "CompressedData = False").splitlines()
    lines[-1] = f"ElementDataFile = s%03d.raw {numbers}"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="lacks a step of at least 1"):
        load(path)
