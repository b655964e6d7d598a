"""Where a NIfTI volume lies: as in Slicer, whatever its two forms, their codes and slips of its writer."""

import nibabel
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from RegCore.io import load, read_header
from RegCore.space.geometry import Geometry, InputError
from Testing.RegCore.grids import SHAPE, affine
from Testing.RegCore.io.references import assert_same_in_space, by_itk, by_slicer

VOXELS = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
QFORM = affine()
ALIGNED = affine((0.2, 0.3, -0.25), origin=(36.0, -54.0, 93.0))
SHEAR = np.eye(4)
SHEAR[0, 1] = 0.5
SFORMS = {
    "the same": QFORM,
    "the same but for rounding": QFORM + 4e-5 * np.eye(4)[[3, 2, 1, 0]] * [1, 1, 1, 0],
    "another alignment": ALIGNED,
    "mirrored": affine(spacing=(-1.1, 1.7, 2.3)),
    "sheared": SHEAR @ QFORM,
    "another scale": QFORM @ np.diag([1.05, 1, 1, 1]),
    "another alignment and scale": ALIGNED @ np.diag([1, 1, 0.9, 1]),
    "zeros": np.zeros((4, 4)),
}
CODES = [(qform, sform) for qform in range(5) for sform in range(5)]


def nifti(path, codes=(1, 1), sform=QFORM, kind=nibabel.Nifti1Header, end=b"", **fields):
    """A NIfTI file of `VOXELS`: the codes of qform and sform, the sform, and fields as they are stated."""
    header = kind()
    header.set_data_dtype(np.int16)
    header.set_data_shape(SHAPE)
    header["pixdim"][1:4] = 1.1, 1.7, 2.3
    header.set_qform(QFORM, 1)
    header["qform_code"], header["sform_code"] = codes
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = 1, 0, header.single_vox_offset
    for row, axis in enumerate("xyz"):
        header[f"srow_{axis}"] = sform[row]
    for key, value in fields.items():
        header[key] = value
    gap = bytes(header.single_vox_offset - len(header.binaryblock))
    path.write_bytes(header.binaryblock + gap + VOXELS.tobytes(order="F") + end)
    return path


def assert_as_in_slicer(path):
    found, itk = load(path), by_itk(path)
    assert itk is not None
    np.testing.assert_array_equal(found.array, VOXELS)
    assert found.geometry.is_close(itk.geometry, 1e-3)
    assert_same_in_space(found, by_slicer(path))
    assert read_header(path) == (SHAPE, found.geometry)


@pytest.mark.parametrize("codes", CODES, ids=str)
@pytest.mark.parametrize("sform", SFORMS)
def test_a_volume_lies_where_slicer_and_simpleitk_put_it(tmp_path, codes, sform):
    path = nifti(tmp_path / "v.nii", codes, SFORMS[sform])
    if codes[0] > 0 or codes[1] == 0 or sform not in ("sheared", "zeros"):
        assert_as_in_slicer(path)
        return
    assert by_itk(path) is None and by_slicer(path) is None  # no other form is left
    if sform == "zeros":
        with pytest.raises(InputError, match="axis I is 0 mm"):
            load(path)
    else:
        np.testing.assert_allclose(load(path).geometry.affine, SFORMS[sform], atol=1e-5)


@pytest.mark.parametrize("spacing", [(1.1, 1.7, 2.3), (2.0, 2.0, 2.0)], ids=["uneven", "even"])
def test_mirror_images_and_turns_of_the_same_sizes_lie_where_itk_decides(tmp_path, spacing):
    """For some directions ITK takes a mirrored sform for the same as the qform, for others it does not."""
    rng, taken = np.random.default_rng(3), []
    for number in range(24):
        sform = np.eye(4)
        sform[:3, :3] = Rotation.random(random_state=number).as_matrix() * spacing
        sform[:3, 3] = rng.uniform(-90, 90, 3)
        other = sform.copy()
        other[:3, :3] *= [(1, 1, -1), (-1, 1, 1), (-1, -1, 1)][number % 3]
        image = nibabel.Nifti1Image(VOXELS, sform)
        image.header.set_qform(other, 2)
        image.header.set_sform(sform, int(rng.integers(2, 5)))
        nibabel.save(image, tmp_path / "v.nii")
        found, itk = load(tmp_path / "v.nii").geometry, by_itk(tmp_path / "v.nii")
        assert found.is_close(itk.geometry, 1e-3)
        taken.append(bool(np.allclose(found.affine, sform, atol=1e-3)))
    assert 0 < sum(taken) < len(taken)


