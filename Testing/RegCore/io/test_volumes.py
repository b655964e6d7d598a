"""Volumes in files: written and read by us, SimpleITK, nibabel and Slicer, voxel by voxel and in place."""

import gzip
import tracemalloc

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.io import load, save
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume
from Testing.paths import DEEPREG, REAL
from Testing.RegCore.grids import GRIDS, LEFT_HANDED, LPS, OBLIQUE, SHAPE, SHEARED

FORMATS = ["nii", "nii.gz", "nrrd", "mha", "npz"]
ITK_FORMATS = FORMATS[:4]
TYPES = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]


def noise(shape=SHAPE, dtype="int16", seed=0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * 50).astype(dtype)


def place_of(image: sitk.Image) -> Geometry:
    """The grid of an image of SimpleITK, in RAS."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing() * LPS[:, None]
    matrix[:3, 3] = np.array(image.GetOrigin()) * LPS
    return Geometry(image.GetSize(), matrix)


def itk_image(array: np.ndarray, grid: Geometry) -> sitk.Image:
    """The image of SimpleITK with these voxels (I, J, K[, C]) at this place."""
    vector = array.ndim == 4
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0, 3) if vector else array.T, isVector=vector)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin * LPS)
    image.SetDirection((LPS[:, None] * grid.direction).ravel())
    return image


@pytest.mark.parametrize("ending", ITK_FORMATS)
@pytest.mark.parametrize("name", GRIDS)
def test_simpleitk_reads_what_we_write(tmp_path, name, ending):
    volume = Volume(noise(), GRIDS[name])
    save(volume, tmp_path / f"v.{ending}")
    image = sitk.ReadImage(tmp_path / f"v.{ending}")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, volume.array)
    assert place_of(image).is_close(volume.geometry, 1e-4)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("ending", [*ITK_FORMATS, "nhdr", "mhd"])
@pytest.mark.parametrize("name", GRIDS)
def test_we_read_what_simpleitk_writes(tmp_path, name, ending, compress):
    sitk.WriteImage(itk_image(noise(), GRIDS[name]), tmp_path / f"v.{ending}", compress)
    volume = load(tmp_path / f"v.{ending}")
    np.testing.assert_array_equal(volume.array, noise())
    assert volume.geometry.is_close(GRIDS[name], 1e-4)
    assert volume.kind == "image"


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_of_voxel_comes_back_as_it_was(tmp_path, dtype, ending):
    for order in "CF":
        volume = Volume(np.asarray(noise(dtype=dtype), order=order), LEFT_HANDED)
        save(volume, tmp_path / f"v.{ending}")
        back = load(tmp_path / f"v.{ending}")
        assert back.array.dtype == dtype
        np.testing.assert_array_equal(back.array, volume.array)
        assert back.geometry.is_close(LEFT_HANDED, 1e-4)
    if ending in ITK_FORMATS:
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / f"v.{ending}")).T, volume.array
        )


@pytest.mark.parametrize("ending", FORMATS)
def test_booleans_and_half_floats_find_a_type_that_files_have(tmp_path, ending):
    for array in (noise() > 0, noise(dtype="float16")):
        save(Volume(array, OBLIQUE), tmp_path / f"v.{ending}")
        np.testing.assert_array_equal(load(tmp_path / f"v.{ending}").array, array)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_sheared_grid_comes_back(tmp_path, ending):
    save(Volume(noise(), SHEARED), tmp_path / f"v.{ending}")
    assert load(tmp_path / f"v.{ending}").geometry.is_close(SHEARED, 1e-4)


@pytest.mark.parametrize("ending", FORMATS)
def test_labels_with_channels_come_back(tmp_path, ending):
    labels = Volume((noise((*SHAPE, 4)) > 0).astype(np.uint8), LEFT_HANDED, "labels")
    save(labels, tmp_path / f"seg.{ending}")
    back = load(tmp_path / f"seg.{ending}", "labels")
    np.testing.assert_array_equal(back.array, labels.array)
    assert back.kind == "labels"
    assert back.geometry.is_close(LEFT_HANDED, 1e-4)


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_channels_stand_where_simpleitk_looks_for_them(tmp_path, ending):
    channels = (noise((*SHAPE, 4)) > 0).astype(np.uint8)
    save(Volume(channels, OBLIQUE, "labels"), tmp_path / f"seg.{ending}")
    image = sitk.ReadImage(tmp_path / f"seg.{ending}")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0, 3), channels)
    sitk.WriteImage(itk_image(channels, OBLIQUE), tmp_path / f"itk.{ending}")
    np.testing.assert_array_equal(load(tmp_path / f"itk.{ending}", "labels").array, channels)


@pytest.mark.parametrize("ending", ITK_FORMATS)
@pytest.mark.parametrize("name", ["oblique", "left-handed"])
def test_slicer_reads_what_we_write(tmp_path, name, ending):
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
    vtk = pytest.importorskip("vtk")
    from vtk.util.numpy_support import vtk_to_numpy

    save(Volume(noise(), GRIDS[name]), tmp_path / f"v.{ending}")
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(tmp_path / f"v.{ending}"))
    assert storage.ReadData(node)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    found = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
    scalars = vtk_to_numpy(node.GetImageData().GetPointData().GetScalars()).reshape(SHAPE[::-1]).T
    index = Geometry(SHAPE, found).to_index(
        GRIDS[name].world_grid()
    )  # Slicer reverses an axis of left-handed grids
    np.testing.assert_allclose(index, np.rint(index), atol=1e-4)
    np.testing.assert_array_equal(scalars[tuple(np.moveaxis(np.rint(index).astype(int), -1, 0))], noise())


def nifti(tmp_path, array, affine, sform=1, qform=1, **fields):
    """A NIfTI file by nibabel, with codes and fields of the header as stated."""
    image = nibabel.Nifti1Image(array, None)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    for key, value in fields.items():
        image.header[key] = value
    nibabel.save(image, tmp_path / "n.nii.gz")
    return tmp_path / "n.nii.gz"


def test_the_sform_holds_where_only_it_has_a_code(tmp_path):
    path = nifti(tmp_path, noise(), OBLIQUE.affine, qform=0)
    assert load(path).geometry.is_close(OBLIQUE, 1e-4)


@pytest.mark.parametrize("grid", [OBLIQUE, LEFT_HANDED], ids=["oblique", "left-handed"])
def test_the_qform_holds_where_only_it_has_a_code(tmp_path, grid):
    path = nifti(tmp_path, noise(), grid.affine, sform=0, srow_x=[9, 9, 9, 9])
    assert load(path).geometry.is_close(grid, 1e-3)
    assert place_of(sitk.ReadImage(path)).is_close(load(path).geometry, 1e-4)


def test_without_codes_the_voxel_sizes_hold_as_for_simpleitk(tmp_path):
    path = nifti(tmp_path, noise(), OBLIQUE.affine, sform=0, qform=0)
    assert load(path).geometry.is_close(Geometry(SHAPE, np.diag([-1.1, -1.7, 2.3, 1])), 1e-4)
    assert place_of(sitk.ReadImage(path)).is_close(load(path).geometry, 1e-4)


def test_metres_become_millimetres_as_for_simpleitk(tmp_path):
    path = nifti(tmp_path, noise(), np.diag([0.001, 0.002, 0.003, 1]), xyzt_units=1)
    np.testing.assert_allclose(load(path).geometry.spacing, [1, 2, 3], rtol=1e-5)
    np.testing.assert_allclose(sitk.ReadImage(path).GetSpacing(), [1, 2, 3], rtol=1e-5)


def test_both_forms_are_written_a_sheared_grid_has_an_sform_only(tmp_path):
    for grid, code in ((LEFT_HANDED, 1), (SHEARED, 0)):
        save(Volume(noise(), grid), tmp_path / "v.nii")
        header = nibabel.load(tmp_path / "v.nii").header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, code)
        np.testing.assert_allclose(header.get_sform(), grid.affine, atol=1e-4)
        np.testing.assert_allclose(header.get_zooms(), grid.spacing, rtol=1e-6)
    save(Volume(noise(), LEFT_HANDED), tmp_path / "v.nii")
    np.testing.assert_allclose(
        nibabel.load(tmp_path / "v.nii").header.get_qform(), LEFT_HANDED.affine, atol=1e-4
    )


def test_scaled_voxels_are_what_nibabel_says_they_are(tmp_path):
    image = nibabel.Nifti1Image(noise(), OBLIQUE.affine)
    image.header.set_slope_inter(0.25, -1000)
    nibabel.save(image, tmp_path / "scaled.nii")
    raw = bytearray((tmp_path / "scaled.nii").read_bytes())
    raw[112:120] = np.array([0.25, -1000], "<f4").tobytes()  # nibabel rescales on saving, so set by hand
    (tmp_path / "scaled.nii").write_bytes(raw)
    volume = load(tmp_path / "scaled.nii")
    assert volume.array.dtype == np.float32
    assert np.ptp(volume.array) > 0
    np.testing.assert_allclose(volume.array, nibabel.load(tmp_path / "scaled.nii").get_fdata(), rtol=1e-6)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("endian", "<>")
def test_both_byte_orders_and_both_versions_of_nifti(tmp_path, endian, kind):
    header = kind.header_class(endianness=endian)
    header.set_data_dtype(np.dtype("int16").newbyteorder(endian))
    image = kind(noise().astype(f"{endian}i2"), OBLIQUE.affine, header)
    image.header.set_data_dtype(np.dtype("int16").newbyteorder(endian))
    nibabel.save(image, tmp_path / "v.nii")
    raw = (tmp_path / "v.nii").read_bytes()
    assert int.from_bytes(raw[:4], "little" if endian == "<" else "big") in (348, 540)
    volume = load(tmp_path / "v.nii")
    assert volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, noise())
    assert volume.geometry.is_close(OBLIQUE, 1e-4)


@pytest.mark.parametrize("shape", [(*SHAPE, 1), (*SHAPE, 1, 1)])
def test_one_frame_is_a_volume(tmp_path, shape):
    nibabel.save(nibabel.Nifti1Image(noise(shape), OBLIQUE.affine), tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(load(tmp_path / "v.nii.gz").array, noise())


@pytest.mark.parametrize("name", ["V.NII.GZ", "v.nii"])
def test_nifti_is_unzipped_by_content(tmp_path, name):
    save(Volume(noise(), OBLIQUE), tmp_path / "v.nii.gz")
    (tmp_path / "v.nii.gz").rename(tmp_path / name)
    np.testing.assert_array_equal(load(tmp_path / name).array, noise())


def test_gzip_of_several_members(tmp_path):
    save(Volume(noise(), OBLIQUE), tmp_path / "v.nii")
    raw = (tmp_path / "v.nii").read_bytes()
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(raw[:500]) + gzip.compress(raw[500:]))
    np.testing.assert_array_equal(load(tmp_path / "v.nii.gz").array, noise())


def nrrd_text(**changes) -> str:
    fields = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "7 8 9",
        "space directions": "(-1,0,0) (0,-2,0) (0,0,3)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(-10,-20,30)",
    }
    fields |= {key.replace("_", " "): value for key, value in changes.items()}
    return (
        "NRRD0004\n# a comment\n" + "".join(f"{k}: {v}\n" for k, v in fields.items() if v) + "key:=value\n\n"
    )


@pytest.mark.parametrize(
    ("space", "sign"),
    [("left-posterior-superior", (-1, -1, 1)), ("RAS", (1, 1, 1)), ("left-anterior-superior", (-1, 1, 1))],
)
@pytest.mark.parametrize("endian", ["little", "big"])
def test_the_spaces_and_byte_orders_of_nrrd(tmp_path, space, sign, endian):
    path = tmp_path / "v.nrrd"
    voxels = noise().astype("<i2" if endian == "little" else ">i2").tobytes(order="F")
    path.write_bytes(nrrd_text(space=space, endian=endian).encode() + voxels)
    volume = load(path)
    np.testing.assert_array_equal(volume.array, noise())
    np.testing.assert_allclose(volume.geometry.origin, np.array(sign) * [-10, -20, 30])
    np.testing.assert_allclose(volume.geometry.affine[:3, :3], np.diag(np.array(sign) * [-1, -2, 3]))
    assert place_of(sitk.ReadImage(path)).is_close(volume.geometry)


def test_nrrd_with_spacings_alone_is_lps_as_for_simpleitk(tmp_path):
    path = tmp_path / "v.nrrd"
    header = nrrd_text(space=None, space_directions=None, space_origin=None, spacings="1 2 3")
    path.write_bytes(header.encode() + noise().tobytes(order="F"))
    assert place_of(sitk.ReadImage(path)).is_close(load(path).geometry)


@pytest.mark.parametrize("skip", [{"line_skip": "1", "byte_skip": "3"}, {"byte_skip": "-1"}])
def test_nrrd_with_voxels_in_a_second_file(tmp_path, skip):
    (tmp_path / "v.raw").write_bytes(b"a line\n..." + noise().tobytes(order="F"))
    (tmp_path / "v.nhdr").write_text(nrrd_text(data_file="v.raw", **skip))
    np.testing.assert_array_equal(load(tmp_path / "v.nhdr").array, noise())


def test_big_endian_metaimage(tmp_path):
    save(Volume(noise(), LEFT_HANDED), tmp_path / "v.mha")
    head, tail = (tmp_path / "v.mha").read_bytes().split(b"ElementDataFile = LOCAL\n")
    head = head.replace(b"ByteOrderMSB = False", b"ByteOrderMSB = True")
    swapped = np.frombuffer(tail, "<i2").astype(">i2").tobytes()
    (tmp_path / "v.mha").write_bytes(head + b"ElementDataFile = LOCAL\n" + swapped)
    np.testing.assert_array_equal(load(tmp_path / "v.mha").array, noise())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "v.mha")).T, noise())


def test_labels_stored_as_floats_become_integers(tmp_path):
    for largest, dtype in ((300, np.int16), (70_000, np.int32)):
        values = np.abs(noise(dtype="float32")).round()
        values[0, 0, 0] = largest
        save(Volume(values, OBLIQUE), tmp_path / "seg.nii.gz")
        back = load(tmp_path / "seg.nii.gz", "labels")
        assert back.array.dtype == dtype
        np.testing.assert_array_equal(back.array, values)


def test_an_archive_knows_its_kind(tmp_path):
    save(Volume(np.abs(noise()), OBLIQUE, "labels"), tmp_path / "seg.npz")
    assert load(tmp_path / "seg.npz").kind == "labels"
    assert load(tmp_path / "seg.npz", "image").kind == "image"
    np.savez_compressed(tmp_path / "plain.npz", array=noise(), affine=OBLIQUE.affine)
    plain = load(tmp_path / "plain.npz")
    assert (plain.kind, plain.geometry) == ("image", OBLIQUE)


@pytest.mark.parametrize("ending", FORMATS)
def test_reading_and_writing_need_no_second_copy(tmp_path, ending):
    volume = Volume(np.zeros((200, 180, 160), np.int16), Geometry((200, 180, 160), np.eye(4)))
    tracemalloc.start()
    try:
        save(volume, tmp_path / f"v.{ending}")
        assert tracemalloc.get_traced_memory()[1] < 1.3 * volume.array.nbytes + 20e6 * (ending == "npz")
        tracemalloc.reset_peak()
        back = load(tmp_path / f"v.{ending}")
        assert tracemalloc.get_traced_memory()[1] < back.array.nbytes + 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd"])
def test_the_same_volume_gives_the_same_bytes(tmp_path, ending):
    for name in ("a", "b"):
        save(Volume(noise(), OBLIQUE), tmp_path / f"{name}.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_a_segmentation_of_slicer_in_layers_becomes_channels(tmp_path):
    layers = np.random.default_rng(0).integers(0, 3, (2, *SHAPE)).astype(np.uint8)
    header = nrrd_text(
        type="uchar",
        dimension="4",
        sizes="2 7 8 9",
        kinds="list domain domain domain",
        space_directions="none (-1,0,0) (0,-2,0) (0,0,3)",
    )
    marks = [(1, 0), (2, 0), (2, 1)]  # value and layer of each segment
    text = "".join(f"Segment{n}_LabelValue:={v}\nSegment{n}_Layer:={at}\n" for n, (v, at) in enumerate(marks))
    path = tmp_path / "s.seg.nrrd"
    path.write_bytes(header.encode()[:-1] + text.encode() + b"\n" + layers.tobytes(order="F"))
    volume = load(path)
    assert volume.kind == "labels"
    np.testing.assert_array_equal(volume.array, np.stack([layers[at] == v for v, at in marks], -1))
    path.write_bytes(path.read_bytes().replace(b"Segment2_Layer:=1", b"Segment2_Layer:=7"))
    with pytest.raises(InputError, match="segment2 in layer 7, but there are 2"):
        load(path)


@pytest.mark.parametrize("ending", ["nii.gz", "npz"])
def test_labels_come_back_as_labels_where_the_format_can_say_so(tmp_path, ending):
    save(Volume(np.abs(noise()), OBLIQUE, "labels"), tmp_path / f"s.{ending}")
    assert load(tmp_path / f"s.{ending}").kind == "labels"
    if ending == "nii.gz":
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "s.nii.gz")).T, abs(noise())
        )


@pytest.mark.parametrize("folder", [DEEPREG / "data/test/nifti/paired/test", *REAL], ids=lambda f: f.name)
def test_real_files_are_read_as_nibabel_reads_them(folder):
    paths = sorted(folder.rglob("*.nii.gz"))
    assert paths
    for path in paths:
        labels = any(word in str(path.relative_to(folder)) for word in ("seg", "mask", "labels"))
        kind = "labels" if labels else "image"
        volume, expected = load(path, kind), nibabel.load(path)
        np.testing.assert_array_equal(volume.array, np.asarray(expected.dataobj))
        np.testing.assert_allclose(volume.geometry.affine, expected.affine, atol=1e-6)
        if not labels or expected.get_data_dtype().kind != "f":  # labels are whole numbers
            assert volume.array.dtype == expected.get_data_dtype()
