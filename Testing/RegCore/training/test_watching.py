"""What shows how a training goes: pictures of a validation pair, and what TensorBoard gets."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from RegCore.evaluation.pictures.slices import COLOURS
from RegCore.networks.models import Prediction
from RegCore.registration.learned import load_model
from RegCore.space.geometry import Geometry
from RegCore.training import train
from RegCore.training.watching import picture_of
from Testing.RegCore.training.runs import configuration, write_pairs

SHAPE = (12, 10, 9)


class Shift(torch.nn.Module):
    """A network that moves everything by two voxels along i; or predicts the moving label, no field."""

    def __init__(self, field: bool = True):
        super().__init__()
        self.field = field

    def forward(self, fixed, moving, label=None):
        if not self.field:
            return Prediction(label=label)
        ddf = torch.zeros(1, 3, *fixed.shape[2:])
        ddf[:, 0] = 2
        return Prediction(ddf=ddf)


def batch(labels: bool = True) -> dict:
    """Two pairs: a box in the fixed image and the same two voxels further in the moving one."""
    fixed = torch.zeros(2, 1, *SHAPE)
    fixed[:, :, 3:7, 3:7, 2:6] = 1
    moving = fixed.roll(2, 2)
    made = {"fixed_image": fixed, "moving_image": moving}
    made |= {"fixed_label": fixed, "moving_label": moving} if labels else {}
    return made | {"fixed_geometry": [Geometry(SHAPE, np.eye(4))] * 2}


def columns(picture: Image.Image) -> list[np.ndarray]:
    """Fixed, moving, warped, without the titles above and the number of the slice below."""
    assert picture.size == (600, 200)
    return [np.asarray(picture)[24:170, 200 * n : 200 * (n + 1)] for n in range(3)]


def has(panel: np.ndarray, number: int) -> bool:
    """Whether an outline of this number is drawn in full colour."""
    return bool((np.abs(panel.astype(int) - COLOURS[number]).max(-1) < 45).any())


def test_the_warped_image_looks_like_the_fixed_one():
    fixed, moving, found = columns(picture_of(Shift(), batch(labels=False)))
    np.testing.assert_array_equal(fixed, found)
    assert np.abs(fixed.astype(int) - moving).max() > 100


def test_outlines_are_those_of_the_labels():
    fixed, moving, found = columns(picture_of(Shift(), batch(), "box"))
    assert has(fixed, 0) and not has(fixed, 1)
    assert has(moving, 0) and has(moving, 1)
    assert has(found, 1) and not has(found, 0), "the warped outline lies over the fixed one"
    predicted = columns(picture_of(Shift(field=False), batch()))[2]
    assert has(predicted, 0) and has(predicted, 1)


@pytest.fixture
def events(monkeypatch):
    """What a writer of TensorBoard, in whose place this stands, is told."""
    told = []

    class Writer:
        def __init__(self, folder):
            self.part = folder.rsplit("/", 1)[-1]

        def __getattr__(self, name):
            return lambda *values, **options: told.append((self.part, name, *values, options))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return told


def test_every_validation_leaves_a_picture(tmp_path, events):
    write_pairs(tmp_path / "data")
    done = train(configuration(tmp_path / "data", epochs=3), log_dir=tmp_path, exp_name="run", device="cpu")
    names = sorted(path.name for path in (done.folder / "pictures").iterdir())
    assert names == ["epoch-1.png", "epoch-2.png", "epoch-3.png"]
    newest = Image.open(done.folder / "validation.png")
    assert newest.size == (600, 200)
    last = done.folder / "pictures" / "epoch-3.png"
    assert last.read_bytes() == (done.folder / "validation.png").read_bytes()
    pictures = [event for event in events if event[1] == "add_image"]
    assert [(part, name, step) for part, _, name, _, step, _ in pictures] == [
        ("validation", "pair", n) for n in (1, 2, 3)
    ]
    np.testing.assert_array_equal(pictures[-1][3], np.asarray(newest))
    weights = [event for event in events if event[1] == "add_histogram"]
    assert {event[4] for event in weights} == {1, 2, 3} and {event[0] for event in weights} == {"train"}
    state = load_model(done.folder / "save" / "last.pt").network.state_dict()
    found = {event[2]: event[3] for event in weights if event[4] == 3}
    assert found and all(torch.equal(x, state[n.removeprefix("weights/")]) for n, x in found.items())


def test_pictures_of_long_trainings_are_thinned(tmp_path, monkeypatch):
    monkeypatch.setattr("RegCore.training.watching.MOST_KEPT", 2)
    write_pairs(tmp_path / "data")
    done = train(configuration(tmp_path / "data", epochs=5), log_dir=tmp_path, exp_name="run", device="cpu")
    assert sorted(p.name for p in (done.folder / "pictures").iterdir()) == ["epoch-3.png", "epoch-5.png"]


def test_without_validation_there_is_no_picture(tmp_path):
    write_pairs(tmp_path / "data")
    config = configuration(tmp_path / "data", valid=False, epochs=1)
    done = train(config, log_dir=tmp_path, exp_name="run", device="cpu")
    assert not (done.folder / "validation.png").exists()
