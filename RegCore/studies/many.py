"""Registrations of which a study consists, on a pool of workers or one after another in this process."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from RegCore.progress import Progress, part_of, silent
from RegCore.registration.doubts import doubts
from RegCore.registration.intensity_refinement import refined_on_intensities
from RegCore.registration.pair import PairSide
from RegCore.registration.register import register
from RegCore.space.geometry import InputError
from RegCore.space.names import Lazy, is_path
from RegCore.space.transforms import AffineTransform, Transform
from RegCore.space.volume import Volume
from RegCore.studies.jobs import Job, Outcome, Pool, perform
from RegCore.studies.pools import Place, open_pool
from RegCore.studies.shares import processors
from RegCore.studies.steps import KeptStep, kept


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

    def about(self) -> dict[str, Any]:
        """What the result depends on, as JSON can say it; a model file counts as an input."""
        method = "model" if is_path(self.method) else str(self.method)
        return {"method": method, "settings": dict(self.settings), "seed": self.seed, "exact": self.exact}


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
    """The `RegCore.studies.jobs.JobFunction` of one registration.

    Args:
        arguments: those of `registered`, and "step", which keeps the transform, or None.
        progress: told of the fraction and the name.

    Raises:
        InputError: as `registered`.
    """
    given = {name: value for name, value in arguments.items() if name != "step"}
    return kept(arguments["step"], lambda: registered(**given, progress=progress))


def pair_job(
    name: str,
    fixed: Volume,
    moving: Volume,
    how: How,
    *,
    initial: Transform | None = None,
    mask: Volume | None = None,
    step: KeptStep | None = None,
) -> Job:
    """The job of one registration, with the arguments of `registered`, and a step that keeps it."""
    arguments = {"fixed": fixed, "moving": moving, "how": how, "initial": initial, "mask": mask, "step": step}
    return Job(name, Lazy("RegCore.studies.many", "register_job"), {"name": name, **arguments})


def values_of(jobs: Iterable[Job], pool: Pool | None, progress: Progress = silent) -> list[Any]:
    """Do jobs of different names that all must succeed; those whose "step" is there are not done again.

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
    steps = {job.name: job.arguments["step"] for job in listed if job.arguments.get("step") is not None}
    there = {name: step.read() for name, step in steps.items()}
    found: dict[str, Any] = {name: values["value"] for name, values in there.items() if values is not None}
    left = [job for job in listed if job.name not in found]
    outcomes = _here(left, progress) if pool is None or not left else pool.run(left, len(left), progress)
    for outcome in outcomes:
        if outcome.error:
            raise _error(outcome)
        found[outcome.name] = outcome.value
    return [found[job.name] for job in listed]


def doubts_of_each(
    target: Volume, images: Iterable[Volume], transforms: Sequence[Transform]
) -> tuple[tuple[str, ...], ...]:
    """Sentences on why each of several registrations to one image has probably failed, if any speaks for it.

    Args:
        target: the fixed image of all.
        images: the moving ones.
        transforms: x_image = T(x_target) of each, RAS mm.
    """
    fixed = PairSide(target)
    return tuple(
        tuple(doubts(fixed, PairSide(image), transform))
        for image, transform in zip(images, transforms, strict=True)
    )


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
