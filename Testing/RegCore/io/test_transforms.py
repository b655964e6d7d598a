"""Transform files: what we, SimpleITK and Slicer write maps points to the same place for all three.

The fields are rough and the grids oblique, anisotropic and left-handed, so that a sign (LPS/RAS), an order
of axes or a direction that is wrong is an error of millimetres; one test makes sure of that.
"""

import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.io import load, save
from RegCore.io.itk import from_parameters
from RegCore.space.geometry import InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from Testing.RegCore.grids import (
    GRIDS,
    LEFT_HANDED,
    LPS,
    OBLIQUE,
    SHEARED,
    map_by_itk,
    points_inside,
    rough_field,
    smooth_field,
    tilted_affine,
)

FIELD_FILES = ["h5", "nrrd", "nii.gz", "nii"]
LINEAR_FILES = ["h5", "tfm", "txt"]
TOLERANCE = 1e-4  # mm
EVERY_GRID = pytest.mark.parametrize("name", GRIDS)


def read_by_itk(path) -> sitk.Transform:
    """The transform as a user of SimpleITK reads it."""
    if path.suffix in (".h5", ".tfm", ".txt"):
        return sitk.ReadTransform(path)
    return sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))


@pytest.fixture
def mrml():
    """A scene of Slicer of its own, and what makes, reads, writes and applies transform nodes in it."""
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
    vtk = pytest.importorskip("vtk")
    return Mrml(slicer, vtk)


class Mrml:
    """Transform nodes of Slicer; points in RAS mm."""

    def __init__(self, slicer, vtk):
        self.slicer, self.vtk, self.scene = slicer, vtk, slicer.vtkMRMLScene()

    def matrix(self, values) -> object:
        matrix = self.vtk.vtkMatrix4x4()
        matrix.DeepCopy(np.asarray(values, dtype=float).ravel())
        return matrix

    def node_of(self, transform) -> object:
        if isinstance(transform, AffineTransform):
            node = self.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
            node.SetMatrixTransformFromParent(self.matrix(transform.matrix))
            return node
        from vtk.util.numpy_support import vtk_to_numpy

        grid, image = transform.geometry, self.vtk.vtkImageData()
        image.SetDimensions(grid.shape)
        image.SetSpacing(grid.spacing)
        image.SetOrigin(grid.origin)
        image.AllocateScalars(self.vtk.VTK_DOUBLE, 3)
        values = vtk_to_numpy(image.GetPointData().GetScalars())
        values[:] = transform.mm.transpose(2, 1, 0, 3).reshape(-1, 3)
        direction = np.eye(4)
        direction[:3, :3] = grid.direction
        oriented = self.slicer.vtkOrientedGridTransform()
        oriented.SetInterpolationModeToLinear()
        oriented.SetDisplacementGridData(image)
        oriented.SetGridDirectionMatrix(self.matrix(direction))
        node = self.scene.AddNewNodeByClass("vtkMRMLGridTransformNode")
        node.SetAndObserveTransformFromParent(oriented)
        return node

    def write(self, transform, path):
        storage = self.slicer.vtkMRMLTransformStorageNode()
        storage.SetFileName(str(path))
        assert storage.WriteData(self.node_of(transform))

    def read(self, path) -> object:
        node = self.scene.AddNewNodeByClass("vtkMRMLTransformNode")
        storage = self.slicer.vtkMRMLTransformStorageNode()
        storage.SetFileName(str(path))
        assert storage.ReadData(node)
        inner = node.GetTransformFromParent()
        if inner.IsA("vtkGridTransform"):
            inner.SetInterpolationModeToLinear()  # Slicer reads fields with cubic interpolation
        return node

    def map(self, node, points) -> np.ndarray:
        inner = node.GetTransformFromParent()
        return np.array([inner.TransformDoublePoint(point) for point in points])


