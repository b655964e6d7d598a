"""The job of registering one pair of files: what ``regcore register`` writes, and a record."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

import RegCore
from RegCore.evaluation.memory import forget_peak_memory
from RegCore.evaluation.overview import thumbnail
from RegCore.evaluation.results import write_results
from RegCore.progress import Progress
from RegCore.registration.files import read_pair
from RegCore.registration.register import register
from RegCore.space.geometry import InputError
from RegCore.studies.folders import DONE, Record, difference, new_record, read_record, whole_folder
from RegCore.studies.rows import figures_of, inputs_of, settings_of
from RegCore.training.plugins import load_plugin

THUMBNAIL = "thumbnail.jpg"


def register_pair(arguments: dict[str, Any], progress: Progress) -> Record:
    """Register a pair of files and write its folder; a job for a pool.

    Args:
        arguments: "row", a `RegCore.studies.rows.Row`; "folder", the path of the result; "device"; and
            "version" of the program that plans the jobs.
        progress: told how far it is.

    Returns:
        The record of the folder. Where the same has been done already, nothing is done again.

    Raises:
        InputError: a file that can't be used, or a worker that runs another version of this program.
    """
    row, folder = arguments["row"], Path(arguments["folder"])
    if arguments["version"] != RegCore.__version__:
        versions = f"{RegCore.__version__}, that which plans the work {arguments['version']}"
        raise InputError(f"the version of RegCore on this worker is {versions}")
    inputs, settings = inputs_of(row), settings_of(row)
    known = read_record(folder)
    if known is not None and known["status"] == DONE and not difference(known, inputs, settings):
        return known
    for plugin in row.plugins:
        load_plugin(plugin)
    forget_peak_memory()
    record = new_record(row.id, inputs, settings)
    with whole_folder(folder, record) as side, _warnings() as notes:
        given, names = read_pair(row.files, list(row.series) or None)
        done = register(
            method=row.method,
            **given,
            settings=dict(row.settings) or None,
            device=arguments["device"],
            seed=row.seed,
            progress=progress,
        )
        about: dict[str, Any] = {"method": row.method, "seed": row.seed}
        about |= {role: str(row.files[role]) for role in ("fixed", "moving")}
        about |= {"structures": names} if names else {}
        labels = (given["fixed_labels"], given["moving_labels"])
        write_results(side, done, given["fixed"], given["moving"], *labels, about)
        with Image.open(side / "overview.png") as picture:
            thumbnail(picture).save(side / THUMBNAIL, quality=80)
        record["figures"] = figures_of(done.metrics, names)
        record["doubts"] = list(done.metrics.get("doubts", ()))
        record["notes"] = [*done.metrics.get("notes", ()), *notes]
        record["method"] = str(row.method)
    return record


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """A list that is filled with what RegCore warns of meanwhile."""
    found: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, entry: logging.LogRecord) -> None:
            found.append(entry.getMessage())

    keeper, logger = Keeper(logging.WARNING), logging.getLogger("RegCore")
    logger.addHandler(keeper)
    try:
        yield found
    finally:
        logger.removeHandler(keeper)
