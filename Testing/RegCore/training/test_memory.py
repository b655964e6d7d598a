"""The memory of a training: the estimate against measured peaks, and the refusal of what does not fit."""

import json
import re
import subprocess
import sys

import pytest

from RegCore.space.geometry import InputError
from RegCore.training import memory, prepare
from RegCore.training.memory import check_memory, largest_size, needed_mib
from RegCore.training.presets import TrainingPreset
from Testing.paths import ROOT

# Peaks (MiB) of one step on a processor, as Testing/benchmarks/training_memory.py measures them.
MEASURED = {
    ((32, 32, 32), 8, 1): 352,
    ((48, 48, 48), 8, 1): 424,
    ((48, 48, 48), 16, 1): 471,
    ((48, 48, 48), 32, 1): 594,
    ((48, 48, 48), 8, 2): 475,
    ((64, 64, 64), 8, 1): 543,
    ((64, 64, 64), 16, 1): 687,
    ((64, 64, 64), 16, 4): 1480,
    ((80, 80, 80), 32, 1): 1550,
    ((96, 96, 96), 16, 1): 1381,
    ((64, 64, 64), 16, 1, False, "keypoints"): 837,
    ((96, 96, 96), 16, 1, False, "keypoints"): 1789,
}


@pytest.mark.parametrize("case", MEASURED, ids=str)
def test_the_estimate_is_near_what_was_measured(case):
    assert needed_mib(*case) == pytest.approx(MEASURED[case], rel=0.15)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_the_estimate_is_near_what_is_measured_now():
    command = [sys.executable, str(ROOT / "Testing" / "benchmarks" / "training_memory.py"), "--one"]
    asked = {"size": [48, 40, 56], "channels": 16}
    done = subprocess.run([*command, json.dumps(asked)], capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])["peak"]
    assert needed_mib((48, 40, 56), 16) == pytest.approx(
        measured, rel=0.3
    )  # of other versions of PyTorch, too


def test_more_of_anything_takes_more():
    base = needed_mib((64, 64, 64), 16, 1)
    assert needed_mib((72, 64, 64), 16, 1) > base
    assert needed_mib((64, 64, 64), 24, 1) > base
    assert needed_mib((64, 64, 64), 16, 2) > base > needed_mib((64, 64, 64), 16, 1, half=True)


def section(size=(192, 160, 224), **options) -> dict:
    return TrainingPreset("", size=size, **options).configuration()["train"]


def test_what_fits_is_let_through_and_what_does_not_is_refused_with_the_largest_that_does():
    size = (192, 160, 224)
    needed = needed_mib(size, 16)
    check_memory(section(size), size, needed)
    with pytest.raises(InputError) as said:
        check_memory(section(size), size, 4096)
    match = re.fullmatch(
        r"a training on 192 x 160 x 224 voxels with 16 channels and a pair in a step needs about (\S+) GB of "
        r"memory, but 4\.0 GB are free: the largest that fits is (\d+) x (\d+) x (\d+)",
        str(said.value),
    )
    assert match and float(match[1]) == pytest.approx(needed / 1024, abs=0.06)
    smaller = tuple(int(match[n]) for n in (2, 3, 4))
    check_memory(section(smaller), smaller, 4096)
    larger = tuple(n + 16 for n in smaller)
    with pytest.raises(InputError):
        check_memory(section(larger), larger, 4096)
    with pytest.raises(InputError, match="no grid of this shape fits"):
        check_memory(section(size), size, 100)
    with pytest.raises(InputError, match="3 pairs in a step"):
        check_memory(section(size, batch_size=3), size, 4096)


@pytest.mark.parametrize("size", [(64, 64, 64), (33, 70, 9), (8, 8, 300)])
def test_the_largest_grid_is_not_larger_than_asked_for_on_any_axis(size):
    tried = []
    assert largest_size(size, lambda one: tried.append(one)) is None
    assert all(a <= b for one in tried for a, b in zip(one, size, strict=True)) and size not in tried


def test_networks_of_ones_own_are_let_through():
    known = section()
    check_memory({**known, "backbone": {"name": "mine", "num_channel_initial": 512}}, (512, 512, 512), 1)
    check_memory({**known, "backbone": {"name": "unet"}}, (512, 512, 512), 1)


def test_a_training_that_does_not_fit_does_not_begin(tmp_path, monkeypatch):
    from RegCore.samples.datasets import ScanProtocol, make_cases, write_dataset
    from RegCore.training import train
    from RegCore.training.config import Config

    write_dataset(tmp_path / "data", make_cases("paired", ScanProtocol(shape=(16, 16, 16)), count=2))
    monkeypatch.setattr(prepare, "available_memory_mib", lambda: 300.0)
    preset = TrainingPreset(str(tmp_path / "data"), size=(64, 64, 64), epochs=1)
    with pytest.raises(InputError, match=r"needs about 0\.7 GB of memory, but 0\.3 GB are free"):
        train(
            Config.from_dict(preset.configuration(), "test"), log_dir=tmp_path, exp_name="run", device="cpu"
        )
    assert not (tmp_path / "run").exists()


def test_the_formula_needs_no_torch():
    code = f"import sys; import {memory.__name__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