@EVERY_GRID
@pytest.mark.parametrize("ending", FIELD_FILES)
def test_simpleitk_maps_points_through_our_field(tmp_path, name, ending):
    field, points = rough_field(GRIDS[name]), points_inside(GRIDS[name])
    save(field, tmp_path / f"t.{ending}")
    found = map_by_itk(read_by_itk(tmp_path / f"t.{ending}"), points)
    np.testing.assert_allclose(found, field.map(points), atol=TOLERANCE)


@EVERY_GRID
@pytest.mark.parametrize("ending", FIELD_FILES)
def test_slicer_maps_points_through_our_field(tmp_path, mrml, name, ending):
    field = rough_field(GRIDS[name])
    points = points_inside(GRIDS[name], margin=-2.0)  # beyond the border too, where both extend it
    save(field, tmp_path / f"t.{ending}")
    node = mrml.read(tmp_path / f"t.{ending}")
    np.testing.assert_allclose(mrml.map(node, points), field.map(points), atol=TOLERANCE)


@pytest.mark.parametrize("ending", ["h5", "nrrd"])
def test_a_sheared_grid_goes_through_files_too(tmp_path, mrml, ending):
    field, points = rough_field(SHEARED), points_inside(SHEARED)
    save(field, tmp_path / f"t.{ending}")
    for found in (
        load(tmp_path / f"t.{ending}").map(points),
        map_by_itk(read_by_itk(tmp_path / f"t.{ending}"), points),
        mrml.map(mrml.read(tmp_path / f"t.{ending}"), points),
    ):
        np.testing.assert_allclose(found, field.map(points), atol=TOLERANCE)


@pytest.mark.parametrize("ending", LINEAR_FILES)
def test_simpleitk_and_slicer_map_points_through_our_affine(tmp_path, mrml, ending):
    affine, points = tilted_affine(), points_inside(OBLIQUE)
    save(affine, tmp_path / f"t.{ending}")
    found = map_by_itk(read_by_itk(tmp_path / f"t.{ending}"), points)
    np.testing.assert_allclose(found, affine.map(points), atol=TOLERANCE)
    node = mrml.read(tmp_path / f"t.{ending}")
    assert node.IsLinear()
    np.testing.assert_allclose(mrml.map(node, points), affine.map(points), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("transform", "ending"),
    [(rough_field(LEFT_HANDED), ending) for ending in ("h5", "tfm", "nrrd", "nii.gz", "mha")]
    + [(tilted_affine(), ending) for ending in ("h5", "tfm")],
)
def test_we_map_points_through_what_slicer_writes(tmp_path, mrml, transform, ending):
    mrml.write(transform, tmp_path / f"t.{ending}")
    back, points = load(tmp_path / f"t.{ending}"), points_inside(LEFT_HANDED)
    assert type(back) is type(transform)
    np.testing.assert_allclose(back.map(points), transform.map(points), atol=TOLERANCE)


@EVERY_GRID
@pytest.mark.parametrize("ending", ["h5", "tfm", "nrrd", "nii.gz", "mha"])
def test_we_map_points_through_what_simpleitk_writes(tmp_path, name, ending):
    field, points = rough_field(GRIDS[name]), points_inside(GRIDS[name])
    save(field, tmp_path / "ours.h5")
    transform = sitk.DisplacementFieldTransform(sitk.ReadTransform(tmp_path / "ours.h5"))
    if ending in ("h5", "tfm"):
        sitk.WriteTransform(transform, tmp_path / f"t.{ending}")
    else:  # an image of vectors, which does not say that it is a transform
        sitk.WriteImage(transform.GetDisplacementField(), tmp_path / f"t.{ending}")
    back = load(tmp_path / f"t.{ending}", "transform")
    np.testing.assert_allclose(back.map(points), map_by_itk(transform, points), atol=TOLERANCE)


