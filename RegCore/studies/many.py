"""Registrations of which a study consists, on a pool of workers or one after another in this process."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from RegCore.progress import Progress, part_of, silent
from RegCore.registration.intensity_refinement import refined_on_intensities
from RegCore.registration.register import register
from RegCore.space.geometry import InputError
from RegCore.space.names import Lazy
from RegCore.space.transforms import AffineTransform, Transform
from RegCore.space.volume import Volume
from RegCore.studies.jobs import Job, Outcome, Pool, perform
from RegCore.studies.pools import Place, open_pool
from RegCore.studies.shares import processors


@dataclass(frozen=True)
class How:
    """How all registrations of a study are done.

    Args:
        method, settings, device, seed: as in `RegCore.register`, the method by its name or as a model file.
        exact: make what linear methods find exact on the intensities, for images of one kind.
    """

    method: str | Path = "auto"
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    seed: int = 0
    exact: bool = False


def registered(
    name: str,
    fixed: Volume,
    moving: Volume,
    how: How,
    *,
    initial: Transform | None = None,
    mask: Volume | None = None,
    progress: Progress = silent,
) -> Transform:
    """Register two images.

    Args:
        name: what errors and the progress call the pair, for example "frame 7".
        fixed, moving, initial: as in `RegCore.register`.
        how: how it is done.
        mask: where the fixed image counts.
        progress: told of the fraction and the name.

    Returns:
        x_moving = T(x_fixed), RAS mm.

    Raises:
        InputError: it can't be done; the sentence begins with the name.
    """

    def tell(fraction: float, stage: str, values: dict) -> None:
        progress(fraction, name, values)

    try:
        result = register(
            fixed,
            moving,
            how.method,
            fixed_mask=mask,
            initial=initial,
            settings=dict(how.settings),
            device=how.device,
            seed=how.seed,
            progress=tell,
        )
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    if not (how.exact and isinstance(result.transform, AffineTransform)):
        return result.transform
    rigid = how.method == "rigid"
    return refined_on_intensities(fixed, moving, result.transform, rigid=rigid, mask=mask)


def register_job(arguments: dict[str, Any], progress: Progress) -> Transform:
    """The `RegCore.studies.jobs.JobFunction` of one registration; its arguments are those of `registered`.

    Raises:
        InputError: as `registered`.
    """
    return registered(**arguments, progress=progress)


def pair_job(
    name: str,
    fixed: Volume,
    moving: Volume,
    how: How,
    *,
    initial: Transform | None = None,
    mask: Volume | None = None,
) -> Job:
    """The job of one registration, with the arguments of `registered`."""
    arguments = {"fixed": fixed, "moving": moving, "how": how, "initial": initial, "mask": mask}
    return Job(name, Lazy("RegCore.studies.many", "register_job"), {"name": name, **arguments})


def values_of(jobs: Iterable[Job], pool: Pool | None, progress: Progress = silent) -> list[Any]:
    """Do jobs of different names that all must succeed.

    Args:
        jobs: what is to be done.
        pool: where it is done; None is this process, one after another.
        progress: told of the fraction of all jobs.

    Returns:
        The value of each job, in the order of the jobs.

    Raises:
        InputError: a job can't be done.
        MemoryError: a job has too little memory.
        RuntimeError: a job failed for another reason.
    """
    listed = list(jobs)
    found: dict[str, Any] = {}
    outcomes = _here(listed, progress) if pool is None else pool.run(listed, len(listed), progress)
    for outcome in outcomes:
        if outcome.error:
            raise _error(outcome)
        found[outcome.name] = outcome.value
    return [found[job.name] for job in listed]


def _here(jobs: list[Job], progress: Progress) -> Iterator[Outcome]:
    for number, job in enumerate(jobs):
        yield perform(job, part_of(progress, number / len(jobs), (number + 1) / len(jobs)))


def _error(outcome: Outcome) -> Exception:
    """The exception of a job that failed."""
    if outcome.kind == "input":
        return InputError(outcome.error)
    if outcome.kind == "memory":
        return MemoryError(f"{outcome.name}: {outcome.error}")
    return RuntimeError(f"{outcome.name}: {outcome.error}\n{outcome.details}")


@contextmanager
def optional_pool(workers: int, place: Place, folder: Path) -> Iterator[Pool | None]:
    """The workers of a cluster, or warm processes that share this machine; None, this process, for one.

    Args:
        workers: processes on this machine.
        place: a cluster, if it names one.
        folder: of the results, which every worker of a cluster must see.

    Raises:
        InputError: the cluster can't be used.
    """
    if workers == 1 and not place.is_cluster:
        yield None
        return
    with open_pool(place, folder, workers, max(1, processors() // workers)) as pool:
        yield pool
