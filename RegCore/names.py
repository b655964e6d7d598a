"""Names that people mistype: the nearest of those that there are."""

import difflib
from collections.abc import Iterable


def nearest(name, known: Iterable) -> str:
    """The end of a sentence that proposes a known name in place of another; empty if none is near."""
    by_lower = {str(word).lower(): word for word in known}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    return f", did you mean {by_lower[near[0]]}?" if near else ""