@pytest.mark.parametrize(
    ("codes", "sform", "words"),
    [
        ((1, 2), "another alignment", "nibabel and FSL take"),
        ((1, 1), "sheared", "nibabel and FSL take"),
        ((1, 1), "another alignment and scale", "nibabel and FSL take"),
        ((0, 1), "sheared", "sheared, which Slicer and ITK refuse"),
        ((1, 1), "another alignment", None),
        ((2, 0), "another alignment", None),
        ((0, 3), "mirrored", None),
        ((1, 3), "the same but for rounding", None),
    ],
    ids=str,
)
def test_where_readers_disagree_a_warning_says_so(tmp_path, caplog, codes, sform, words):
    load(nifti(tmp_path / "v.nii", codes, SFORMS[sform]))
    assert [words in record.getMessage() for record in caplog.records] == ([] if words is None else [True])


REPAIRS = {
    "frames of zero": {"dim": [4, *SHAPE, 0, 0, 0, 0]},
    "more frames of zero": {"dim": [7, *SHAPE, 1, 0, 0, -1]},
    "no qfac": {"pixdim": [0, 1.1, 1.7, 2.3, 0, 0, 0, 0]},
    "a fraction as qfac": {"pixdim": [-0.5, 1.1, 1.7, 2.3, 0, 0, 0, 0]},
    "a size of 0": {"pixdim": [1, 1.1, 0, 2.3, 0, 0, 0, 0]},
    "a size that is no number": {"pixdim": [-1, np.nan, 1.7, np.inf, 0, 0, 0, 0]},
    "metres": {"xyzt_units": 1},
    "micrometres": {"xyzt_units": 3},
    "an unknown code": {"sform_code": 7},
    "negative codes": {"sform_code": -1, "qform_code": -1},
}


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1), (1, 2)], ids=str)
@pytest.mark.parametrize("repair", REPAIRS)
def test_slips_that_slicer_repairs_are_repaired(tmp_path, codes, repair):
    assert_as_in_slicer(nifti(tmp_path / "v.nii", codes, ALIGNED, **REPAIRS[repair]))


def test_a_size_that_was_made_up_is_said(tmp_path, caplog):
    load(nifti(tmp_path / "v.nii", (1, 1), pixdim=[1, 1.1, 0, 2.3, 0, 0, 0, 0]))
    assert "a voxel size is 0 or no number" in caplog.text


@pytest.mark.parametrize("excess", [1e-7, 4e-6, 1e-3])
def test_a_quaternion_that_rounding_made_too_long_is_shortened(tmp_path, excess):
    vector = np.array([0.6, -0.7, 0.0])
    vector[2] = np.sqrt(1 + excess - vector @ vector)
    fields = dict(zip(("quatern_b", "quatern_c", "quatern_d"), vector, strict=True))
    assert_as_in_slicer(nifti(tmp_path / "v.nii", (1, 0), **fields))
    with pytest.raises(InputError, match="its quaternion has the length 1.38"):
        load(nifti(tmp_path / "v.nii", (1, 0), quatern_b=1.0, quatern_c=0.95, quatern_d=0.0))


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1), (1, 2), (0, 0)], ids=str)
def test_the_sign_of_voxel_sizes_is_ignored_as_by_nibabel(tmp_path, caplog, codes):
    sizes = [1, 1.1, -1.7, 2.3, 0, 0, 0, 0]
    path = nifti(tmp_path / "v.nii", codes, **{"pixdim": sizes})
    expected = QFORM if any(codes) else np.diag([-1.1, -1.7, 2.3, 1])
    np.testing.assert_allclose(load(path).geometry.affine, expected, atol=1e-5)
    assert "its sign is ignored" in caplog.text
    if codes == (1, 0):
        np.testing.assert_allclose(nibabel.load(path).affine, expected, atol=1e-5)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Header, nibabel.Nifti2Header])
