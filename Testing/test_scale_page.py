"""Every command and every piece of Python in Docs/scale.md runs as it is written, and so do its examples."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from RegCore.cli import main
from RegCore.io import save
from RegCore.samples.phantom import make_phantom
from Testing.paths import ROOT

PAGE = (ROOT / "Docs" / "scale.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "Docs" / "examples"


def blocks(language):
    """The fenced blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder with what the page speaks of: two scans with segmentations, a manifest, a BIDS data set."""
    monkeypatch.chdir(tmp_path)
    case = make_phantom(0, fixed_shape=(22, 20, 18), moving_shape=(20, 21, 18))
    for folder in ("scans", "dataset/sub-01/anat"):
        (tmp_path / folder).mkdir(parents=True)
    for name, image, labels in (
        ("anna", case.fixed, case.fixed_labels),
        ("ben", case.moving, case.moving_labels),
    ):
        save(image, tmp_path / "scans" / f"{name}.nii.gz")
        save(labels, tmp_path / "scans" / f"{name}_seg.nii.gz")
        save(image, tmp_path / "dataset" / "sub-01" / "anat" / f"sub-01_acq-{name}_T1w.nii.gz")
    (tmp_path / "manifest.csv").write_text(blocks("csv")[0])
    return tmp_path


def test_every_command_of_the_page_runs(study, capsys):
    processes = []
    try:
        for line in "".join(blocks("bash")).splitlines():
            program, *words = shlex.split(line)
            if program == "dask":
                environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
                command = [sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *words[1:]]
                more = ["--no-dashboard", "--host", "127.0.0.1"] + ["--port", "0"] * (words[0] == "scheduler")
                out = subprocess.DEVNULL
                processes.append(subprocess.Popen([*command, *more], env=environment, stdout=out, stderr=out))
                while words[0] == "scheduler" and not (study / "scheduler.json").exists():
                    assert processes[-1].poll() is None
            else:
                assert program == "regcore"
                assert main([*words, *["--quiet"] * (words[0] != "report")]) == 0, capsys.readouterr().err
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()
    for folder in ("study", "to-anna", "all", "derivative", "on-cluster"):
        assert (study / folder / "report.html").is_file() and list((study / folder / "pairs").iterdir())
    assert len(processes) == 2


def test_every_piece_of_python_of_the_page_runs(study, capsys):
    for block in blocks("python"):
        exec(compile(block, "scale.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "('anna', '" in printed and (study / "study" / "results.csv").is_file()


STAND_IN = '''
import json, os, distributed
class Queue:
    """In place of a batch system: its jobs are processes of this machine."""
    def __init__(self, **options):
        with open("options.json", "w") as file:
            json.dump([type(self).__name__, options], file)
        self._cluster = distributed.LocalCluster(0, threads_per_worker=1, dashboard_address=None)
        self.scheduler_address = self._cluster.scheduler_address
    def scale(self, jobs):
        self._cluster.scale(jobs)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self._cluster.close()
class SLURMCluster(Queue): pass
class SGECluster(Queue): pass
'''


@pytest.mark.parametrize("kind", ["slurm", "sge"])
def test_the_script_for_batch_systems_starts_workers_and_registers(study, kind):
    (study / "bin").mkdir()
    (study / "bin" / "dask_jobqueue.py").write_text(STAND_IN)
    words = [kind, "--jobs", "1", "--memory", "2GB", "--", "manifest.csv", "--out", "queued"]
    run = subprocess.run(
        [sys.executable, EXAMPLES / "register_jobqueue.py", *words, "--method=rigid"],
        env={**os.environ, "PYTHONPATH": f"{study / 'bin'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "2 of 2 pairs registered" in run.stdout
    name, options = yaml.safe_load((study / "options.json").read_text())
    assert name.lower().startswith(kind) and options["memory"] == "2GB" and options["processes"] == 1


def test_the_cluster_for_kubernetes_has_what_the_operator_wants():
    made = yaml.safe_load((EXAMPLES / "register_kubernetes.yaml").read_text(encoding="utf-8"))
    assert (made["apiVersion"], made["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")
    scheduler, worker = made["spec"]["scheduler"], made["spec"]["worker"]
    pods = (scheduler["spec"], worker["spec"])
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1  # the same versions everywhere
    mounts = [pod["containers"][0]["volumeMounts"][0]["mountPath"] for pod in pods]
    assert mounts == ["/data", "/data"] and "dask" in worker["spec"]["containers"][0]["args"]
    ports = {port["port"] for port in scheduler["service"]["ports"]}
    assert 8786 in ports and scheduler["spec"]["containers"][0]["ports"][0]["containerPort"] == 8786
