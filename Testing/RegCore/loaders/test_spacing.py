"""Images on a grid of given spacing: cropped or padded about the body instead of stretched."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegCore.io import save
from RegCore.loaders import make_loader
from RegCore.loaders.boxes import box_about_body, seen_in
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume, reoriented
from Testing.RegCore.grids import affine
from Testing.RegCore.itk import itk_image

SPACING = [2.0, 2.5, 3.0]
SHAPE = [16, 12, 10]


def body(shape, spacing, centre, *, angles=(0.0, 0.0, 0.0)):
    """A bright ellipsoid of 8 to 11 mm about a point of the index, on an oblique grid; and it as a label."""
    grid = Geometry(shape, affine(angles, spacing, (5.0, -8.0, 11.0)))
    away = (grid.index_grid() - np.array(centre)) * np.array(spacing) / np.array([8.0, 9.0, 11.0])
    inside = np.linalg.norm(away, axis=-1) < 1
    noise = np.random.default_rng(0).normal(0, 2, shape)
    image = Volume((inside * 100 + noise).astype(np.float32), grid)
    return image, Volume(inside.astype(np.uint8), grid, "labels")


CASES = [
    body((30, 24, 28), (1.0, 1.3, 0.9), (11, 12, 17), angles=(0.2, -0.1, 0.3)),
    body((11, 40, 9), (2.4, 0.8, 3.1), (5, 25, 4)),
    body((28, 30, 24), (0.9, 1.0, 1.3), (16, 13, 11), angles=(0.0, 0.1, 0.0)),
]


def write(folder, cases):
    for number, (image, label) in enumerate(cases):
        for name, volume in (("images", image), ("labels", label)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            save(volume, folder / name / f"{number}.nii.gz")


def loader(folder, **dataset):
    values = {"type": "unpaired", "image_shape": SHAPE, "spacing": SPACING, "sample_label": "all"} | dataset
    values["test"] = {"dir": str(folder), "format": "nifti", "labeled": True}
    return make_loader(values, "test")


def by_itk(volume, grid):
    """A volume on another grid by SimpleITK, linear, 0 outside."""
    onto = itk_image(np.zeros(grid.shape, np.float32), grid)
    moving = itk_image(volume.array.astype(np.float32), volume.geometry)
    found = sitk.Resample(moving, onto, sitk.Transform(), sitk.sitkLinear, 0.0)
    return sitk.GetArrayFromImage(found).T


def test_every_image_has_the_spacing_and_keeps_its_axes_and_the_body(tmp_path):
    write(tmp_path, CASES)
    made = loader(tmp_path, space="file")
    for sample in made.samples(seed=1):
        loaded = made.load(sample)
        for side, number in (("fixed", sample.fixed), ("moving", sample.moving)):
            image, label = CASES[number]
            grid = loaded[f"{side}_geometry"]
            assert grid.shape == tuple(SHAPE)
            np.testing.assert_allclose(grid.spacing, SPACING, rtol=1e-5)
            np.testing.assert_allclose(grid.direction, image.geometry.direction, atol=1e-5)
            seen = loaded[f"{side}_label"]
            volume = float(seen.sum()) * np.prod(SPACING)
            whole = label.array.sum() * np.prod(image.geometry.spacing)
            assert volume == pytest.approx(whole, rel=0.03), "the body is inside, and as large as it was"
            centre = np.array([(seen[0] * torch.arange(n).view(s)).sum() / seen.sum() for n, s in
                               zip(SHAPE, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True)])  # fmt: skip
            truth = image.geometry.to_world(np.argwhere(label.array).mean(0))
            np.testing.assert_allclose(grid.to_world(centre), truth, atol=0.25)


@pytest.mark.parametrize("space", ["file", "axes"])
def test_the_voxels_of_a_training_have_a_size(tmp_path, space):
    write(tmp_path, CASES)
    wanted = {"fixed": SPACING, "moving": SPACING}
    assert loader(tmp_path, space=space).spacing == wanted
    sizes = [np.array(image.array.shape) * image.geometry.spacing / SHAPE for image, _label in CASES]
    found = loader(tmp_path, space=space, spacing=None).spacing
    np.testing.assert_allclose(found["fixed"], np.median(sizes, 0), rtol=1e-5)
    assert found["moving"] == found["fixed"]


def test_voxels_without_a_place_in_space_have_no_size(tmp_path):
    nowhere = Geometry((12, 10, 8), np.eye(4))
    image = Volume(np.arange(960.0, dtype=np.float32).reshape(12, 10, 8), nowhere)
    write(tmp_path, [(image, Volume((image.array > 9).astype(np.uint8), nowhere, "labels"))] * 2)
    assert loader(tmp_path, spacing=None).spacing is None


def test_values_are_those_of_itk_where_nothing_is_coarser():
    for image, _ in CASES:
        grid = box_about_body(image, (20, 18, 16), 0.75 * image.geometry.spacing)
        found, wanted = seen_in(image, grid)[0].numpy(), by_itk(image, grid)
        inside = wanted != 0  # ITK takes the outermost half voxel for outside in single precision
        np.testing.assert_allclose(found[inside], wanted[inside], atol=0.01)


def test_a_grid_that_covers_the_image_is_in_its_middle_and_pads_with_zero(tmp_path):
    image, _ = CASES[1]
    grid = box_about_body(image, (20, 20, 20), (2.0, 2.0, 2.0))
    np.testing.assert_allclose(grid.centre, image.geometry.centre, atol=1e-6)
    seen = seen_in(Volume(image.array + 100, image.geometry), grid)[0].numpy()
    corners = grid.world_grid()
    index = image.geometry.to_index(corners)
    outside = ((index < -0.5) | (index > np.array(image.geometry.shape) - 0.5)).any(-1)
    assert (seen[outside] == 0).all() and (seen[~outside] > 50).all() and outside.any()


def test_a_cropped_image_is_cropped_about_the_body_and_never_beyond_its_own_border():
    image, _ = body((60, 24, 20), (1.0, 1.0, 1.0), (50, 12, 10))
    grid = box_about_body(image, (20, 30, 24), (1.0, 1.0, 1.0))
    first = image.geometry.to_index(grid.to_world([0, 0, 0]))
    np.testing.assert_allclose(first[0], 40, atol=1e-4)  # 50 - 10 would end at 60.5: moved inside
    image, _ = body((60, 24, 20), (1.0, 1.0, 1.0), (30, 12, 10))
    first = image.geometry.to_index(box_about_body(image, (20, 30, 24), (1.0, 1.0, 1.0)).to_world([0, 0, 0]))
    np.testing.assert_allclose(first[0], 30 - 9.5, atol=0.6)


def test_other_voxel_orders_give_the_same(tmp_path):
    write(tmp_path / "one", CASES[:1] + CASES[:1])
    turned = [tuple(reoriented(volume, "PIR") for volume in CASES[0])]
    write(tmp_path / "other", CASES[:1] + turned)
    for name in ("one", "other"):
        made = loader(tmp_path / name)
        loaded = made.load(made.samples()[0])
        np.testing.assert_allclose(loaded["fixed_image"], loaded["moving_image"], atol=2e-3)
        assert loaded["fixed_geometry"].is_close(loaded["moving_geometry"])


def test_pairs_that_meet_in_space_are_cropped_in_the_same_place(tmp_path):
    image, label = CASES[0]
    part = image.geometry.cropped((2, 1, 3), (28, 22, 27))
    cut = [Volume(v.array[2:28, 1:22, 3:27], part, v.kind) for v in (image, label)]
    write(tmp_path, [(image, label), tuple(cut)])
    made = loader(tmp_path, space="header")
    for sample in made.samples():
        loaded = made.load(sample)
        assert loaded["fixed_geometry"].is_close(loaded["moving_geometry"])
        assert (loaded["fixed_label"] - loaded["moving_label"]).abs().max() < 0.3


def test_files_without_a_place_have_no_spacing(tmp_path):
    write(tmp_path, CASES[:1])
    save(
        Volume(CASES[0][0].array, Geometry(CASES[0][0].array.shape, np.eye(4))),
        tmp_path / "images" / "0.nii.gz",
    )
    write(tmp_path / "more", CASES[:2])
    (tmp_path / "more" / "images" / "0.nii.gz").write_bytes((tmp_path / "images" / "0.nii.gz").read_bytes())
    with pytest.raises(InputError, match=r"0.nii.gz: dataset.spacing needs the size of voxels"):
        loader(tmp_path / "more")
