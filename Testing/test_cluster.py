"""The scripts for clusters: valid shell, options that exist, and what they do when their time is over."""

import os
import re
import subprocess
import sys

import pytest

from Testing.paths import ROOT
from Testing.RegCore.training.runs import configuration, write_pairs

EXAMPLES = ROOT / "Docs" / "examples"
SCRIPTS = sorted(EXAMPLES.glob("train_*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid_and_names_options_that_exist(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    command = [sys.executable, "-m", "RegCore", "train", "--help"]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    called = text[text.index("RegCore train") :].splitlines()[0]
    options = re.findall(r"--[a-z-]+", called + " ".join(re.findall(r"what=\((.*?)\)", text)))
    assert {"--resume", "--out", "--workers"} <= set(options)
    assert [option for option in options if option not in known] == []


@pytest.fixture
def programs(tmp_path):
    """Stand-ins for a cluster's programs in front of the path; python is this one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    alone = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 1"
    for name, text in {
        "python": f'exec {sys.executable} "$@"',
        "torchrun": f'exec {alone} "${{@:11}}"',
        "srun": 'exec "$@"',
        "scontrol": 'if [ "$1" = show ]; then echo here; else echo "$@" >> requeued; fi',
    }.items():
        path = folder / name
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_trains_and_goes_on_when_it_is_started_again(script, programs, tmp_path):
    write_pairs(tmp_path / "pairs", count=3)
    config = tmp_path / "config.yaml"
    configuration(tmp_path / "pairs", epochs=2, valid=False).dump(config)
    slurm = {"SLURM_JOB_NODELIST": "here", "SLURM_NNODES": "1", "SLURM_JOB_ID": "7"}
    command = ["bash", str(script), str(config), str(tmp_path / "run")]
    for _ in range(2):  # the second finds nothing left to do
        done = subprocess.run(
            command, env=programs | slurm, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3
    assert not (tmp_path / "run-1").exists() and not (tmp_path / "requeued").exists()
