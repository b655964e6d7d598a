"""What goes wrong in the child process, told as a kind, a sentence for the user and details for the log."""

import re
import sys
import traceback
from importlib.util import find_spec
from typing import Any

from RegCore.progress import Progress
from RegCore.space.geometry import InputError

PACKAGES = {  # what the work needs beyond Slicer's own Python: name at import, name at the package index
    "torch": "torch",
    "nibabel": "nibabel",
    "h5py": "h5py",
    "yaml": "pyyaml",
}
OPTIONAL = {"skimage": "scikit-image"}  # needed by some of the work, SLIC-Reg: told when it is met
NEEDED = PACKAGES | OPTIONAL
ADVICE = {  # what to do where memory is short, by command
    "register": "crop or resample the volumes to a smaller size",
    "train": "choose a smaller image size, batch or network",
}


def missing_packages() -> list[str]:
    """Names at the package index of the packages that this Python lacks; imports none of them."""
    return [at_index for name, at_index in PACKAGES.items() if find_spec(name) is None]


class TorchBrokenError(Exception):
    """PyTorch is installed but can't be used; the text says how its import failed."""


def load_torch(progress: Progress) -> None:
    """Import PyTorch, and see that it works with this NumPy.

    Raises:
        ModuleNotFoundError: PyTorch is not there at all.
        TorchBrokenError: it is there, but half installed, built for another NumPy, without a library …
    """
    if "torch" in sys.modules and hasattr(sys.modules["torch"], "zeros"):
        return
    progress(0.0, "loading PyTorch", {})
    try:
        import torch

        torch.zeros(1).numpy()
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise
        raise TorchBrokenError(_first_line(error)) from error
    except Exception as error:
        raise TorchBrokenError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, be it the computer's or the graphics card's."""
    text = str(error).lower()
    said = "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said)


def _absent_module(error: BaseException | None) -> str:
    """The module of an installable package whose absence is the error or its cause; "" if there is none."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name in NEEDED:
            return error.name
        error = error.__cause__
    return ""


def on_graphics_card(error: BaseException) -> bool:
    """Whether an error speaks of a graphics card."""
    return re.search(r"\b(cuda|hip|mps)\b", str(error).lower()) is not None


def describe(error: Exception, command: str = "register") -> dict[str, Any]:
    """An error as the fields kind, message (a sentence for the user), details (for the log), missing."""
    advice = ADVICE.get(command, ADVICE["register"])
    details = "".join(traceback.format_exception(error))
    missing: list[str] = []
    if isinstance(error, TorchBrokenError):
        kind, missing = "broken", ["torch"]
        message = f"PyTorch is installed but can't be used ({error}): repair its installation."
    elif name := _absent_module(error):
        kind, missing = "missing", missing_packages()
        missing += [NEEDED[name]] if NEEDED[name] not in missing else []
        message = f"Python packages are missing: {', '.join(missing)}."
    elif isinstance(error, InputError):
        kind, message = "input", str(error)
    elif is_out_of_memory(error) and on_graphics_card(error):
        kind = "memory"
        message = (
            "The graphics card has too little memory for this: choose the device CPU in the advanced "
            f"settings, or {advice}."
        )
    elif is_out_of_memory(error):
        kind = "memory"
        message = f"The computer has too little memory for this: close other programs, or {advice}."
    else:
        kind, message = "failure", f"The computation failed: {type(error).__name__}: {error}"
    return {"kind": kind, "message": message, "details": details, "missing": missing}
