"""Progress of a command on a stream."""

from typing import Any


class ProgressLine:
    """Progress on a stream: one line that is written over on a terminal, else a line for each stage."""

    def __init__(self, stream, quiet: bool):
        """stream: None where the process has none; one that nobody reads any more is left alone."""
        self.stream, self.quiet = stream, quiet or stream is None
        self.terminal = not self.quiet and stream.isatty()
        self.stage = ""

    def __call__(self, fraction: float, stage: str, values: dict) -> None:
        if self.quiet:
            return
        if self.terminal:
            bar = "█" * round(24 * fraction)
            figures = "  ".join(f"{name} {_short(value)}" for name, value in values.items())
            self._write(f"\r\x1b[K{fraction:4.0%} {bar:░<24} {stage}  {figures}"[:160])
        elif stage != self.stage:
            self._write(f"{fraction:4.0%}  {stage}\n")
        self.stage = stage

    def end(self) -> None:
        """Leave the line empty for what comes next."""
        if self.terminal and not self.quiet:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:  # the reader is gone; the work goes on without it
            self.quiet = True


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
