"""What `register` refuses, each with one sentence that says what was expected and what came."""

import numpy as np
import pytest
import torch

from RegCore.networks.device import choose_device
from RegCore.registration.register import register
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume
from Testing.RegCore.grids import LEFT_HANDED, OBLIQUE, SHAPE, smooth_field

RANDOM = np.random.default_rng(0).random(SHAPE).astype(np.float32)


def image(array=RANDOM, geometry=OBLIQUE) -> Volume:
    return Volume(np.asarray(array), geometry)


def labels(values=(0, 1), geometry=OBLIQUE) -> Volume:
    array = np.zeros(geometry.shape, np.uint8)
    for n, value in enumerate(values):
        array[n] = value
    return Volume(array, geometry, "labels")


def alone(value: float) -> Volume:
    array = RANDOM * np.nan
    array[1, 2, 3] = value
    return image(array)


def far() -> Geometry:
    matrix = np.eye(4)
    matrix[:3, 3] = 700.0, 0.0, 0.0
    return OBLIQUE.moved(matrix)


def beside() -> Volume:
    """A mask on a grid that covers the images', but marks a voxel outside of them only."""
    mask = np.zeros((40, *SHAPE[1:]), np.uint8)
    mask[-1, 4, 4] = 1
    return Volume(mask, Geometry(mask.shape, OBLIQUE.affine), "labels")


def shift(mm: float) -> AffineTransform:
    matrix = np.eye(4)
    matrix[0, 3] = mm
    return AffineTransform(matrix)


CHANNELS = Volume(np.ones((*SHAPE, 2), bool), OBLIQUE, "labels")

