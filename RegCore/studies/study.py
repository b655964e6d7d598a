"""A study: many pairs registered over one pool; what is done stays done, what is missing is done."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import RegCore
from RegCore.evaluation.results import check_apart
from RegCore.progress import Progress, silent
from RegCore.space.names import Lazy
from RegCore.studies.bids import put_in_place
from RegCore.studies.folders import (
    FAILED,
    difference,
    held,
    new_record,
    read_record,
    remove_unfinished,
    whole_folder,
)
from RegCore.studies.jobs import Job, Outcome, Pool
from RegCore.studies.pools import Place, open_pool
from RegCore.studies.report import check_replaceable, write_report
from RegCore.studies.rows import Row, inputs_of, settings_of, summary_of
from RegCore.studies.shares import shares_of

PAIRS = "pairs"
"""The folder of the folders of the pairs, in that of the study."""
REGISTER = Lazy("RegCore.studies.pair", "register_pair")

log = logging.getLogger(__name__)


@dataclass
class Plan:
    """What is to be done of a study, and what is there.

    Args:
        todo: rows to register.
        summaries: of the rows that are done or have failed, by id, see `RegCore.studies.rows.summary_of`.
        reasons: how many of `todo` are there for which reason: "new", "retry", or what `difference` says.
    """

    todo: list[Row] = field(default_factory=list)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The summaries of the rows that failed."""
        return [summary for summary in self.summaries.values() if summary["status"] == FAILED]


def plan_study(rows: Sequence[Row], out: Path, retry: bool = False) -> Plan:
    """Compare what is asked for with what is there.

    Args:
        rows: of the study.
        out: its folder.
        retry: do again what failed.
    """
    plan = Plan()
    top = os.path.join(out, PAIRS)
    for row in rows:
        record = read_record(Path(top, row.id))
        reason = "new" if record is None else difference(record, inputs_of(row), settings_of(row))
        if not reason and record is not None and record["status"] == FAILED and retry:
            reason = "retry"
        if reason or record is None:
            plan.todo.append(row)
            plan.reasons[reason] += 1
        else:
            plan.summaries[row.id] = summary_of(record)
    return plan


def register_all(
    rows: Sequence[Row],
    out: Path,
    *,
    place: Place | None = None,
    workers: int | None = None,
    device: str = "auto",
    retry: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = log.info,
    job: Lazy = REGISTER,
) -> list[dict[str, Any]]:
    """Register every row that is not done yet, then write ``results.csv`` and ``report.html``.

    Each pair gets the folder ``pairs/<id>`` with the files of ``regcore register``, a record and a thumbnail.
    A pair that fails leaves a record alone, which says why, and the others go on.

    Args:
        rows: of the study; their ids differ.
        out: folder of the study; one run at a time may work in it.
        place: this machine (default), or a cluster.
        workers: processes on this machine; by default one a processor, if there is memory for them.
        device: what the methods compute on.
        retry: do again what failed before.
        progress: of all pairs; raising `Cancelled` in it stops. What is done then stays, and is reported.
        tell: told in sentences what is going to be done.
        job: the function that registers a row, see `RegCore.studies.pair.register_pair`.

    Returns:
        The summaries of all rows that are done or have failed, see `RegCore.studies.rows.summary_of`.

    Raises:
        InputError: the folder, the cluster or this machine can't be used.
        Cancelled: the progress said so.
    """
    place, out = place or Place(), Path(out).absolute()
    check_replaceable(out)
    for row in rows:
        check_apart(out, [f"{PAIRS}/{row.id}"], inputs_of(row).values())
    with held(out):
        remove_unfinished(out / PAIRS)
        plan = plan_study(rows, out, retry)
        tell(_in_words(plan, len(rows)))
        for row in rows:
            if row.id in plan.summaries:  # a run that was killed may not have come to their BIDS names
                put_in_place(row, out / PAIRS / row.id, out)
        try:
            if plan.todo:
                jobs = _jobs(plan.todo, out, device, job)
                with _pool(plan, place, out, workers, tell) as pool:
                    _run(plan, pool.run(jobs, len(plan.todo), progress), out)
                remove_unfinished(out / PAIRS)  # of workers that were killed
        finally:
            found = [plan.summaries[row.id] for row in rows if row.id in plan.summaries]
            write_report(out, found)
    return found


def _pool(
    plan: Plan, place: Place, out: Path, workers: int | None, tell: Callable[[str], None]
) -> AbstractContextManager[Pool]:
    """The workers; of this machine as many as there is room for."""
    if place.is_cluster:
        return open_pool(place, out)
    shares = shares_of(plan.todo, len(plan.todo), workers)
    size = f"{shares.workers} processes, {shares.threads} threads each; a pair needs up to"
    tell(shares.note or f"{size} {shares.memory_mib:.0f} MiB")
    return open_pool(place, out, shares.workers, shares.threads)


def _run(plan: Plan, outcomes: Iterator[Outcome], out: Path) -> None:
    """Take what comes of the jobs into the plan."""
    rows = {row.id: row for row in plan.todo}
    try:
        for outcome in outcomes:
            row = rows[outcome.name]
            plan.summaries[row.id] = summary_of(_recorded(outcome, row, out))
            put_in_place(row, out / PAIRS / row.id, out)
    finally:
        cast(Generator, outcomes).close()  # which ends what still runs


def _jobs(rows: Sequence[Row], out: Path, device: str, job: Lazy) -> Iterator[Job]:
    for row in rows:
        about = {"row": row, "device": device, "version": RegCore.__version__}
        yield Job(row.id, job, {**about, "folder": out / PAIRS / row.id})


def _recorded(outcome: Outcome, row: Row, out: Path) -> dict[str, Any]:
    """The record of a pair; for one that failed it is written here."""
    if not outcome.error:
        return outcome.value
    record = new_record(row.id, inputs_of(row), settings_of(row))
    record |= {"status": FAILED, "error": outcome.error, "kind": outcome.kind, "method": str(row.method)}
    record |= {"details": outcome.details, "attempts": outcome.attempts}
    with whole_folder(out / PAIRS / row.id, record):
        log.info("%s: %s", row.id, outcome.error)
    return record


def _in_words(plan: Plan, total: int) -> str:
    """What there is to do."""
    words = {
        "new": "new",
        "retry": "failed before",
        "input": "with a changed input",
        "settings": "with changed settings",
        "version": "of another version of this program",
    }
    parts = [f"{plan.reasons[reason]} {word}" for reason, word in words.items() if plan.reasons[reason]]
    done = len(plan.summaries) - len(plan.failed)
    parts += [f"{done} done already"] if done else []
    parts += [f"{len(plan.failed)} failed before (--retry does them again)"] if plan.failed else []
    return f"{total} pairs: {', '.join(parts)}"