def test_the_fields_of_these_tests_tell_errors_apart():
    """Signs, order of axes, direction and sense that are wrong move the points by millimetres."""
    field, points = rough_field(LEFT_HANDED), points_inside(LEFT_HANDED)
    turned = LEFT_HANDED.affine.copy()
    turned[:3, :3] = LEFT_HANDED.direction.T * LEFT_HANDED.spacing
    wrong = {
        "LPS values": field.mm * LPS,
        "components reversed": field.mm[..., ::-1],
        "axes reversed": field.mm.transpose(2, 1, 0, 3).reshape(field.mm.shape),
        "negated": -field.mm,
    }
    cases = [DisplacementField(LEFT_HANDED, mm) for mm in wrong.values()]
    cases.append(DisplacementField(type(LEFT_HANDED)(LEFT_HANDED.shape, turned), field.mm))
    for case in cases:
        assert np.abs(case.map(points) - field.map(points)).max() > 1
    affine = tilted_affine()
    for matrix in (np.linalg.inv(affine.matrix), np.diag([-1, -1, 1, 1]) @ affine.matrix):
        assert np.abs(AffineTransform(matrix).map(points) - affine.map(points)).max() > 1


@pytest.mark.parametrize("ending", ["h5", "nrrd", "nii.gz", "npz"])
def test_a_field_comes_back_as_it_was(tmp_path, ending):
    field = rough_field(LEFT_HANDED)
    save(field, tmp_path / f"t.{ending}")
    back = load(tmp_path / f"t.{ending}")
    np.testing.assert_array_equal(back.mm, field.mm)
    assert back.geometry.is_close(LEFT_HANDED, 1e-4)


@pytest.mark.parametrize("ending", [*LINEAR_FILES, "npz"])
def test_an_affine_comes_back_as_it_was(tmp_path, ending):
    save(tilted_affine(), tmp_path / f"t.{ending}")
    np.testing.assert_allclose(load(tmp_path / f"t.{ending}").matrix, tilted_affine().matrix, atol=1e-12)


def linear_transforms() -> dict[str, sitk.Transform]:
    centre = (10.0, -4.0, 7.0)
    euler = sitk.Euler3DTransform(centre, 0.3, -0.5, 0.8, (1, 2, 3))
    euler_zyx = sitk.Euler3DTransform(euler)
    euler_zyx.SetComputeZYX(True)
    versor = sitk.VersorRigid3DTransform((0.6, 0.0, 0.8), 0.7, (1, 2, 3), centre)
    similarity = sitk.Similarity3DTransform(1.3, (0.0, 0.6, 0.8), 0.7, (1, 2, 3), centre)
    affine = sitk.AffineTransform((np.eye(3) + 0.1 * np.arange(9).reshape(3, 3)).ravel(), (1, 2, 3), centre)
    return {
        "euler": euler,
        "euler-zyx": euler_zyx,
        "versor": versor,
        "similarity": similarity,
        "affine": affine,
        "translation": sitk.TranslationTransform(3, (1, 2, 3)),
        "identity": sitk.Transform(3, sitk.sitkIdentity),
        "rotation": sitk.VersorTransform((0.6, 0.0, 0.8), 0.7, centre),
        "scale": sitk.ScaleTransform(3, (1.1, 0.9, 1.3)),
        "scale-versor": sitk.ScaleVersor3DTransform((1.1, 0.9, 1.3), (0, 0.6, 0.8), 0.7, (1, 2, 3), centre),
        "scale-skew": sitk.ScaleSkewVersor3DTransform(
            (1.1, 0.9, 1.3), (0.01, -0.02, 0.03, 0.04, 0.05, 0.06), (0, 0.6, 0.8), 0.7, (1, 2, 3), centre
        ),
        "compose-scale-skew": sitk.ComposeScaleSkewVersor3DTransform(
            (1.1, 0.9, 1.3), (0.01, -0.02, 0.03), (0, 0.6, 0.8), 0.7, (1, 2, 3), centre
        ),
        "composite": sitk.CompositeTransform([euler, affine]),
    }


