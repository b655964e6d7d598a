"""The one channel by which long work tells how far it is and learns that it should stop."""

from collections.abc import Callable

Progress = Callable[[float, str, dict], None]
"""Called as ``progress(fraction, text, values)``: fraction in [0, 1] of the whole work, the name of the
stage, and figures of the moment such as ``{"iteration": 12, "loss": 0.31}``. Raising `Cancelled` in it
ends the work at once; whatever else it raises goes through to the caller."""


class Cancelled(Exception):
    """The user asked to stop; nothing was written."""


def silent(fraction: float, text: str, values: dict) -> None:
    """The progress of a caller who does not want to know."""


def part_of(progress: Progress, start: float, stop: float) -> Progress:
    """The progress of a part of the work: its fractions 0..1 become start..stop of the whole."""

    def report(fraction: float, text: str, values: dict) -> None:
        progress(start + (stop - start) * min(max(fraction, 0.0), 1.0), text, values)

    return report


def duration(seconds: float) -> str:
    """Seconds as ``1:02:03`` or ``2:03``; ``?`` where they are not known."""
    if seconds != seconds:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
