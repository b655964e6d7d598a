"""A study on a Dask cluster: the files of one process, bit by bit, whatever dies on the way."""

import csv
import json
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import RegCore
from RegCore.cli import main
from RegCore.space.geometry import InputError
from RegCore.space.names import Lazy
from RegCore.studies import cluster as clusters
from RegCore.studies.cluster import ClusterPool
from RegCore.studies.jobs import Job
from Testing.paths import ROOT
from Testing.RegCore.registration.blobs import centred
from Testing.RegCore.studies.clusters import cluster, kill
from Testing.RegCore.studies.data import write_manifest, write_pairs
from Testing.RegCore.studies.frames import rigid_motion, series_of

distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")
COUNT = 3  # each pair takes seconds, most of them for its pictures
VARYING = {"seconds", "peak_memory_mib"}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Pairs of which the first has segmentations: the pictures of outlines take most of the time."""
    folder = tmp_path_factory.mktemp("pairs")
    with open(write_pairs(folder, COUNT), encoding="utf-8") as file:
        head, first, *others = csv.reader(file)
    return write_manifest(folder, [head, first, *([*row[:3], "", ""] for row in others)])


def words(manifest, out, *more):
    quick = ["--method=classical-affine", "--settings", "max_iter=3", "--device=cpu", "--quiet"]
    return ["register-all", str(manifest), "--out", str(out), *quick, *more]


@pytest.fixture(scope="module")
def expected(manifest, tmp_path_factory):
    """The files of one process on this machine."""
    out = tmp_path_factory.mktemp("one") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "RegCore.studies.shares.processors", lambda: 1
        )  # as many threads as workers of Dask have
        assert main(words(manifest, out, "--workers=1")) == 0
    return contents(out)


def contents(out: Path) -> dict:
    """What a study holds: bytes of the files, figures without times."""
    found: dict = {}
    for path in sorted((out / "pairs").rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.suffix in (".h5", ".gz"):
            found[name] = path.read_bytes()
        elif path.name == "metrics.json":
            figures = json.loads(path.read_text())
            found[name] = {key: value for key, value in figures.items() if key not in VARYING}
        else:
            found[name] = path.is_dir() or path.stat().st_size > 0
    with open(out / "results.csv", encoding="utf-8") as file:
        rows = [{k: v for k, v in row.items() if k not in VARYING} for row in csv.DictReader(file)]
    return found | {"results.csv": rows}


@contextmanager
def meanwhile(action, out, pairs):
    """Do something in a thread as soon as so many pairs are there; yields what was there then."""
    there: dict[str, int] = {}

    def wait():
        while sum(1 for _ in (out / "pairs").glob("case*/record.json")) < pairs:
            time.sleep(0.02)
        there.update({p.parent.name: p.stat().st_ino for p in (out / "pairs").glob("case*/record.json")})
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    yield there
    thread.join(60)
    assert not thread.is_alive()
    for name, inode in there.items():  # what was done before was not done again
        assert (out / "pairs" / name / "record.json").stat().st_ino == inode


def test_a_local_cluster_whose_worker_is_killed_half_way(manifest, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out = tmp_path / "out"
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as made:

        def murder():
            os.kill(next(iter(made.workers.values())).pid, 9)

        with meanwhile(murder, out, 1) as there:
            assert main(words(manifest, out, "--scheduler", made.scheduler_address)) == 0
        assert len(there) >= 1
    assert contents(out) == expected


def test_a_scheduler_that_is_killed_and_started_again(manifest, expected, tmp_path):
    out = tmp_path / "out"
    with cluster(tmp_path) as made:

        def murder():
            kill(made.master)
            for process in made.processes[1:]:
                kill(process)
            made.scheduler()
            made.worker()

        with meanwhile(murder, out, 1) as there:
            assert main(words(manifest, out, "--scheduler-file", str(made.file))) == 0
        assert 1 <= len(there) < COUNT
    assert contents(out) == expected


def test_a_series_is_brought_together_as_in_one_process(tmp_path):
    grid = centred((12, 11, 10), (0.1, -0.2, 0.15), (11.0, 12.0, 13.0))
    series = series_of(grid, [rigid_motion(t) for t in (0, 2)])
    RegCore.save_series(series, tmp_path / "s.nii.gz")
    command = ["register-series", "--frames", str(tmp_path / "s.nii.gz"), "--device=cpu", "--quiet", "--out"]
    with cluster(tmp_path, workers=1) as made:
        assert main([*command, str(tmp_path / "there"), "--scheduler-file", str(made.file)]) == 0
    assert main([*command, str(tmp_path / "here")]) == 0
    for name in ("warped.nii.gz", "motion.csv", "transforms/0000.h5", "transforms.seq.nrrd"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes(), name


def job(name, **arguments):
    return Job(name, Lazy("Testing.RegCore.studies.work", name), arguments)


def test_jobs_fail_on_all_workers_before_they_have_failed(tmp_path):
    with cluster(tmp_path) as made:
        pool = ClusterPool(made.address, None, tmp_path)
        try:
            made_jobs = [job("fails", kind=kind) for kind in ("input", "unexpected")]
            made_jobs += [job("dies", marks=str(tmp_path / "marks"), times=1), job("doubled", n=4)]
            told = []
            outcomes = list(pool.run(made_jobs, 4, lambda *event: told.append(event)))
        finally:
            pool.close()
    kinds = {(o.name, o.kind): o for o in outcomes}
    assert kinds["doubled", ""].value == 8 and kinds["dies", ""].value == 2
    assert kinds["fails", "input"].attempts == 1
    assert kinds["fails", "unexpected"].error == "ValueError: no good"
    assert told[-1][1] == "4 of 4" and told[-1][2]["failed"] == 2


def test_a_cluster_that_is_unfit_is_refused_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="nothing.json: there is no such file"):
        ClusterPool("", tmp_path / "nothing.json", tmp_path)
    with pytest.raises(InputError, match="no Dask scheduler answers there"):
        ClusterPool("tcp://127.0.0.1:1", None, tmp_path)
    with cluster(tmp_path, workers=0) as made:
        monkeypatch.setattr(clusters, "PATIENCE", 1.0)
        with pytest.raises(InputError, match="the cluster has no worker"):
            ClusterPool(made.address, None, tmp_path)
        monkeypatch.setattr(clusters, "PATIENCE", 60.0)
        made.worker()
        here = RegCore.__version__
        with monkeypatch.context() as other:
            other.setattr(RegCore, "__version__", "9.9.9")
            with pytest.raises(
                InputError, match=f"version of RegCore on the worker tcp.* is {here}, here it is 9.9"
            ):
                ClusterPool(made.address, None, tmp_path)
        folder = tmp_path / "late"
        folder.mkdir()
        monkeypatch.setattr(clusters.secrets, "token_hex", lambda size: "\0")
        monkeypatch.setattr(Path, "touch", lambda path: None)
        monkeypatch.setattr(Path, "unlink", lambda path, missing_ok: None)
        with pytest.raises(InputError, match="a shared file system is needed"):
            ClusterPool(made.address, None, folder)
