"""What loaders make of the places of images in space: one order of axes, pairs that meet where they lie."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegCore.loaders import make_loader, pairs_from_volumes
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume, reoriented
from Testing.RegCore.grids import affine
from Testing.RegCore.itk import itk_image

GRID = Geometry((7, 8, 9), affine((1.4, 0.3, -0.2), (-0.2, 1.1, 0.4), (5.0, -6.0, 7.0)))
OTHER = ("LPS", "PIR", "SAL")
SHAPE = [6, 5, 8]


def write(folder, codes):
    """Images and labels of three structures, the image and label of number n in the axes of codes[n]."""
    for number, code in enumerate(codes):
        rng = np.random.default_rng(number)
        image = Volume(rng.normal(size=GRID.shape).astype(np.float32), GRID)
        label = Volume((rng.random((*GRID.shape, 3)) > 0.5).astype(np.uint8), GRID)
        for name, volume in (("images", image), ("labels", label)):
            turned = volume if code is None else reoriented(volume, code)
            (folder / name).mkdir(parents=True, exist_ok=True)
            made = nibabel.Nifti1Image(np.ascontiguousarray(turned.array), turned.geometry.affine)
            nibabel.save(made, folder / name / f"{number}.nii.gz")


def loader(folder, split="test", space=None, axes=None, deepreg=False):
    dataset = {"type": "unpaired", "image_shape": SHAPE, "space": space, "sample_label": "all"}
    dataset[split] = {"dir": str(folder), "format": "nifti", "labeled": True}
    return make_loader(dataset, split, axes=axes, deepreg=deepreg)


def loaded(made):
    return [made.load(sample) for sample in made.samples()]


@pytest.mark.parametrize("space", [None, "axes"])
def test_images_in_other_voxel_orders_are_loaded_as_if_in_one(tmp_path, space):
    write(tmp_path / "same", [None] * 5)
    write(tmp_path / "mixed", [None, OTHER[0], None, OTHER[1], None])
    same, mixed = (loader(tmp_path / name, space=space) for name in ("same", "mixed"))
    assert same.axes == mixed.axes == (GRID.axis_codes,) * 2
    for wanted, found in zip(loaded(same), loaded(mixed), strict=True):
        for name in ("fixed_image", "moving_image", "fixed_label", "moving_label"):
            assert torch.equal(wanted[name], found[name])
        assert found["fixed_geometry"].is_close(wanted["fixed_geometry"])
        assert found["moving_geometry"].is_close(wanted["moving_geometry"])


@pytest.mark.parametrize("options", [{"space": "file"}, {"deepreg": True}])
def test_as_deepreg_voxels_stay_in_the_order_of_their_files(tmp_path, options):
    write(tmp_path, [None, OTHER[0]])
    made = loader(tmp_path, **options)
    assert made.axes is None
    for part in loaded(made):
        assert part["moving_geometry"] == part["moving_file_geometry"].resized_box(SHAPE)


def test_predicted_images_get_the_axes_of_the_training(tmp_path):
    write(tmp_path / "train", [None] * 4)
    write(tmp_path / "test", [OTHER[2]] * 4)
    train, test = loader(tmp_path / "train"), loader(tmp_path / "test", axes=(GRID.axis_codes,) * 2)
    for wanted, found in zip(loaded(train), loaded(test), strict=True):
        assert torch.equal(wanted["fixed_image"], found["fixed_image"])
        assert torch.equal(wanted["moving_label"], found["moving_label"])


def test_a_label_in_another_voxel_order_than_its_image_is_turned_with_it(tmp_path):
    write(tmp_path / "same", [None] * 2)
    write(tmp_path / "other", [OTHER[0]] * 2)
    (tmp_path / "same" / "labels").rename(tmp_path / "kept")
    (tmp_path / "other" / "labels").rename(tmp_path / "same" / "labels")
    mixed = loaded(loader(tmp_path / "same"))
    (tmp_path / "same" / "labels").rename(tmp_path / "other" / "labels")
    (tmp_path / "kept").rename(tmp_path / "same" / "labels")
    for wanted, found in zip(loaded(loader(tmp_path / "same")), mixed, strict=True):
        assert torch.equal(wanted["fixed_label"], found["fixed_label"])


def cropped_pair():
    """A smooth image, and a part of it in other axes: (fixed, moving), with labels of its bright half."""
    index = GRID.index_grid() / (np.array(GRID.shape) - 1)
    array = (np.sin(3 * index[..., 0]) + index[..., 1] ** 2 + 0.5 * index[..., 2]).astype(np.float32)
    label = (array > np.median(array)).astype(np.uint8)
    part = GRID.cropped((1, 0, 2), (6, 8, 9))
    inner = (slice(1, 6), slice(0, 8), slice(2, 9))
    fixed = Volume(array, GRID), Volume(label, GRID, "labels")
    moving = Volume(array[inner], part), Volume(label[inner], part, "labels")
    return *fixed, *(reoriented(volume, "LPS") for volume in moving)


def test_a_pair_meets_in_space_as_simpleitk_resamples_it():
    fixed, fixed_label, moving, moving_label = cropped_pair()
    made = pairs_from_volumes([(fixed, moving, fixed_label, moving_label)], fixed_image_shape=SHAPE)
    made.place("header")
    (part,) = loaded(made)
    box = part["fixed_geometry"]
    assert part["moving_geometry"] == box
    scaled = (moving.array - moving.array.min()) / np.ptp(moving.array)
    for name, array in (("moving_image", scaled), ("moving_label", moving_label.array.astype(np.float32))):
        wanted = sitk.Resample(
            itk_image(array.astype(np.float32), moving.geometry),
            itk_image(np.zeros(box.shape, np.float32), box),
            sitk.Transform(),
            sitk.sitkLinear,
        )
        wanted = sitk.GetArrayFromImage(wanted).T
        np.testing.assert_allclose(part[name][0].numpy(), wanted, atol=1e-4)


def test_pairs_that_do_not_meet_in_space_are_laid_box_on_box():
    fixed, fixed_label, moving, moving_label = cropped_pair()
    away = moving.geometry.moved(np.array([[1, 0, 0, 500], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    far = Volume(moving.array, away), Volume(moving_label.array, away, "labels")
    made = pairs_from_volumes([(fixed, far[0], fixed_label, far[1])], fixed_image_shape=SHAPE)
    made.place("axes")
    (wanted,) = loaded(made)
    made.place("header")
    (found,) = loaded(made)
    assert torch.equal(found["moving_image"], wanted["moving_image"])
    assert found["moving_geometry"] == wanted["moving_geometry"]


def test_an_unknown_space_is_named(tmp_path):
    write(tmp_path, [None] * 2)
    with pytest.raises(InputError, match="dataset.space: .*header"):
        loader(tmp_path, space="headers")
