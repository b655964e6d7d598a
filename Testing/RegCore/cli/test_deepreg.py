"""DeepReg's commands: their flags and default values, their logs, and how they end."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from RegCore.cli import deepreg, deepreg_arguments, main
from RegCore.cli.train import device_of
from RegCore.samples import datasets
from RegCore.space.geometry import InputError
from Testing.paths import ROOT

COMMANDS = ("train", "predict", "warp", "vis", "download")


@pytest.fixture
def given(monkeypatch):
    """What run_train and run_predict are called with."""
    found = []
    monkeypatch.setattr(deepreg_arguments, "run_train", found.append)
    monkeypatch.setattr(deepreg_arguments, "run_predict", found.append)
    return found


def test_default_values_of_training(given):
    assert deepreg.train(["--config_path", "a.yaml"]) == 0
    (arguments,) = given
    assert arguments.config_path == ["a.yaml"] and arguments.ckpt_path == "" and arguments.gpu is None
    assert arguments.log_dir == "logs" and arguments.exp_name == "" and arguments.max_epochs == -1


def test_every_flag_of_training(given):
    words = "-gr True --num_workers 2 -k logs/a/save/ckpt-2 --log_dir out -l name -c a.yaml b.yaml"
    words += " --max_epochs 3 --plugin p.py --plugin q.py"
    assert deepreg.train(["-g", "0, 1", *words.split()]) == 0
    (arguments,) = given
    assert arguments.gpu == (0, 1) and arguments.num_workers == 2 and arguments.max_epochs == 3
    assert arguments.ckpt_path == "logs/a/save/ckpt-2" and arguments.config_path == ["a.yaml", "b.yaml"]
    assert arguments.log_dir == "out" and arguments.exp_name == "name"
    assert arguments.plugin == [Path("p.py"), Path("q.py")]


@pytest.mark.parametrize(
    ("text", "numbers"), [("", ()), ("0", (0,)), ("0,1", (0, 1)), ("1, 3", (1, 3)), ("-1", ())]
)
def test_gpus_are_numbers_and_none_is_the_cpu(given, text, numbers):
    assert deepreg.train([f"--gpu={text}", "-c", "a.yaml"]) == 0
    assert deepreg.predict([f"--gpu={text}", "-k", "ckpt-1", "--split", "test"]) == 0
    assert [arguments.gpu for arguments in given] == [numbers, numbers]


@pytest.mark.parametrize(
    "words", [["--gpu_allow_growth"], ["--gpu_allow_growth", "True"], ["-gr"], ["-gr", "False"], []]
)
def test_memory_of_the_gpu_may_be_spoken_of_with_and_without_a_value(given, words):
    assert deepreg.train(["-g", "", *words, "--num_workers", "2", "-c", "a.yaml"]) == 0
    assert given[0].num_workers == 2


def test_default_values_of_prediction(given):
    assert deepreg.predict(["-k", "logs/a/save/ckpt-2", "--split", "valid"]) == 0
    (arguments,) = given
    assert arguments.split == "valid" and arguments.batch_size == 1 and arguments.config_path == []
    assert arguments.nifti is True and arguments.png is False
    assert arguments.log_dir == "logs" and arguments.exp_name == ""


def test_every_flag_of_prediction(given):
    words = (
        "-g 0 -gr 1 --num_workers 4 -k c --split train -b 3 --log_dir l -n e --no_nifti --save_png -c x.yaml"
    )
    assert deepreg.predict(words.split()) == 0
    (arguments,) = given
    assert arguments.nifti is False and arguments.png is True and arguments.batch_size == 3
    assert arguments.exp_name == "e" and arguments.config_path == ["x.yaml"] and arguments.ckpt_path == "c"
    assert deepreg.predict([*words.split(), "--save_nifti", "--no_png"]) == 0
    assert given[1].nifti is True and given[1].png is False


BAD = {
    "are required: --config_path/-c": ("train", []),
    "numbers as": ("train", ["-g", "one", "-c", "a.yaml"]),
    "are required: --ckpt_path/-k, --split": ("predict", ["-g", ""]),
    "the split is 'tset', expected one of train, valid, test, did you mean test?": (
        *("predict", ["-k", "c", "--split", "tset"]),
    ),
    "at least 1 was expected, not '0'": ("predict", ["-k", "c", "--split", "test", "-b", "0"]),
    "are required: --image/-i": ("warp", ["-d", "ddf.nii.gz"]),
    "are required: --mode/-m, --image-paths/-i": ("vis", []),
    "unrecognized arguments: --output": ("download", ["--output", "x", "y"]),
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_arguments_end_with_2_and_a_sentence(given, capsys, sentence):
    command, words = BAD[sentence]
    assert getattr(deepreg, command)(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"deepreg_{command}: error: ") and not given
    assert sentence in lines[0] or command == "download"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_given_at_once_and_without_torch(command):
    code = f"import sys; from RegCore.cli.deepreg import {command}; "
    code += (
        f"sys.exit({command}(['--help']) or bool({{'torch', 'scipy', 'nibabel', 'PIL'}} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f"usage: deepreg_{command}" in run.stdout


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        *((None, "info warning error critical"), ("0", "debug info warning error critical")),
        *(("1", "debug info warning error critical"), ("2", "info warning error critical")),
        *(("3", "warning error critical"), ("4", "error critical"), ("5", "critical")),
    ],
)
def test_the_log_level_is_that_of_the_environment(monkeypatch, capsys, level, seen):
    def speak(_):
        for name in ("debug", "info", "warning", "error", "critical"):
            getattr(logging.getLogger("RegCore.some.room"), name)("%s is said", name)

    monkeypatch.delenv("DEEPREG_LOG_LEVEL", raising=False)
    if level is not None:
        monkeypatch.setenv("DEEPREG_LOG_LEVEL", level)
    monkeypatch.setattr(deepreg_arguments, "run_train", speak)
    for _ in range(2):
        assert deepreg.train(["-c", "a.yaml"]) == 0
        lines = capsys.readouterr().err.splitlines()
        assert [line.split()[2] for line in lines] == seen.split()
        assert [line.split()[1] for line in lines] == seen.upper().split()
    speak(None)  # the log of a program that calls the command is left as it was
    assert "is said" not in capsys.readouterr().out


def test_a_log_level_that_is_none_is_refused(monkeypatch, capsys, given):
    monkeypatch.setenv("DEEPREG_LOG_LEVEL", "INFO")
    assert deepreg.train(["-c", "a.yaml"]) == 2
    assert "DEEPREG_LOG_LEVEL must be a number from 0 to 5, not 'INFO'" in capsys.readouterr().err


@pytest.mark.parametrize("run", [deepreg.download, lambda words: main(["download", *words])])
def test_download_writes_the_examples_where_it_is_told_to(monkeypatch, capsys, tmp_path, run):
    folders = []
    monkeypatch.setattr(datasets, "write_examples", folders.append)
    monkeypatch.chdir(tmp_path)
    assert run([]) == run(["-d", "x"]) == run(["--output_dir", "y", "--branch", "main"]) == 0
    assert folders == [Path("."), Path("x"), Path("y")]
    assert "--branch main is ignored" in capsys.readouterr().err


def test_a_folder_that_can_not_be_made_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert deepreg.download(["-d", str(tmp_path / "file")]) == 2
    assert "can't be written" in capsys.readouterr().err


@pytest.mark.parametrize(("gpus", "named"), [((0,), "0"), ((0, 1), "0,1")])
def test_a_gpu_that_is_asked_for_must_be_there(monkeypatch, caplog, gpus, named):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        InputError, match=f'--gpu {named}: PyTorch finds no such graphics card here; --gpu ""'
    ):
        device_of(gpus)
    assert ("one process uses one card" in caplog.text) == (len(gpus) > 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device_of(gpus) == "cuda" and os.environ["CUDA_VISIBLE_DEVICES"] == named
