"""Says which Python packages are missing, and installs them when the user asks for it; never by itself."""

import importlib
import importlib.metadata
import logging
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from RegCore.cli.failures import OPTIONAL, PACKAGES, missing_packages

from .paths import resource

KEPT = ("numpy", "scipy", "SimpleITK", "pydicom", "pillow", "requests")  # Slicer's own: never replaced
TORCH = "torch>=2.4"

log = logging.getLogger(__name__)


class InstallError(Exception):
    """The packages are not there. The text is a sentence for the user; `declined`: by the user's choice."""

    def __init__(self, message: str, declined: bool = False):
        super().__init__(message)
        self.declined = declined


def missing() -> list[str]:
    """Names at the package index of the packages that Slicer's Python lacks. Imports and installs nothing."""
    importlib.invalidate_caches()
    return missing_packages()


def install() -> None:
    """Install what is missing: torch by the extension PyTorch if it is there, the rest by pip.

    Slicer asks the user before. Raises InstallError if the user declines or something fails; what was
    installed until then stays.
    """
    install_packages(missing())


def install_packages(names: list[str]) -> None:
    """As `install`, for these packages, named as at the package index."""
    with _constraints() as constraints:
        if "torch" in names:
            _install_torch(constraints)
        wanted = _requirements() if set(names) & set(PACKAGES.values()) - {"torch"} else []
        if wanted := wanted + [name for name in names if name in OPTIONAL.values()]:
            _pip(wanted, constraints)
    if absent := missing():
        listed = ", ".join(absent)
        raise InstallError(_("Some packages are still missing: {names}.").format(names=listed))


def repair_torch() -> None:
    """Install PyTorch again, over what is there of it. Slicer asks before. Raises InstallError."""
    question = _("Remove PyTorch from Slicer's Python and install it again? It is large: 200 MB to 3 GB.")
    if not slicer.util.confirmOkCancelDisplay(question):
        raise _declined()
    try:
        if find_spec("PyTorchUtils") is not None:
            logic = importlib.import_module("PyTorchUtils").PyTorchUtilsLogic()
            logic.uninstallTorch()
            if logic.installTorch() is None:
                raise _declined()
            return
        with _constraints() as constraints:
            slicer.util.pip_install(["--force-reinstall", TORCH, "--constraint", str(constraints)])
    except InstallError:
        raise
    except Exception as error:
        raise _failure(error) from error


@contextmanager
def _constraints():
    """The path of a file for pip that forbids it to change the packages that Slicer brings."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text("\n".join(_kept_versions()) + "\n", encoding="utf-8")
        yield path


def _requirements() -> list[str]:
    """The lines of requirements.txt without the packages that Slicer brings."""
    lines = resource("requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [line for line in lines if line.partition(">")[0] not in KEPT]


def _kept_versions() -> list[str]:
    """Lines that forbid pip to change the packages that Slicer brings."""
    lines = []
    for name in KEPT:
        try:
            lines.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            log.debug("%s is not installed, so it need not be kept", name)
    return lines


def _install_torch(constraints: Path) -> None:
    """By PyTorchUtils, which knows the computer's graphics card; without it by pip."""
    if find_spec("PyTorchUtils") is None:
        _pip([TORCH], constraints)
        return
    utils = importlib.import_module("PyTorchUtils")
    try:
        found = utils.PyTorchUtilsLogic().installTorch(askConfirmation=True)
    except Exception as error:
        raise _failure(error) from error
    if found is None:
        raise _declined()


def _pip(requirements: list[str], constraints: Path) -> None:
    """Install by Slicer's own means: with a question and a progress window where it has them."""
    try:
        if hasattr(slicer, "packaging") or find_spec("slicer.packaging") is not None:
            packaging = importlib.import_module("slicer.packaging")
            packaging.pip_ensure(requirements, constraints=str(constraints), requester="DeepRegSlicer")
        elif slicer.util.confirmOkCancelDisplay(
            _("Install these Python packages into Slicer?") + "\n\n" + "\n".join(requirements)
        ):
            slicer.util.pip_install([*requirements, "--constraint", str(constraints)])
        else:
            raise _declined()
    except InstallError:
        raise
    except RuntimeError as error:  # what pip_ensure raises when the user declines
        raise _declined() from error
    except Exception as error:
        raise _failure(error) from error


def _declined() -> InstallError:
    text = _("The packages were not installed, as you chose. Registration needs them.")
    return InstallError(text, declined=True)


def _failure(error: Exception) -> InstallError:
    log.error("installing packages failed: %s", error)
    text = _(
        "The packages could not be installed ({error}). Is the computer online? See the log for details."
    )
    return InstallError(text.format(error=error))
