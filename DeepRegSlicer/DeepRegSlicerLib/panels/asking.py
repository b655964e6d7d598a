"""A panel that asks the computing process one thing at a time, beside the Register panel that shares it."""

from collections.abc import Callable

from ..process import shared_worker
from ..run import Question
from .panel import Panel, Tone


class AskingPanel(Panel):
    """A panel with a progress bar; `ask` takes care of it, of errors and of what comes too late."""

    def __init__(self, ui, line, log, bar):
        """bar: the QProgressBar. Otherwise as `Panel`."""
        super().__init__(ui, line, log)
        self._bar = bar

    def close(self) -> None:
        """Stop what runs; the widgets are not touched any more."""
        self.closed = True
        if self.run is not None:
            self.run.cancel()

    def ask(self, command: str, arguments: dict, answer: Callable[[dict], None]) -> None:
        """Ask the process for a command of its own; answer(result) is called when it is there."""
        self._bar.value = 0
        self._bar.visible = True
        self.run = Question(
            shared_worker(), command, arguments, self.on_progress, lambda run: self._on_answer(run, answer)
        )
        self.update()

    def on_progress(self, fraction: float, stage: str, values: dict) -> None:
        """Show how far it is."""
        if not self.closed:
            self._bar.value = round(100 * fraction)
            self.announce(stage, fraction)

    def _on_answer(self, run: Question, answer: Callable[[dict], None]) -> None:
        self.run = None
        if not self.closed:
            self.stop_waiting()
        self.take(run, answer)

    def stop_waiting(self) -> None:
        """Show that nothing is under way any more."""
        self._bar.visible = False

    def done(self, text: str) -> None:
        """Say that something went well."""
        self.set_status(text, Tone.good)
        self.log(text)
