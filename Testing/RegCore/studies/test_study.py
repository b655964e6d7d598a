"""A study does what is missing, what failed if asked, and what has changed; nothing is lost or done twice."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

import RegCore
from RegCore.progress import Cancelled
from RegCore.space.geometry import InputError
from RegCore.space.names import Lazy
from RegCore.studies import shares
from RegCore.studies.folders import read_record
from RegCore.studies.study import plan_study, register_all
from Testing.paths import ROOT
from Testing.RegCore.studies.data import plain_rows

PRETEND = Lazy("Testing.RegCore.studies.data", "pretend")


def run(rows, out, **options):
    """Do a study with jobs that only pretend; the summaries, and which rows were begun."""
    calls = out.with_name("calls")
    calls.write_text("")
    found = register_all(rows, out, workers=2, job=PRETEND, **options)
    return found, sorted(calls.read_text().splitlines())


def table(out):
    with open(out / "results.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_all_are_done_once_and_nothing_is_done_again(tmp_path):
    rows, out = plain_rows(tmp_path / "data", 7), tmp_path / "out"
    found, begun = run(rows, out)
    assert [summary["id"] for summary in found] == begun == [row.id for row in rows]
    assert sorted(os.listdir(out / "pairs")) == begun
    assert sorted(os.listdir(out)) == ["pairs", "report.html", "results.csv"]
    assert {(row["status"], row["verdict"], row["ncc_after"]) for row in table(out)} == {
        ("done", "better", "0.5")
    }
    again, begun = run(rows, out)
    assert again == found and begun == []
    more, begun = run([*rows, replace(rows[0], id="another")], out)
    assert len(more) == 8 and begun == ["another"]


def test_a_failed_pair_does_not_stop_the_others_and_is_retried_when_asked(tmp_path):
    rows, out = plain_rows(tmp_path / "data", 4), tmp_path / "out"
    rows[1].files["moving"].write_text("bad")
    found, begun = run(rows, out)
    assert len(begun) == 4 and [s["verdict"] for s in found] == ["better", "failed", "better", "better"]
    assert os.listdir(out / "pairs" / "pair 1") == ["record.json"]
    assert table(out)[0]["id"] == "pair 1" and table(out)[0]["error"] == "ValueError: a bad file"
    assert run(rows, out)[1] == []
    assert run(rows, out, retry=True)[1] == ["pair 1"]
    rows[1].files["moving"].write_text("good")
    found, begun = run(rows, out)  # the file has changed: no --retry is needed
    assert begun == ["pair 1"] and {s["status"] for s in found} == {"done"}


def test_what_has_changed_since_is_done_again(tmp_path, monkeypatch):
    rows, out = plain_rows(tmp_path / "data", 4), tmp_path / "out"
    told = []
    run(rows, out, tell=told.append)
    rows[0].files["fixed"].write_text("other content")
    rows[1] = replace(rows[1], settings={"levels": 2})
    rows[2] = replace(rows[2], method="rigid")
    os.utime(rows[3].files["fixed"], ns=(5, 5))
    assert run(rows, out, tell=told.append)[1] == ["pair 0", "pair 1", "pair 2"]
    assert told[0] == "4 pairs: 4 new"
    assert "4 pairs: 1 with a changed input, 2 with changed settings, 1 done already" in told
    monkeypatch.setattr(RegCore, "__version__", "9.9.9")
    plan = plan_study(rows, out)
    assert plan.reasons == {"version": 4} and not plan.summaries


def test_a_stopped_study_is_reported_and_goes_on(tmp_path):
    rows, out = plain_rows(tmp_path / "data", 12), tmp_path / "out"

    def progress(fraction, text, values):
        if fraction > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(rows, out, progress=progress)
    done = {row["id"] for row in table(out)}
    assert 0 < len(done) < 12
    found, begun = run(rows, out)
    assert len(found) == 12 and not done & set(begun)


def test_another_run_in_the_folder_and_a_folder_that_is_a_file_are_refused(tmp_path):
    rows = plain_rows(tmp_path / "data", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        register_all(rows, tmp_path / "file", job=PRETEND)


def test_workers_share_processors_and_memory(tmp_path, monkeypatch):
    rows = plain_rows(tmp_path / "data", 9)
    monkeypatch.setattr(shares, "processors", lambda: 8)
    monkeypatch.setattr(shares, "largest_voxels", lambda rows: 4 * 2**20)  # 600 + 1200 MiB
    for free, jobs, asked, expected in (
        (1e6, 100, None, (8, 1)),
        (1e6, 100, 2, (2, 4)),
        (1e6, 3, None, (3, 2)),
        (6000, 100, None, (3, 2)),
        (6000, 100, 4, (3, 2)),
        (1900, 100, 4, (1, 8)),
        (float("inf"), 100, None, (8, 1)),
    ):
        monkeypatch.setattr(shares, "available_memory_mib", lambda free=free: free)
        found = shares.shares_of(rows, jobs, asked)
        assert (found.workers, found.threads, found.memory_mib) == (*expected, 1800)
        assert bool(found.note) == (free == 6000 or free == 1900)
    monkeypatch.setattr(shares, "available_memory_mib", lambda: 1000.0)
    with pytest.raises(InputError, match="needs about 1800 MiB of memory, but only 1000 MiB are free"):
        shares.shares_of(rows, 100, None)


def costly(rows, seconds):
    """The rows with jobs that take a while."""
    return [replace(row, settings={"cost": seconds}) for row in rows]


def test_a_study_that_is_killed_again_and_again_loses_nothing_and_does_nothing_twice(tmp_path):
    rows, out = costly(plain_rows(tmp_path / "data", 40), 0.1), tmp_path / "out"
    code = (
        "from pathlib import Path; from RegCore.studies.study import register_all\n"
        "from Testing.RegCore.studies.data import plain_rows\n"
        "from Testing.RegCore.studies.test_study import PRETEND, costly\n"
        f"rows = costly(plain_rows(Path({str(tmp_path / 'data')!r}), 40), 0.1)\n"
        f"register_all(rows, Path({str(out)!r}), workers=2, job=PRETEND)\n"
    )
    seen: dict[str, int] = {}
    kills = 0
    for attempt in range(50):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        more = 4 + 3 * (attempt % 3)  # pairs after which this run is killed
        end, before = time.monotonic() + 60, len(seen)
        while process.poll() is None and len(seen) < before + more and time.monotonic() < end:
            time.sleep(0.01)
            for row in rows:  # a folder that can be seen is whole, and is never replaced
                record = out / "pairs" / row.id / "record.json"
                if record.exists():
                    assert read_record(record.parent) is not None
                    assert seen.setdefault(row.id, record.stat().st_ino) == record.stat().st_ino
        if process.poll() == 0:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert process.returncode == 0 and kills > 3
    assert len(table(out)) == 40 and {row["status"] for row in table(out)} == {"done"}
    assert sorted(os.listdir(out / "pairs")) == sorted(row.id for row in rows)


def test_workers_that_are_killed_cost_no_pair(tmp_path):
    rows, out = costly(plain_rows(tmp_path / "data", 30), 0.1), tmp_path / "out"
    killed: list[int] = []

    def progress(fraction, text, values):
        workers = psutil.Process().children()
        if len(killed) < 4 and fraction > 0.2 * len(killed) and workers:
            killed.append(workers[0].pid)
            workers[0].kill()

    found, _ = run(rows, out, progress=progress)
    assert len(killed) == 4 and [summary["status"] for summary in found] == ["done"] * 30
    assert sorted(os.listdir(out / "pairs")) == sorted(row.id for row in rows)
