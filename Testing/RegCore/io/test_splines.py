"""Splines as displacements: B-splines of every order, thin-plate splines and inverses that Slicer writes."""

import re

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.interpolate import BSpline, RBFInterpolator

from RegCore.io import load, load_chain, save
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform
from Testing.RegCore.grids import LPS, OBLIQUE, map_by_itk, smooth_field, tilted_affine

SIZE, STEP, START = np.array([9, 8, 7]), np.array([11.0, 13.0, 12.0]), np.array([-40.0, -45.0, -30.0])
CONTROL = np.random.default_rng(5).normal(size=(*SIZE, 3)) * 2  # LPS mm, at the control points
PLACES = np.random.default_rng(6).uniform(-12, 12, (200, 3)) + START + STEP * (SIZE - 1) / 2  # LPS mm


def by_definition(order: int) -> np.ndarray:
    """The places moved by the sum over the control points of their displacements times the basis."""
    base = BSpline.basis_element(np.arange(order + 2) - (order + 1) / 2, extrapolate=False)
    index = (PLACES - START) / STEP
    weights = [
        np.nan_to_num(base(index[:, axis, None] - np.arange(SIZE[axis]))) for axis in range(3)
    ]  # (N, count) each
    return PLACES + np.einsum("ni,nj,nk,ijkc->nc", *weights, CONTROL)


def parameters() -> list[float]:
    return CONTROL.transpose(3, 2, 1, 0).ravel().tolist()


def fixed() -> list[float]:
    return [*SIZE.astype(float), *START, *STEP, *np.eye(3).ravel()]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("ending", ["tfm", "h5"])
def test_b_splines_of_every_order_of_simpleitk(tmp_path, order, ending):
    spline = sitk.BSplineTransform(3, order)
    spline.SetFixedParameters(fixed())
    spline.SetParameters(parameters())
    sitk.WriteTransform(spline, str(tmp_path / f"t.{ending}"))
    found = load(tmp_path / f"t.{ending}").map(PLACES * LPS) * LPS
    np.testing.assert_allclose(found, by_definition(order), atol=0.02)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_b_splines_of_every_order_of_elastix(tmp_path, order):
    def line(name: str, values) -> str:
        return f"({name} {' '.join(repr(float(x)) for x in values)})\n"

    lines = '(Transform "BSplineTransform")\n(FixedImageDimension 3)\n(MovingImageDimension 3)\n'
    lines += line("TransformParameters", parameters()) + f"(BSplineTransformSplineOrder {order})\n"
    lines += line("GridSize", SIZE) + line("GridSpacing", STEP) + line("GridOrigin", START)
    (tmp_path / "TransformParameters.0.txt").write_text(lines + "(GridIndex 0 0 0)\n")
    found = load(tmp_path / "TransformParameters.0.txt").map(PLACES * LPS) * LPS
    np.testing.assert_allclose(found, by_definition(order), atol=0.02)


def test_an_order_that_nobody_writes_is_refused(tmp_path):
    spline = sitk.BSplineTransform(3, 0)
    sitk.WriteTransform(spline, str(tmp_path / "t.tfm"))
    with pytest.raises(InputError, match=r"order 1, 2 or 3 were expected, not of order 0"):
        load(tmp_path / "t.tfm")


# ---- as Slicer writes them ---------------------------------------------------------------------------------

LANDMARKS = np.random.default_rng(2).uniform(-40, 40, (12, 3))  # RAS mm
MOVED = LANDMARKS + np.random.default_rng(3).normal(size=(12, 3)) * 3
POINTS = np.random.default_rng(4).uniform(-60, 60, (100, 3))


def thin_plate_of_vtk():
    vtk = pytest.importorskip("vtk")
    sources, targets = vtk.vtkPoints(), vtk.vtkPoints()
    for source, target in zip(LANDMARKS, MOVED, strict=True):
        sources.InsertNextPoint(source)
        targets.InsertNextPoint(target)
    transform = vtk.vtkThinPlateSplineTransform()
    transform.SetSourceLandmarks(sources)
    transform.SetTargetLandmarks(targets)
    transform.SetBasisToR()
    return transform


def linear_of_vtk():
    transform = pytest.importorskip("vtk").vtkTransform()
    transform.RotateX(12)
    transform.Translate(3, -4, 5)
    return transform


def written_by_slicer(path, *transforms, inverse: bool = False):
    """A file of transforms one after the other, the node inverted or not; and where it takes points."""
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
    both = pytest.importorskip("vtk").vtkGeneralTransform()
    both.PostMultiply()
    for transform in transforms:
        both.Concatenate(transform)
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    node.SetAndObserveTransformFromParent(both if len(transforms) > 1 else transforms[0])
    if inverse:
        node.Inverse()
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(path))
    assert storage.WriteData(node)
    inner = node.GetTransformFromParent()
    return np.array([inner.TransformDoublePoint(point) for point in POINTS])


