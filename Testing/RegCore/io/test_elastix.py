"""Parameter files of elastix: each kind and the chain against the same transform of SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.cli import main
from RegCore.io import load, load_chain, save
from RegCore.space.geometry import InputError
from Testing.RegCore.grids import LPS, OBLIQUE, rough_field, tilted_affine

PLACES = np.random.default_rng(0).uniform(-25, 25, (40, 3))
CENTRE = (4.0, -3.0, 7.5)


def text(kind: str, parameters, initial="NoInitialTransform", more: str = "") -> str:
    numbers = " ".join(f"{x:.12g}" for x in parameters)
    return (
        f'(Transform "{kind}")\n(NumberOfParameters {len(parameters)})\n(TransformParameters {numbers})\n'
        f'(InitialTransformParameterFileName "{initial}")\n(HowToCombineTransforms "Compose")\n\n'
        "// Image specific\n(FixedImageDimension 3)\n(MovingImageDimension 3)\n"
        '(FixedInternalImagePixelType "float")\n(Size 20 21 22)\n' + more
    )


def centre() -> str:
    return f"(CenterOfRotationPoint {' '.join(map(str, CENTRE))})\n"


def by_itk(transform) -> np.ndarray:
    return np.array([transform.TransformPoint(place * LPS) for place in PLACES]) * LPS


def linear(kind: str):
    """A transform of SimpleITK, its text, as elastix names it."""
    if kind == "EulerTransform":
        transform = sitk.Euler3DTransform(CENTRE, 0.2, -0.3, 0.4, (1.0, -2.0, 3.0))
        return transform, text(kind, transform.GetParameters(), more=centre() + '(ComputeZYX "false")\n')
    if kind == "AffineTransform":
        matrix = [1.1, 0.1, -0.05, 0.02, 0.9, 0.1, 0.0, -0.1, 1.05]
        transform = sitk.AffineTransform(matrix, (1.0, -2.0, 3.0), CENTRE)
        return transform, text(kind, transform.GetParameters(), more=centre())
    if kind == "SimilarityTransform":
        transform = sitk.Similarity3DTransform()
        transform.SetCenter(CENTRE)
        transform.SetParameters((0.1, -0.2, 0.05, 1.0, -2.0, 3.0, 1.2))
        return transform, text(kind, transform.GetParameters(), more=centre())
    transform = sitk.TranslationTransform(3, (1.0, -2.0, 3.0))
    return transform, text(kind, transform.GetParameters())


KINDS = ["EulerTransform", "AffineTransform", "SimilarityTransform", "TranslationTransform"]


@pytest.mark.parametrize("kind", KINDS)
def test_linear_transforms(tmp_path, kind):
    transform, words = linear(kind)
    (tmp_path / "TransformParameters.0.txt").write_text(words)
    found = load(tmp_path / "TransformParameters.0.txt")
    np.testing.assert_allclose(found.map(PLACES), by_itk(transform), atol=1e-8)


def test_the_other_order_of_eulers_angles(tmp_path):
    transform = sitk.Euler3DTransform(CENTRE, 0.2, -0.3, 0.4, (1.0, -2.0, 3.0))
    transform.SetComputeZYX(True)
    words = text("EulerTransform", transform.GetParameters(), more=centre() + '(ComputeZYX "true")\n')
    (tmp_path / "t.txt").write_text(words)
    np.testing.assert_allclose(load(tmp_path / "t.txt").map(PLACES), by_itk(transform), atol=1e-8)


def spline() -> tuple[sitk.BSplineTransform, str]:
    """A B-spline on a tilted grid of unlike spacings."""
    direction = np.array(sitk.Euler3DTransform((0, 0, 0), 0.2, 0.1, -0.3).GetMatrix()).reshape(3, 3)
    size, spacing = np.array([8, 7, 9]), np.array([12.0, 14.0, 11.0])
    origin = -direction @ (spacing * (size - 1) / 2)
    values = np.random.default_rng(1).normal(size=3 * size.prod()) * 2
    transform = sitk.BSplineTransform(3)
    transform.SetFixedParameters([*size.astype(float), *origin, *spacing, *direction.ravel()])
    transform.SetParameters(values.tolist())
    grid = {"Size": size, "Index": [2, 0, -1], "Spacing": spacing}
    grid |= {"Origin": origin - direction @ (spacing * [2, 0, -1]), "Direction": direction.T.ravel()}
    lines = [f"(Grid{key} {' '.join(f'{x:.12g}' for x in row)})\n" for key, row in grid.items()]
    more = "".join(lines) + '(BSplineTransformSplineOrder 3)\n(UseCyclicTransform "false")\n'
    return transform, text("BSplineTransform", values, "C:\\work\\TransformParameters.0.txt", more)


def test_a_spline_after_an_affine_one(tmp_path):
    first, words = linear("AffineTransform")
    (tmp_path / "TransformParameters.0.txt").write_text(words)
    second, words = spline()
    (tmp_path / "TransformParameters.1.txt").write_text(words)
    both = sitk.CompositeTransform(3)
    both.AddTransform(second)
    both.AddTransform(first)  # the last one is applied first
    found = load(tmp_path / "TransformParameters.1.txt")
    inside = np.linalg.norm(PLACES, axis=1) < 20  # at the border of its grid a B-spline breaks off
    np.testing.assert_allclose(found.map(PLACES[inside]), by_itk(both)[inside], atol=0.01)
    assert inside.sum() > 5 and np.linalg.norm(by_itk(both) - by_itk(first), axis=1).mean() > 0.5


BAD = {
    "another kind": (lambda: text("MultiBSplineTransformWithNormal", [1.0]), "can't be read"),
    "parameters missing": (lambda: text("EulerTransform", [1.0], more=centre()), "must be 6 numbers"),
    "no centre": (lambda: text("EulerTransform", [1.0] * 6), "CenterOfRotationPoint must be 3 numbers"),
    "words": (lambda: linear("AffineTransform")[1].replace("1.1", "x"), "must be numbers"),
    "2-D": (
        lambda: linear("AffineTransform")[1].replace("ImageDimension 3", "ImageDimension 2"),
        "3-D space",
    ),
    "chain to itself": (
        lambda: linear("AffineTransform")[1].replace("NoInitialTransform", "bad.txt"),
        "no end",
    ),
    "initial missing": (
        lambda: linear("AffineTransform")[1].replace("NoInitialTransform", "/a/b.txt"),
        "b.txt is missing",
    ),
    "added": (
        lambda: (
            linear("AffineTransform")[1].replace("NoInitialTransform", "bad.txt").replace("Compose", "Add")
        ),
        "Compose only",
    ),
    "cut short": (lambda: linear("AffineTransform")[1][:60], "line 3 is damaged"),
    "something else": (lambda: "Dear Sir,\n", "not a transform of ITK or elastix"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_gets_a_sentence(tmp_path, name):
    words, sentence = BAD[name]
    (tmp_path / "bad.txt").write_text(words())
    with pytest.raises(InputError, match=sentence) as caught:
        load(tmp_path / "bad.txt")
    assert str(caught.value).startswith(f"{tmp_path / 'bad.txt'}: ")


# ---- several files as one ----------------------------------------------------------------------------------


def test_several_files_are_one_transform_in_the_order_of_ants(tmp_path):
    warp, affine = rough_field(OBLIQUE), tilted_affine()
    save(warp, tmp_path / "1Warp.nii.gz")
    save(affine, tmp_path / "affine.tfm")
    sitk.WriteTransform(sitk.ReadTransform(tmp_path / "affine.tfm"), tmp_path / "0GenericAffine.mat")
    files = [tmp_path / "1Warp.nii.gz", tmp_path / "0GenericAffine.mat"]
    points = OBLIQUE.world_grid()[1:-1:2, 1:-1:2, 1:-1:2].reshape(-1, 3)
    expected = affine.map(warp.map(points))
    np.testing.assert_allclose(load_chain(files).map(points), expected, atol=1e-3)
    (tmp_path / "p.csv").write_text("r,a,s\n" + "".join(f"{x},{y},{z}\n" for x, y, z in points[:5].tolist()))
    command = ["transform-points", "-i", str(tmp_path / "p.csv"), "-o", str(tmp_path / "q.csv")]
    assert main([*command, "--transform", *map(str, files)]) == 0
    rows = np.loadtxt(tmp_path / "q.csv", delimiter=",", skiprows=1, usecols=(1, 2, 3))
    np.testing.assert_allclose(rows, expected[:5], atol=1e-3)
