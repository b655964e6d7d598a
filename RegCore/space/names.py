"""Names that people mistype, the nearest of those that there are; and what is the path of a file, no name."""

import difflib
from collections.abc import Iterable
from pathlib import PurePath


def nearest(name, known: Iterable) -> str:
    """The end of a sentence that proposes a known name in place of another; empty if none is near."""
    by_lower = {str(word).lower(): word for word in known}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    return f", did you mean {by_lower[near[0]]}?" if near else ""


def is_path(name) -> bool:
    """Whether this is the path of a model file or a checkpoint, by a slash in it or by its ending."""
    return (
        isinstance(name, PurePath)
        or isinstance(name, str)
        and ("/" in name or "\\" in name or name.lower().endswith((".pt", ".index", ".ckpt")))
    )
