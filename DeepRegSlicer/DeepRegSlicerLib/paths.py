"""Where the package RegCore and the module's resources are, installed in Slicer or in a working copy."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

MODULE_FOLDER = Path(__file__).resolve().parents[1]
# Installed, RegCore and Resources lie beside DeepRegSlicer.py; in a working copy, beside its folder.
FOLDERS = (MODULE_FOLDER, MODULE_FOLDER.parent)
LONGEST = 100  # bytes of a node's name in that of a file, which may have 255 in all


def _first_that_has(relative: str) -> Path:
    for folder in FOLDERS:
        if (folder / relative).exists():
            return folder
    looked = " and ".join(str(folder) for folder in FOLDERS)
    raise FileNotFoundError(
        f"{relative} is missing from the installation of DeepRegSlicer (looked in {looked})"
    )


def regcore_folder() -> Path:
    """The folder in which the package RegCore lies."""
    return _first_that_has("RegCore/__init__.py")


def resource(relative: str) -> Path:
    """A file of the folder Resources, such as "UI/DeepRegSlicer.ui"."""
    return _first_that_has(f"Resources/{relative}") / "Resources" / relative


def make_regcore_importable() -> None:
    """Let `import RegCore` find the package, also when Slicer was only given this module's folder."""
    if find_spec("RegCore") is None:
        sys.path.append(str(regcore_folder()))


def typed_path(text: str) -> str:
    """What a user typed, pasted or dropped into a field for a path, as a path; "" for nothing.

    Blanks around it are left out, ~ becomes the home folder, and file:///… a path.
    """
    text = text.strip().strip('"')
    if text.lower().startswith("file:"):
        text = url2pathname(urlparse(text).path)
    return os.path.expanduser(text)


def short(name: str) -> str:
    """As much of the name of a node as the name of a file can hold, beside a number and an ending."""
    return name.encode()[:LONGEST].decode(errors="ignore")
