"""``regcore warp`` and ``deepreg_warp``: values against SciPy and formulas, places, names, errors."""

import logging

import nibabel
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

import RegCore.io
from RegCore.cli import deepreg, main, warp
from RegCore.io import load, save
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume
from Testing.RegCore.grids import affine

SHAPE, FIXED_SHAPE = (7, 8, 9), (6, 9, 5)
RANDOM = np.random.default_rng(3)
IMAGE = (RANDOM.random(SHAPE) * 100).astype(np.float32)
DDF = RANDOM.normal(0, 2, (*FIXED_SHAPE, 3)).astype(np.float32)
OBLIQUE = affine((0.2, -0.1, 1.4), (1.4, 1.9, 3.0), (10.0, -20.0, 5.0))


def nifti(path, array, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return str(path)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """An image with a place of its own and a DDF with another, in the folder of work."""
    monkeypatch.chdir(tmp_path)
    nifti(tmp_path / "image.nii.gz", IMAGE, np.diag([2, 1.5, 3, 1]))
    nifti(tmp_path / "ddf.nii.gz", DDF, OBLIQUE)
    return tmp_path


def pulled(image, ddf, order=1):
    """image(i + ddf(i)) by SciPy."""
    index = np.stack(np.meshgrid(*map(np.arange, ddf.shape[:3]), indexing="ij")) + np.moveaxis(ddf, -1, 0)
    if order == 0:  # halves up, as everywhere here
        index = np.floor(index + 0.5)
    return map_coordinates(image, index, order=order, mode="nearest")


def test_values_are_those_of_scipy_and_the_place_is_that_of_the_ddf(files):
    assert deepreg.warp(["-i", "image.nii.gz", "-d", "ddf.nii.gz"]) == 0
    found = nibabel.load("warped.nii.gz")
    np.testing.assert_allclose(found.get_fdata(), pulled(IMAGE, DDF), atol=1e-3)
    np.testing.assert_allclose(found.affine, OBLIQUE, atol=1e-5)
    assert found.get_data_dtype() == np.float32


def test_work_in_slabs_changes_nothing(files, monkeypatch):
    monkeypatch.setattr(warp, "SLAB_VOXELS", 50)
    assert main(["warp", "-i", "image.nii.gz", "-d", "ddf.nii.gz"]) == 0
    np.testing.assert_allclose(nibabel.load("warped.nii.gz").get_fdata(), pulled(IMAGE, DDF), atol=1e-3)


@pytest.mark.parametrize("channels", [(), (2,)])
def test_no_displacement_changes_nothing_unless_deepreg_is_asked_for(files, channels):
    image = (RANDOM.random((*SHAPE, *channels)) * 9 + 1).astype(np.float32)
    nifti(files / "image.nii.gz", image)
    nifti(files / "zero.nii.gz", np.zeros((*SHAPE, 3), np.float32))
    common = ["warp", "-i", "image.nii.gz", "-d", "zero.nii.gz"]
    assert main([*common, "-o", "same.nii"]) == 0
    np.testing.assert_allclose(nibabel.load("same.nii").get_fdata(), image, rtol=1e-5)
    assert main([*common, "-o", "blanked.nii", "--deepreg"]) == 0
    blanked = nibabel.load("blanked.nii").get_fdata()
    np.testing.assert_allclose(blanked[1:, 1:, 1:], image[1:, 1:, 1:], rtol=1e-5)
    assert not blanked[0].any() and not blanked[:, 0].any() and not blanked[:, :, 0].any()


def test_a_segmentation_keeps_its_values_and_its_type(files):
    labels = RANDOM.integers(0, 4, SHAPE).astype(np.int16)
    nifti(files / "labels.nii.gz", labels)
    assert main(["warp", "-i", "labels.nii.gz", "-d", "ddf.nii.gz", "--labels"]) == 0
    found = load("warped.nii.gz")
    assert found.kind == "labels" and found.array.dtype == np.int16
    np.testing.assert_array_equal(found.array, pulled(labels, DDF, order=0))


def test_channels_of_a_segmentation_are_cut_at_one_half(files):
    channels = (RANDOM.random((*SHAPE, 2)) > 0.4).astype(np.uint8)
    nifti(files / "labels.nii.gz", channels)
    assert main(["warp", "-i", "labels.nii.gz", "-d", "ddf.nii.gz", "--labels"]) == 0
    found = load("warped.nii.gz", "labels").array
    soft = np.stack([pulled(channels[..., c].astype(float), DDF) for c in (0, 1)], -1)
    clear = np.abs(soft - 0.5) > 1e-4
    np.testing.assert_array_equal(found[clear], (soft > 0.5)[clear])


def test_a_reference_gives_the_place(files):
    other = np.diag([-1.0, 2.0, 1.0, 1.0])
    nifti(files / "fixed.nii.gz", np.zeros(FIXED_SHAPE, np.float32), other)
    assert main(["warp", "-i", "image.nii.gz", "-d", "ddf.nii.gz", "--reference", "fixed.nii.gz"]) == 0
    np.testing.assert_allclose(nibabel.load("warped.nii.gz").affine, other)


def plane(geometry, matrix=None):
    """2 x - y + 3 z at the points of a grid, moved by a matrix."""
    points = geometry.world_grid()
    if matrix is not None:
        points = AffineTransform(matrix).map(points)
    return points @ [2.0, -1.0, 3.0]


@pytest.mark.parametrize("form", ["affine", "field"])
def test_a_transform_in_space_takes_fixed_points_to_moving_ones(files, form):
    moving = Geometry((20, 19, 18), OBLIQUE)
    fixed = Geometry(FIXED_SHAPE, np.diag([-1.2, 1.1, 1.3, 1])).moved(
        np.array(
            [
                [1, 0, 0, moving.centre[0]],
                [0, 1, 0, moving.centre[1]],
                [0, 0, 1, moving.centre[2]],
                [0, 0, 0, 1],
            ]
        )
    )
    matrix = np.eye(4)
    matrix[:3, 3] = (1.5, -2, 1)
    transform = AffineTransform(matrix)
    save(Volume(plane(moving).astype(np.float32), moving), "moving.nii.gz")
    save(Volume(np.zeros(FIXED_SHAPE, np.float32), fixed), "fixed.nrrd")
    save(transform if form == "affine" else DisplacementField.from_affine(transform, fixed), "t.h5")
    reference = ["--reference", "fixed.nrrd"] if form == "affine" else []
    assert main(["warp", "-i", "moving.nii.gz", "--transform", "t.h5", "-o", "out.nrrd", *reference]) == 0
    found = load("out.nrrd")
    assert found.geometry.is_close(fixed)
    index = moving.to_index(transform.map(fixed.world_grid()))
    inside = ((index > 0) & (index < np.array(moving.shape) - 1)).all(-1)
    assert inside.sum() > 50
    np.testing.assert_allclose(found.array[inside], plane(fixed, matrix)[inside], atol=1e-3)


@pytest.mark.parametrize(
    ("given", "written", "warns"),
    [
        ("rel.nii.gz", "rel.nii.gz", False),
        ("sub/deep/out.nii", "sub/deep/out.nii", False),
        ("sub/out.txt", "sub/warped.nii.gz", True),
        ("out", "warped.nii.gz", True),
        ("sub/", "sub/warped.nii.gz", False),
        ("there", "there/warped.nii.gz", False),
        ("", "warped.nii.gz", False),
        ("out.mha", "out.mha", False),
    ],
)
def test_names_of_the_output(files, caplog, given, written, warns):
    (files / "there").mkdir()
    with caplog.at_level(logging.INFO, "RegCore"):
        assert deepreg.warp(["-i", "image.nii.gz", "-d", "ddf.nii.gz", "-o", given]) == 0
    assert load(written).array.shape == FIXED_SHAPE
    assert sum(path.is_file() for path in files.rglob("*")) == 3
    assert any(record.levelno == logging.WARNING for record in caplog.records) == warns


def with_nan(files):
    ddf = DDF.copy()
    ddf[1, 2, 3, 0] = np.nan
    nifti(files / "bad.nii.gz", ddf)


def letter(files):
    (files / "letter.jpg").write_text("hello")


BAD = {
    "there is no such file": (["-i", "nope.nii.gz", "-d", "ddf.nii.gz"], None),
    "no image of a kind": (["-i", "letter.jpg", "-d", "ddf.nii.gz"], letter),
    "a DDF of shape (I, J, K, 3) was expected, but it is (7, 8, 9)": (
        ["-i", "image.nii.gz", "-d", "image.nii.gz"],
        None,
    ),
    "must be finite": (["-i", "image.nii.gz", "-d", "bad.nii.gz"], with_nan),
    "the reference has the shape": (
        ["-i", "image.nii.gz", "-d", "ddf.nii.gz", "--reference", "image.nii.gz"],
        None,
    ),
    "a label map must hold whole numbers": (["-i", "image.nii.gz", "-d", "ddf.nii.gz", "--labels"], None),
    "it is for --ddf only": (["-i", "image.nii.gz", "--transform", "t.tfm", "--deepreg"], None),
    "give one with --reference": (["-i", "image.nii.gz", "--transform", "t.tfm"], None),
    "nothing of it lies on the grid": (
        ["-i", "image.nii.gz", "--transform", "t.tfm", "--reference", "ddf.nii.gz"],
        None,
    ),
    "displacements in mm": (["-i", "image.nii.gz", "-d", "mm.nii.gz"], None),
    "one of the arguments --ddf/-d --transform is required": (["-i", "image.nii.gz"], None),
    "not allowed with argument": (["-i", "image.nii.gz", "-d", "ddf.nii.gz", "--transform", "t.tfm"], None),
}


@pytest.mark.parametrize("sentence", BAD)
def test_what_is_wrong_is_said_in_a_sentence_and_nothing_is_written(files, capsys, sentence):
    arguments, prepare = BAD[sentence]
    far = np.eye(4)
    far[:3, 3] = 900
    save(AffineTransform(far), "t.tfm")
    save(DisplacementField.from_affine(AffineTransform.identity(), Geometry(SHAPE, np.eye(4))), "mm.nii.gz")
    if prepare:
        prepare(files)
    assert deepreg.warp([*arguments, "-o", "new/out.nii.gz"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("deepreg_warp: error: ") and sentence in lines[0]
    assert not (files / "new").exists()


def test_a_failure_while_writing_leaves_what_was_there(files, monkeypatch):
    (files / "warped.nii.gz").write_text("old")

    def fail(array, dtype):
        yield b"the first part"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RegCore.io.nifti, "fortran_blocks", fail)
    assert deepreg.warp(["-i", "image.nii.gz", "-d", "ddf.nii.gz"]) == 2
    assert (files / "warped.nii.gz").read_text() == "old"
    assert sorted(path.name for path in files.iterdir()) == ["ddf.nii.gz", "image.nii.gz", "warped.nii.gz"]


def test_a_scan_is_not_warped_by_a_ddf_in_voxels_of_the_network(files, capsys):
    """Beside a predicted DDF lies the moving image as the network saw it: the only grid that it fits."""
    seen = IMAGE[:5, ::2, ::3]
    nifti(files / "moving_image.nii.gz", seen, np.diag([2, 3, 9, 1]))
    assert deepreg.warp(["-i", "image.nii.gz", "-d", "ddf.nii.gz"]) == 2
    error = capsys.readouterr().err
    assert "image.nii.gz: this image is on another grid" in error and "(7, 8, 9), not (5, 4, 3)" in error
    assert "--transform transform.h5" in error and not (files / "warped.nii.gz").exists()
    nifti(files / "elsewhere.nii.gz", seen, np.diag([2, 3, 8, 1]))
    assert deepreg.warp(["-i", "elsewhere.nii.gz", "-d", "ddf.nii.gz"]) == 2
    assert "of one shape but elsewhere" in capsys.readouterr().err
    assert deepreg.warp(["-i", "moving_image.nii.gz", "-d", "ddf.nii.gz"]) == 0
    np.testing.assert_allclose(nibabel.load("warped.nii.gz").get_fdata(), pulled(seen, DDF), atol=1e-3)
    nifti(files / "nowhere.nii.gz", seen)
    assert deepreg.warp(["-i", "nowhere.nii.gz", "-d", "ddf.nii.gz"]) == 0