@pytest.mark.parametrize("offset", [0, 100, 348])
@pytest.mark.parametrize("gap", [0, 4])
def test_voxels_that_the_header_puts_too_early_follow_it(tmp_path, kind, offset, gap):
    """The NIfTI library begins right behind the header, most writers 4 bytes later; the length tells."""
    path = nifti(tmp_path / "v.nii", kind=kind, vox_offset=offset)
    raw = path.read_bytes()
    head = len(raw) - VOXELS.nbytes - 4
    path.write_bytes(raw[:head] + raw[len(raw) - VOXELS.nbytes - gap :])
    np.testing.assert_array_equal(load(path).array, VOXELS)
    assert read_header(path)[0] == SHAPE
    if gap == 0 and kind is nibabel.Nifti1Header:
        assert_as_in_slicer(path)


@pytest.mark.parametrize("count", range(348, 540, 16))
def test_a_nifti_2_shorter_than_its_header_gets_its_sentence(tmp_path, count):
    path = nifti(tmp_path / "v.nii", kind=nibabel.Nifti2Header)
    path.write_bytes(path.read_bytes()[:count])
    with pytest.raises(InputError, match="the file is cut short: 540 bytes promised"):
        load(path)


# ---- labels with a scale factor ---------------------------------------------------------------------------


@pytest.mark.parametrize("highest", [*range(1, 60, 8), 85, 117, 132, 207, 249])
@pytest.mark.parametrize("lowest", [0, -5])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.float32])
def test_labels_that_nibabel_scaled_are_whole_again(tmp_path, highest, lowest, dtype):
    drawn = np.random.default_rng(0).integers(lowest, highest + 1, SHAPE)
    drawn.flat[:2] = lowest, highest
    image = nibabel.Nifti1Image(drawn.astype(np.float64), QFORM)
    image.set_data_dtype(dtype)
    nibabel.save(image, tmp_path / "seg.nii.gz")
    np.testing.assert_array_equal(load(tmp_path / "seg.nii.gz", "labels").array, drawn)


def test_what_scaling_can_not_have_changed_is_no_label(tmp_path):
    image = nibabel.Nifti1Image(np.full(SHAPE, 300.5), QFORM)
    nibabel.save(image, tmp_path / "half.nii.gz")
    with pytest.raises(InputError, match="whole numbers, but it holds 300.5"):
        load(tmp_path / "half.nii.gz", "labels")
    image = nibabel.Nifti1Image(np.arange(np.prod(SHAPE)).reshape(SHAPE) * 1.7, QFORM)
    image.set_data_dtype(np.uint8)  # a step of 3.4 can not be undone
    nibabel.save(image, tmp_path / "wide.nii.gz")
    with pytest.raises(InputError, match="whole numbers, but it holds 1"):
        load(tmp_path / "wide.nii.gz", "labels")


# ---- deformations of SPM -----------------------------------------------------------------------------------


def test_a_deformation_of_spm_holds_places(tmp_path):
    """y_*.nii: where each voxel of the template lies in the subject, RAS mm; ITK would take it for shifts."""
    grid = Geometry(SHAPE, QFORM)
    shifts = np.random.default_rng(0).normal(size=(*SHAPE, 3)) * 4
    image = nibabel.Nifti1Image((grid.world_grid() + shifts)[:, :, :, None].astype(np.float32), QFORM)
    image.header.set_intent("vector", name="Mapping")
    nibabel.save(image, tmp_path / "y_head.nii")
    found = load(tmp_path / "y_head.nii", "transform")
    np.testing.assert_allclose(found.mm, shifts, atol=1e-4)
    assert found.geometry.is_close(grid, 1e-4)
