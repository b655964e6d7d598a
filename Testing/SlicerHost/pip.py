"""`slicer.packaging` for tests: says what is installed, and records installations instead of making them."""

import importlib.metadata
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement

OPTIONS_WITH_A_VALUE = {"-c", "--constraint", "-r", "--requirement", "-i", "--index-url", "--extra-index-url"}


@dataclass
class Record:
    """What the module asked for.

    installed: requirements, as written. constraints: the lines of the last constraints file.
    missing: names of packages that count as not installed. failure: set to an exception to have the next
    installation fail with it; a RuntimeError is what Slicer raises when the user declines.
    """

    installed: list = field(default_factory=list)
    constraints: list = field(default_factory=list)
    missing: set = field(default_factory=set)
    failure: Exception | None = None

    def clear(self):
        """Back to the start: nothing asked for, nothing missing beyond what is, no failure."""
        self.installed.clear()
        self.constraints.clear()
        self.missing.clear()
        self.failure = None


record = Record()


def _as_requirements(requirements):
    """Requirement objects from what Slicer takes: arguments for pip, in a line or a list, or such objects."""
    if isinstance(requirements, Requirement):
        return [requirements]
    entries = iter(shlex.split(requirements) if isinstance(requirements, str) else requirements)
    found = []
    for entry in entries:
        if isinstance(entry, Requirement):
            found.append(entry)
        elif entry in OPTIONS_WITH_A_VALUE:
            next(entries)
        elif not entry.startswith("-"):
            found.append(Requirement(entry))
    return found


def load_requirements(path):
    """The requirements of a pip file, without comments and options."""
    lines = [line.strip() for line in Path(path).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def pip_check(req):
    """Whether all are installed in a version that suits; a package named in `record.missing` never is."""
    for requirement in _as_requirements(req):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        if requirement.name in record.missing:
            return False
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            return False
        if not requirement.specifier.contains(version, prereleases=True):
            return False
    return True


def pip_install(
    requirements,
    constraints=None,
    no_deps_requirements=None,
    skip_packages=None,
    blocking=True,
    show_progress=True,
    requester=None,
    logCallback=None,
    completedCallback=None,
):
    """Record the requirements as installed; nothing is downloaded. Without `blocking`, calls back at once."""
    if record.failure is not None:
        failure, record.failure = record.failure, None
        if blocking:
            raise failure
        completedCallback(1)
        return
    if constraints is not None:
        record.constraints[:] = Path(constraints).read_text(encoding="utf-8").splitlines()
    for requirement in _as_requirements(requirements):
        record.installed.append(str(requirement))
        record.missing.discard(requirement.name)
    if not blocking and completedCallback is not None:
        completedCallback(0)


def pip_ensure(
    requirements,
    constraints=None,
    skip_packages=None,
    prompt_install=True,
    prompt_restart=True,
    requester=None,
    skip_in_testing=True,
    show_progress=True,
):
    """Record those that are missing, in spite of the testing mode, in which Slicer would skip them."""
    missing = [requirement for requirement in _as_requirements(requirements) if not pip_check([requirement])]
    if missing:
        pip_install(missing, constraints=constraints, skip_packages=skip_packages, requester=requester)
