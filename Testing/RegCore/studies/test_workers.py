"""Jobs on warm processes: all are done once, whatever happens to the processes."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from RegCore.progress import Cancelled
from RegCore.space.names import Lazy
from RegCore.studies.jobs import Job, perform
from RegCore.studies.workers import LocalPool
from Testing.paths import ROOT


def job(name, function, **arguments):
    return Job(name, Lazy("Testing.RegCore.studies.work", function), arguments)


def numbers(count):
    return [job(f"no {n}", "doubled", n=n) for n in range(count)]


def until(condition, seconds=20):
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(number):
    """Whether a process still runs; one that only waits to be reaped does not."""
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_job_is_done_once_and_processes_stay_warm_between_runs():
    with LocalPool(2, threads=3) as pool:
        found = {outcome.name: outcome.value for outcome in pool.run(iter(numbers(50)), 50)}
        assert found == {f"no {n}": 2 * n for n in range(50)}
        first = [process.process_id for process in pool.processes]
        second = [o.value for o in pool.run([job(str(n), "process") for n in range(6)], 6)]
        assert {number for number, _ in second} <= set(first) and len(set(first)) == 2
        assert {threads for _, threads in second} == {"3"}
        assert list(pool.run([])) == []
    until(lambda: not any(alive(number) for number in first))


def test_the_jobs_are_taken_only_as_workers_fall_free():
    taken = []

    def plan():
        for one in numbers(100):
            taken.append(one)
            yield one

    with LocalPool(1) as pool:
        outcomes = pool.run(plan(), 100)
        next(outcomes)
        outcomes.close()
        done = len(taken)
        assert done < 100
        assert len(list(pool.run(numbers(3), 3))) == 3  # the processes are ready for the next run
    assert len(taken) == done


@pytest.mark.parametrize("kind", ["input", "memory", "unexpected"])
def test_a_failed_job_is_a_sentence_and_the_rest_goes_on(kind):
    jobs = [job("bad", "fails", kind=kind), *numbers(3)]
    with LocalPool(1) as pool:
        found = {outcome.name: outcome for outcome in pool.run(jobs, 4)}
    sentences = {"input": "the input is wrong", "unexpected": "ValueError: no good"}
    memory = "there is not enough memory for volumes of this size"
    assert found["bad"].kind == kind and found["bad"].error == sentences.get(kind, memory)
    assert "Traceback" in found["bad"].details and found["bad"].value is None
    assert [found[f"no {n}"].value for n in range(3)] == [0, 2, 4]
    here = perform(jobs[0])
    assert (here.kind, here.error) == (found["bad"].kind, found["bad"].error)


def test_what_a_job_prints_and_what_cannot_be_sent_do_not_disturb_the_channel():
    jobs = [job("prints", "prints"), job("odd", "unpicklable"), *numbers(2)]
    with LocalPool(1) as pool:
        found = {outcome.name: outcome for outcome in pool.run(jobs, 4)}
    assert found["prints"].value[0] == b"" and np.array_equal(found["prints"].value[1], [0, 1, 2])
    assert "can't be sent" in found["odd"].error and found["no 1"].value == 2


def test_a_job_whose_process_dies_is_begun_again_but_not_for_ever(tmp_path):
    jobs = [job("once", "dies", marks=tmp_path / "once", times=1)]
    jobs += [job("always", "dies", marks=tmp_path / "always", times=99), *numbers(4)]
    with LocalPool(2) as pool:
        found = {outcome.name: outcome for outcome in pool.run(jobs, len(jobs))}
    assert len(found) == 6 and [found[f"no {n}"].value for n in range(4)] == [0, 2, 4, 6]
    assert found["once"].value == 2 and found["once"].attempts == 2
    assert found["always"].kind == "lost" and "3 times" in found["always"].error
    assert "SIGKILL" in found["always"].details and (tmp_path / "always").read_text() == "xxx"


def test_progress_counts_all_jobs_and_tells_the_time_left():
    told = []
    jobs = [job("bad", "fails", kind="input"), *numbers(9)]
    with LocalPool(2) as pool:
        list(pool.run(jobs, 10, lambda *event: told.append(event)))
    fractions = [fraction for fraction, _, _ in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert told[-1][1] == "10 of 10" and told[-1][2]["failed"] == 1
    assert told[-1][2]["seconds_left"] == 0 and told[-1][2]["workers"] >= 1


@pytest.mark.parametrize("looks", [True, False])
def test_cancelling_ends_running_jobs_and_begins_no_more(tmp_path, looks, monkeypatch):
    monkeypatch.setattr("RegCore.studies.workers.GRACE", 1.0)
    logs = [tmp_path / str(n) for n in range(3)]

    def progress(fraction, text, values):
        if all(log.exists() for log in logs[:2]):
            raise Cancelled

    jobs = [job(log.name, "slow", log=log, looks=looks) for log in logs]
    began = time.monotonic()
    with LocalPool(2) as pool:
        with pytest.raises(Cancelled):
            list(pool.run(jobs, 3, progress))
        assert time.monotonic() - began < 30  # of the minute that the jobs take
        assert [log.read_text() for log in logs[:2]] == ["began\n"] * 2 and not logs[2].exists()
        assert [outcome.value for outcome in pool.run(numbers(2), 2)]


def test_an_error_of_the_plan_comes_out_where_the_outcomes_are_taken():
    def plan():
        yield from numbers(1)
        raise KeyError("the plan")

    with LocalPool(2) as pool, pytest.raises(KeyError, match="the plan"):
        list(pool.run(plan(), 2))


@pytest.mark.parametrize("looks", [True, False])
def test_processes_end_when_their_parent_is_killed(tmp_path, looks):
    code = (
        "import sys; from RegCore.studies.workers import LocalPool; from RegCore.studies.jobs import Job\n"
        "from RegCore.space.names import Lazy\n"
        f"jobs = [Job('slow', Lazy('Testing.RegCore.studies.work', 'slow'), "
        f"{{'log': {str(tmp_path / 'log')!r}, 'looks': {looks}}})]\n"
        "pool = LocalPool(1)\n"
        "def progress(*_): print(pool.processes[0].process_id, flush=True)\n"
        "list(pool.run(jobs, 1, progress))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    until(lambda: (tmp_path / "log").exists())
    child = next(int(line) for line in parent.stdout if line.strip() != "None")
    assert alive(child)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    until(lambda: not alive(child))
    parent.stdout.close()
    assert (tmp_path / "log").read_text() == "began\n"
