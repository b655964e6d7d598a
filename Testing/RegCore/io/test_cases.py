"""Inputs of real life, each after a public report, are read as they should be; numbered as their folders.

The small files lie in ../shared/cases; where they are not there, the tests are skipped. The same properties
are tested with files made on the spot in test_places, test_formats, test_transforms, test_segmentations and
test_points.
"""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.cli import main
from RegCore.io import load
from RegCore.io.points import load_landmarks, load_points
from RegCore.space.geometry import Geometry
from Testing.paths import SHARED
from Testing.RegCore.io.references import assert_same_in_space, by_slicer

CASES = SHARED / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the inputs of real life are not here")


def case(number: int, name: str = ""):
    """A file of a case, or its folder."""
    (folder,) = CASES.glob(f"{number:02}-*")
    return folder / name


def test_01_labels_with_a_scale_factor():
    found = load(case(1, "seg.nii.gz"), "labels")
    expected = np.rint(nibabel.load(case(1, "seg.nii.gz")).get_fdata())
    np.testing.assert_array_equal(found.array, expected)
    assert found.labels() == list(range(1, 18))


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (3, "q.nii"), (6, "d.nii"), (8, "s.nii"), (9, "fixed.nii.gz"), (9, "moving.nii"),
        (11, "fixed.nii.gz"), (11, "moving.nii"), (13, "a.nrrd"), (15, "s.nrrd"), (17, "a.nrrd"),
        (18, "n.nrrd"), (19, "v.nhdr"), (22, "e.mha"), (23, "l.mha"), (24, "list.mhd"), (24, "pattern.mhd"),
        (45, "pair.hdr"), (45, "pair.img"), (45, "old.hdr"),
    ],
)  # fmt: skip
def test_files_that_lie_where_slicer_puts_them(number, name):
    assert_same_in_space(load(case(number, name)), by_slicer(case(number, name)))


def test_05_the_sign_of_a_voxel_size_is_ignored():
    found = load(case(5, "n.nii"))
    np.testing.assert_allclose(found.geometry.affine, nibabel.load(case(5, "n.nii")).affine, atol=1e-5)
    np.testing.assert_allclose(found.geometry.spacing, [0.9, 1.1, 2.5], atol=1e-5)


def test_09_and_11_say_that_readers_disagree(caplog):
    for number in (9, 11):
        caplog.clear()
        load(case(number, "moving.nii"))
        assert "nibabel and FSL take" in caplog.text


def test_13_and_22_have_the_place_that_their_headers_say():
    place = load(case(13, "a.nrrd")).geometry
    np.testing.assert_allclose(place.origin, [19.55, 29.45, 11.25])
    np.testing.assert_allclose(place.spacing, [0.9, 1.1, 2.5])
    np.testing.assert_allclose(load(case(22, "e.mha")).geometry.spacing, [0.9, 1.1, 2.5])


@pytest.mark.parametrize(
    ("number", "name", "point", "expected"),
    [
        (21, "field.nrrd", (4, 3, -5), (3.377, 2.503, -4.781)),
        (25, "t.tfm", (12, -7, 5), (5.0293, -2.5416, 17.4237)),
        (27, "t.h5", (12, -7, 5), (10.062, -6.4916, 9.6269)),
        (29, "t.mat", (12, -7, 5), (9.0101, -6.1029, 10.5506)),
        (30, "t.tfm", (12, -7, 5), (13.4456, 5.9493, 7.8825)),
    ],
)
def test_transforms_map_a_point_where_it_belongs(number, name, point, expected):
    tolerance = 0.01 if number == 27 else 1e-3
    np.testing.assert_allclose(load(case(number, name), "transform").map(point), expected, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("number", [31, 33])
def test_segments_of_the_same_name_are_paired(tmp_path, number):
    files = [f"--{side}={case(number, f'{side}.nrrd')}" for side in ("fixed", "moving")]
    files += [f"--{side}-seg={case(number, f'{side}.seg.nrrd')}" for side in ("fixed", "moving")]
    assert main(["register", *files, "--method=affine", "--quiet", "--device=cpu", f"--out={tmp_path}"]) == 0
    transform, fixed = sitk.ReadTransform(tmp_path / "transform.h5"), load(case(number, "fixed.seg.nrrd"))
    inside = fixed.array != 0 if fixed.array.ndim == 3 else fixed.array.any(-1)
    places = fixed.geometry.to_world(np.argwhere(inside)[::50])
    signs = np.array([-1.0, -1, 1])
    moved = np.array([transform.TransformPoint(place) for place in places * signs]) * signs
    shift = load(case(number, "fixed.nrrd")).geometry.affine[:3, :3] @ [3, -2, 1]
    # in 33 the moving kidney is drawn twice as large as the fixed one, so the structures pull a little
    assert np.linalg.norm(moved - places - shift, axis=1).mean() < {31: 0.3, 33: 0.5}[number]
    structures = json.loads((tmp_path / "metrics.json").read_text())["structures"]
    assert set(structures.values()) == {"Liver", "Kidney"}


def test_35_warping_keeps_names_colours_and_terminology(tmp_path):
    command = [
        "warp",
        "--labels",
        "-i",
        str(case(35, "moving.seg.nrrd")),
        "--transform",
        str(case(35, "t.tfm")),
    ]
    out = tmp_path / "warped.seg.nrrd"
    assert main([*command, "--reference", str(case(35, "fixed.nrrd")), "-o", str(out)]) == 0
    assert load(out).segments == load(case(35, "moving.seg.nrrd")).segments
    assert [segment.name for segment in load(out).segments] == ["Liver", "Kidney"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "suffix"), [(42, "nii.gz"), (63, "nrrd")])
def test_42_and_63_what_is_no_measurement_does_not_count(tmp_path, caplog, number, suffix):
    files = [f"--{side}={case(number, f'{side}.{suffix}')}" for side in ("fixed", "moving")]
    assert main(["register", *files, "--method=rigid", "--quiet", "--device=cpu", f"--out={tmp_path}"]) == 0
    fixed = load(case(number, f"fixed.{suffix}"))
    shift = fixed.geometry.affine[:3, :3] @ [3, -2, 1]
    found = load(tmp_path / "transform.h5").map(fixed.geometry.centre) - fixed.geometry.centre
    assert np.linalg.norm(found - shift) < 0.1 * fixed.geometry.spacing.mean()
    assert "of the voxels hold no measurement" in caplog.text


def test_44_landmarks_of_slicer_and_transformix():
    for names in (("fixed.fcsv", "moving.mrk.json"), ("fixed.mrk.json", "moving.fcsv")):
        pairs = load_landmarks(*(case(44, name) for name in names))
        np.testing.assert_allclose(pairs[0], [7.4, 5.1, -4.0, 6.2, 6.2, -3.0], atol=1e-9)
    np.testing.assert_allclose(load_points(case(44, "inputpoints.txt")).places, pairs[:, :3], atol=1e-9)


def test_45_a_file_of_freesurfer():
    found, expected = load(case(45, "t1.mgz")), nibabel.load(case(45, "t1.mgz"))
    np.testing.assert_array_equal(found.array, np.asarray(expected.dataobj))
    assert found.geometry.is_close(Geometry(expected.shape, expected.affine), 1e-4)