REFUSED = {
    "constant": (
        {"fixed": image(np.full(SHAPE, 7))},
        r"the fixed volume: the image is constant \(every voxel is 7\)",
    ),
    "NaN": ({"moving": image(RANDOM * np.nan)}, "the moving volume: all voxels are NaN or infinite"),
    "one finite voxel": ({"fixed": alone(3.0)}, "the fixed volume: the image is constant"),
    "label map as image": (
        {"moving": labels()},
        "the moving volume: an image was expected, but this is a label map",
    ),
    "channels": (
        {"fixed": image(np.ones((*SHAPE, 3)))},
        "the fixed volume: an image with one channel was expected, but it has 3",
    ),
    "single slice": (
        {"fixed": image(RANDOM[:1], Geometry((1, 8, 9), OBLIQUE.affine))},
        "the fixed volume: a 3-D image was expected",
    ),
    "image as label map": (
        {"fixed_labels": image(), "moving_labels": labels()},
        "the fixed segmentation: a label map was expected, but this is an image",
    ),
    "empty label map": (
        {"fixed_labels": labels(), "moving_labels": labels(())},
        r"the moving segmentation: the label map is empty",
    ),
    "only a fixed segmentation": (
        {"fixed_labels": labels()},
        "a fixed segmentation was given without a moving one; give both or none",
    ),
    "no label in common": (
        {"fixed_labels": labels((0, 1, 2)), "moving_labels": labels((0, 3))},
        r"the fixed segmentation and the moving segmentation: .* share no label \(1, 2 against 3\)",
    ),
    "3-D and 4-D segmentations": (
        {"fixed_labels": labels(), "moving_labels": CHANNELS},
        "must be 3-D, or both 4-D .* but they have 3 and 4 axes",
    ),
    "unknown method": (
        {"method": "defromable"},
        "unknown method 'defromable'; it is one of auto, rigid, affine, .*, did you mean deformable?",
    ),
    "a method in capitals": ({"method": "AFFINE"}, "unknown method 'AFFINE'; .*, did you mean affine?"),
    "a method unlike any": ({"method": "xyz"}, r"unknown method 'xyz'; .*, classical-nonrigid$"),
    "a method that is no word": ({"method": ["rigid"]}, r"unknown method \['rigid'\]; it is one of"),
    "a device that is no word": ({"device": ["cpu"]}, r"the device is \['cpu'\], expected one of auto"),
    "unknown device": ({"device": "gpu"}, "the device is 'gpu', expected one of auto, cpu, cuda, mps"),
    "unknown setting": (
        {"settings": {"smothness": 1.0}},
        "method deformable has no setting 'smothness'; it has .* did you mean smoothness?",
    ),
    "setting of another method": (
        {"method": "rigid", "settings": {"iterations": 3}},
        "method rigid has no setting 'iterations'; it has label_weight",
    ),
    "word for a number": (
        {"settings": {"smoothness": "high"}},
        "setting smoothness of method deformable is 'high', expected a number",
    ),
    "fraction for a whole number": (
        {"settings": {"iterations": 2.5}},
        "setting iterations of method deformable is 2.5, expected a whole number",
    ),
    "truth for a number": (
        {"settings": {"levels": True}},
        "setting levels of method deformable is True, expected a whole number",
    ),
    "negative label weight": (
        {"method": "rigid", "settings": {"label_weight": -1.0}},
        "setting label_weight is -1.0, expected a number of at least 0",
    ),
    "NaN label weight": (
        {"method": "affine", "settings": {"label_weight": np.nan}},
        "setting label_weight is nan, expected a number of at least 0",
    ),
    "settings as a list": (
        {"settings": ["levels", 3]},
        "the settings are of type list, expected a dict of names and values",
    ),
    "a setting without a name": ({"settings": {3: 1}}, "method deformable has no setting 3; it has"),
    "array as image": ({"fixed": RANDOM}, "the fixed volume is of type ndarray, expected a Volume, such as"),
    "no image": ({"moving": None}, "the moving volume is None, expected a Volume"),
    "file name as image": ({"moving": "a.nii.gz"}, "the moving volume is of type str, expected a Volume"),
    "array as segmentation": (
        {"fixed_labels": RANDOM > 0.5, "moving_labels": labels()},
        "the fixed segmentation is of type ndarray, expected a Volume",
    ),
    "array as mask": ({"moving_mask": RANDOM > 0.5}, "the moving mask is of type ndarray, expected a Volume"),
    "matrix as the start": (
        {"initial": np.eye(4)},
        "the initial transform is of type ndarray, expected a transform, .* or the word 'centres'",
    ),
    "negative seed": ({"seed": -1}, "the seed is -1, expected a whole number of at least 0"),
    "word as seed": ({"seed": "7"}, "the seed is '7', expected a whole number of at least 0"),
    "setting out of range": (
        {"settings": {"levels": 0}},
        "setting levels is 0, expected at least 1",
    ),
    "unknown loss": (
        {"method": "classical-affine", "settings": {"image_loss": "sdd"}},
        "sdd.* ssd",
    ),
    "empty fixed mask": ({"fixed_mask": labels(())}, "the fixed mask is empty"),
    "empty moving mask": ({"moving_mask": labels(())}, "the moving mask is empty"),
    "fixed segmentation elsewhere": (
        {"fixed_labels": labels(geometry=far()), "moving_labels": labels()},
        "the fixed segmentation: what it marks does not overlap the fixed volume in space",
    ),
    "moving segmentation elsewhere": (
        {"fixed_labels": labels(), "moving_labels": labels(geometry=far())},
        "the moving segmentation: what it marks does not overlap the moving volume in space",
    ),
    "segmentation of channels elsewhere": (
        {"fixed_labels": CHANNELS, "moving_labels": Volume(CHANNELS.array, far(), "labels")},
        "the moving segmentation: what it marks does not overlap the moving volume in space",
    ),
    "fixed mask elsewhere": (
        {"fixed_mask": labels(geometry=far())},
        "the fixed mask: what it marks does not overlap the fixed volume in space",
    ),
    "moving mask elsewhere": (
        {"moving_mask": labels(geometry=far())},
        "the moving mask: what it marks does not overlap the moving volume in space",
    ),
    "moving mask that marks something elsewhere": (
        {"moving_mask": beside()},
        "the moving mask: what it marks does not overlap the moving volume in space",
    ),
    "landmarks of 3 numbers": (
        {"landmarks": np.zeros((4, 3))},
        r"landmarks are rows of 6 numbers .* not \(4, 3\)",
    ),
    "landmarks of words": ({"landmarks": [["a"] * 6]}, "landmarks are rows of 6 numbers, not of type list"),
    "no landmarks": ({"landmarks": np.zeros((0, 6))}, r"landmarks are rows of 6 numbers .* not \(0, 6\)"),
    "NaN landmarks": ({"landmarks": np.full((4, 6), np.nan)}, "landmarks must be finite numbers"),
    "initial transform leads away": (
        {"initial": shift(700.0)},
        "with the initial transform the two volumes do not overlap in space",
    ),
    "unknown start": ({"initial": "center"}, "the initial transform is 'center'; .* only 'centres'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_gets_one_sentence(name):
    given, sentence = REFUSED[name]
    given = {
        "fixed": image(),
        "moving": image(RANDOM[::-1].copy()),
        "method": "deformable",
        "device": "cpu",
        **given,
    }
    told = []
    with pytest.raises(InputError, match=sentence) as error:
        register(given.pop("fixed"), given.pop("moving"), progress=lambda *event: told.append(event), **given)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250
    assert not told, "work had begun before this was noticed"


def test_a_moving_segmentation_alone_is_refused_too():
    with pytest.raises(InputError, match="a moving segmentation was given without a fixed one"):
        register(image(), image(), moving_labels=labels())


def test_an_initial_transform_may_bring_far_volumes_together():
    moving = image(RANDOM, far())
    result = register(image(), moving, "rigid", initial=shift(700.0), device="cpu")
    np.testing.assert_allclose(result.transform.map(OBLIQUE.centre), moving.geometry.centre, atol=3)


@pytest.mark.parametrize("method", ["rigid", "classical-affine"])
def test_volumes_far_apart_by_their_files_are_laid_upon_each_other_and_that_is_said(method):
    moving = image(RANDOM, far())
    settings = {"max_iter": 1} if method == "classical-affine" else None
    result = register(image(), moving, method, settings=settings, device="cpu")
    np.testing.assert_allclose(result.transform.map(OBLIQUE.centre), moving.geometry.centre, atol=6)
    assert [note for note in result.metrics["notes"] if "centres 700 mm from each other" in note]
    assert "notes" not in register(image(), moving, method, settings=settings, initial="centres").metrics


def test_a_field_that_leads_away_is_refused_as_an_affine_is():
    field = shift(700.0).compose(smooth_field(OBLIQUE))
    with pytest.raises(InputError, match="with the initial transform the two volumes do not overlap"):
        register(image(), image(RANDOM, LEFT_HANDED), initial=field, device="cpu")


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused_before_any_work(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"device {device} was asked for, but PyTorch finds none here"):
        register(image(), image(), device=device)
    assert choose_device("auto") == choose_device("cpu") == "cpu"


def test_cuda_is_taken_where_it_is():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto") == expected