@pytest.mark.parametrize("ending", ["h5", "tfm"])
@pytest.mark.parametrize("inverse", [False, True])
def test_a_thin_plate_spline_of_slicer(tmp_path, ending, inverse):
    path = tmp_path / f"t.{ending}"
    expected = written_by_slicer(path, thin_plate_of_vtk(), inverse=inverse)
    np.testing.assert_allclose(load(path).map(POINTS), expected, atol=0.15)
    if not inverse:
        by_scipy = RBFInterpolator(LANDMARKS, MOVED - LANDMARKS, kernel="linear", degree=1)
        np.testing.assert_allclose(load(path).map(POINTS), POINTS + by_scipy(POINTS), atol=0.15)


def test_a_thin_plate_spline_behind_a_linear_transform(tmp_path):
    expected = written_by_slicer(tmp_path / "t.h5", linear_of_vtk(), thin_plate_of_vtk())
    np.testing.assert_allclose(load(tmp_path / "t.h5").map(POINTS), expected, atol=0.15)


def test_landmarks_that_make_no_thin_plate_spline_are_refused(tmp_path):
    head = "#Insight Transform File V1.0\nTransform: ThinPlateSplineKernelTransform_double_3_3\n"
    for values, words in (
        ([1.0, 2, 3], "3 and 3 numbers"),
        ([1.0] * 12, "in one plane, or two in one place"),
    ):
        numbers = " ".join(map(str, values))
        (tmp_path / "t.tfm").write_text(f"{head}Parameters: {numbers}\nFixedParameters: {numbers}\n")
        with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))}.*{words}"):
            load(tmp_path / "t.tfm")


@pytest.mark.parametrize("ending", ["h5", "tfm"])
def test_a_field_that_slicer_inverted(tmp_path, ending):
    """Slicer writes the field itself and the name of an inverse."""
    field = smooth_field(Geometry((24, 25, 26), np.diag([-5.0, -5.0, 5.0, 1.0])), mm=6.0)
    save(field, tmp_path / "field.h5")
    stored = sitk.ReadTransform(str(tmp_path / "field.h5"))
    sitk.WriteTransform(stored, str(tmp_path / "t.tfm"))
    if ending == "tfm":
        text = (tmp_path / "t.tfm").read_text().replace("Displacement", "InverseDisplacement")
        (tmp_path / "t.tfm").write_text(text)
    else:
        import h5py

        with h5py.File(tmp_path / "field.h5", "r+") as file:
            del file["TransformGroup/0/TransformType"]
            name = ["InverseDisplacementFieldTransform_double_3_3"]
            file["TransformGroup/0"].create_dataset("TransformType", data=name, dtype=h5py.string_dtype())
        (tmp_path / "field.h5").rename(tmp_path / "t.h5")
    places = field.geometry.to_world(np.random.default_rng(0).uniform(4, 20, (50, 3)))
    np.testing.assert_allclose(load(tmp_path / f"t.{ending}").map(field.map(places)), places, atol=0.1)


# ---- one after the other -----------------------------------------------------------------------------------


def test_a_fine_field_behind_a_coarse_one_keeps_what_it_does(tmp_path):
    """Sampled on the nodes of the coarse one alone it was 3 mm off."""
    coarse = smooth_field(Geometry((5, 6, 5), np.diag([-20.0, -20.0, 20.0, 1.0])), 1, sigma=1.0)
    fine = smooth_field(Geometry((46, 56, 46), np.diag([-2.0, -2.0, 2.0, 1.0])), 2, sigma=2.0)
    save(coarse, tmp_path / "coarse.h5")
    save(fine, tmp_path / "fine.h5")
    parts = [sitk.ReadTransform(str(tmp_path / f"{name}.h5")) for name in ("fine", "coarse")]
    sitk.WriteTransform(sitk.CompositeTransform(parts), str(tmp_path / "both.h5"))
    places = np.random.default_rng(0).uniform(8, 70, (200, 3)) * LPS
    expected = map_by_itk(sitk.ReadTransform(str(tmp_path / "both.h5")), places)
    np.testing.assert_allclose(expected, fine.map(coarse.map(places)), atol=1e-3)
    for found in (load(tmp_path / "both.h5"), load_chain([tmp_path / "coarse.h5", tmp_path / "fine.h5"])):
        assert np.linalg.norm(found.map(places) - expected, axis=1).mean() < 0.1
    save(tilted_affine(), tmp_path / "a.tfm")
    both = load_chain([tmp_path / "a.tfm", tmp_path / "a.tfm"])
    assert isinstance(both, AffineTransform)


def test_a_chain_of_equal_grids_stays_on_them(tmp_path):
    for seed in (1, 2):
        save(smooth_field(OBLIQUE, seed, mm=1.0), tmp_path / f"{seed}.h5")
    assert load_chain([tmp_path / "1.h5", tmp_path / "2.h5"]).geometry.is_close(OBLIQUE)