@pytest.mark.parametrize("ending", ["h5", "tfm", "mat"])
@pytest.mark.parametrize("name", linear_transforms())
def test_the_linear_transforms_of_itk(tmp_path, mrml, name, ending):
    transform, points = linear_transforms()[name], points_inside(OBLIQUE)
    if name in ("composite", "compose-scale-skew") and ending == "mat":
        return  # it holds one transform, and not of this kind
    sitk.WriteTransform(transform, tmp_path / f"t.{ending}")
    found = load(tmp_path / f"t.{ending}")
    np.testing.assert_allclose(found.map(points), map_by_itk(transform, points), atol=1e-9)
    if name not in ("identity", "composite", "compose-scale-skew") and ending != "mat":
        node = mrml.read(tmp_path / f"t.{ending}")
        np.testing.assert_allclose(found.map(points), mrml.map(node, points), atol=1e-6)


OLDER = {  # transforms of ITK that SimpleITK does not make: parameters, fixed ones
    "QuaternionRigidTransform": ([0.1, 0.2, 0.3, 0.927, 1, 2, 3], [4, 5, 6]),
    "ScaleLogarithmicTransform": ([0.1, 0.2, -0.3], [4, 5, 6]),
    "MatrixOffsetTransformBase": ([*(np.eye(3) + 0.1).ravel(), 1, 2, 3], [4, 5, 6]),
}


@pytest.mark.parametrize("name", OLDER)
@pytest.mark.parametrize("precision", ["double", "float"])
def test_older_linear_transforms_of_itk(tmp_path, name, precision):
    parameters, fixed = (" ".join(map(str, values)) for values in OLDER[name])
    head = f"#Insight Transform File V1.0\n#Transform 0\nTransform: {name}_{precision}_3_3\n"
    path, points = tmp_path / "t.tfm", points_inside(OBLIQUE)
    path.write_text(f"{head}Parameters: {parameters}\nFixedParameters: {fixed}\n")
    expected = map_by_itk(sitk.ReadTransform(path), points)
    np.testing.assert_allclose(load(path).map(points), expected, atol=1e-4 if precision == "float" else 1e-9)


def test_the_linear_transform_of_minc(tmp_path):
    affine, points = linear_transforms()["affine"], points_inside(OBLIQUE)
    sitk.WriteTransform(affine, tmp_path / "t.xfm")
    np.testing.assert_allclose(load(tmp_path / "t.xfm").map(points), map_by_itk(affine, points), atol=1e-9)
    (tmp_path / "bad.xfm").write_text("MNI Transform File\n")
    with pytest.raises(InputError, match="the transform can't be read"):
        load(tmp_path / "bad.xfm")


def spline(size_mm: float = 6.0, seed: int = 0) -> sitk.BSplineTransform:
    """A B-spline over an oblique box, with displacements of some millimetres at its control points."""
    box = sitk.Image(40, 44, 36, sitk.sitkUInt8)
    box.SetSpacing((1.5, 1.25, 2.0))
    box.SetOrigin((-20.0, 30, 5))
    box.SetDirection((LPS[:, None] * OBLIQUE.direction).ravel())
    transform = sitk.BSplineTransformInitializer(box, [4, 5, 3])
    values = np.random.default_rng(seed).normal(size=len(transform.GetParameters())) * size_mm
    transform.SetParameters(values.tolist())
    return transform


def points_in(transform: sitk.BSplineTransform, low: float = 0.001, high: float = 0.999) -> np.ndarray:
    """Places in the box of a B-spline, (N, 3) RAS mm; fractions beyond 0 and 1 lie outside of it."""
    axes = np.array(transform.GetTransformDomainDirection()).reshape(3, 3)
    parts = np.random.default_rng(1).uniform(low, high, (500, 3))
    places = parts * transform.GetTransformDomainPhysicalDimensions() @ axes.T
    return (places + transform.GetTransformDomainOrigin()) * LPS


@pytest.mark.parametrize("ending", ["h5", "tfm"])
@pytest.mark.parametrize("size_mm", [0.5, 6.0])
def test_a_b_spline_becomes_displacements_that_map_alike(tmp_path, mrml, ending, size_mm):
    transform = spline(size_mm)
    sitk.WriteTransform(transform, tmp_path / f"t.{ending}")
    found, points = load(tmp_path / f"t.{ending}"), points_in(transform)
    np.testing.assert_allclose(found.map(points), map_by_itk(transform, points), atol=0.05)
    np.testing.assert_allclose(
        found.map(points), mrml.map(mrml.read(tmp_path / f"t.{ending}"), points), atol=0.05
    )
    outside = points_in(transform, 1.2, 1.5)
    np.testing.assert_array_equal(found.map(outside), outside)
    save(found, tmp_path / "ours.h5")
    np.testing.assert_allclose(
        map_by_itk(sitk.ReadTransform(tmp_path / "ours.h5"), points), found.map(points)
    )


@pytest.mark.parametrize(("ending", "order"), [("h5", [0, 1]), ("tfm", [1, 0]), ("h5", [0, 1, 0])])
def test_an_affine_and_a_b_spline_in_one_file(tmp_path, ending, order):
    euler = sitk.Euler3DTransform((0.0, 20, 30), 0.05, -0.03, 0.04, (1, 2, 3))
    composite = sitk.CompositeTransform([(euler, spline(2.0))[which] for which in order])
    sitk.WriteTransform(composite, tmp_path / f"t.{ending}")
    points = points_in(spline(), 0.2, 0.8)
    found = load(tmp_path / f"t.{ending}").map(points)
    np.testing.assert_allclose(found, map_by_itk(composite, points), atol=0.05)


def test_a_matrix_offset_transform_is_read_as_an_affine():
    numbers = np.concatenate([(np.eye(3) + 0.1).ravel(), [1, 2, 3]])
    both = [
        from_parameters(f"{name}_double_3_3", numbers, np.array([4.0, 5.0, 6.0]))
        for name in ("MatrixOffsetTransformBase", "AffineTransform")
    ]
    np.testing.assert_array_equal(both[0].matrix, both[1].matrix)


@pytest.mark.parametrize("ending", ["h5", "tfm"])
def test_a_composite_transform_applies_its_last_part_first(tmp_path, ending):
    save(smooth_field(OBLIQUE.resized((20, 21, 22)), mm=2.0, sigma=6.0), tmp_path / "field.h5")
    parts = [linear_transforms()["euler"], sitk.ReadTransform(tmp_path / "field.h5")]
    composite = sitk.CompositeTransform(parts)
    sitk.WriteTransform(composite, tmp_path / f"t.{ending}")
    back, points = load(tmp_path / f"t.{ending}"), points_inside(OBLIQUE)
    np.testing.assert_allclose(back.map(points), map_by_itk(composite, points), atol=TOLERANCE)
    swapped = map_by_itk(sitk.CompositeTransform(parts[::-1]), points)
    assert np.abs(swapped - map_by_itk(composite, points)).max() > 1


def test_a_field_is_loaded_as_a_transform_only_where_the_file_says_so(tmp_path):
    save(rough_field(OBLIQUE), tmp_path / "t.nrrd")
    assert isinstance(load(tmp_path / "t.nrrd"), DisplacementField)
    with pytest.raises(InputError, match="one 3-D image was expected"):
        load(tmp_path / "t.nrrd", "image")
    save(tilted_affine(), tmp_path / "t.h5")
    with pytest.raises(InputError, match="an image was expected, but the file holds a transform"):
        load(tmp_path / "t.h5", "image")


@pytest.mark.parametrize(
    ("transform", "ending", "sentence"),
    [
        (tilted_affine(), "nrrd", "saved as an affine transform"),
        (tilted_affine(), "nii.gz", "saved as an affine transform"),
        (rough_field(OBLIQUE), "tfm", "saved as a displacement field"),
        (rough_field(OBLIQUE), "mha", "saved as a displacement field"),
        (rough_field(SHEARED), "nii.gz", "sheared"),
    ],
)
def test_what_a_format_can_not_hold_is_refused(tmp_path, transform, ending, sentence):
    path = tmp_path / f"t.{ending}"
    with pytest.raises(InputError, match=sentence) as caught:
        save(transform, path)
    assert str(caught.value).startswith(str(path))
    assert not list(tmp_path.iterdir())
