"""What all panels have: a status line that says what happens, a log, and handlers that get no panel stuck."""

import enum
import functools
import logging
import traceback

import qt
import slicer
from slicer.i18n import tr as _

from RegCore.space.geometry import InputError

from ..install import InstallError
from ..process import WorkerCancelled, WorkerError

SHOWN_FOR = 10_000  # milliseconds that the end of something stays in Slicer's status bar
FORESEEN = (InputError, WorkerError, InstallError)  # their texts are sentences for the user

logger = logging.getLogger(__name__)


class Tone(enum.Enum):
    """How a sentence is meant."""

    normal = "normal"
    hint = "hint"
    good = "good"
    bad = "bad"


# The colours of sentences and figures on a light and on a dark background, each with a contrast of at least
# 4.5 to the windows and tables of Slicer's themes (WCAG 2, level AA).
LIGHT = {Tone.hint: "#595959", Tone.good: "#1b6e33", Tone.bad: "#b71c1c"}
DARK = {Tone.hint: "#bdbdbd", Tone.good: "#81d99a", Tone.bad: "#ffa39b"}


def colour(widget, tone: Tone) -> str:
    """The colour of a tone on the background of a widget, such as "#1b6e33"; "" for that of normal text."""
    background = widget.window().palette.color(
        qt.QPalette.Window
    )  # a label with a style sheet keeps its first one
    return (DARK if background.lightness() < 128 else LIGHT).get(tone, "")


def handler(method):
    """A handler of a signal: an exception that it does not expect ends in `Panel.fail`, as all others."""

    @functools.wraps(method)
    def call(self):
        try:
            method(self)
        except Exception as error:
            self.fail(error)
            self.update()

    return call


class Panel:
    """Widgets with a voice. Knows no MRML; nodes pass through it."""

    def __init__(self, ui, line, log):
        """ui: the widgets by name. line: the QLabel that speaks. log: a QPlainTextEdit."""
        self.ui = ui
        self.run = None
        self.closed = False  # whether the widgets are not to be touched any more
        self._line, self._log = line, log
        self._tone = Tone.hint  # of the sentence in the status line
        self._spoken_of = None  # what was chosen when the status line last spoke; None: it gives a hint
        line.setTextFormat(qt.Qt.PlainText)  # names of nodes may look like HTML

    def choices(self) -> tuple:
        """What the user chose, as far as a sentence of the status line may depend on it."""
        raise NotImplementedError

    def update(self) -> None:
        """Enable what can be used now and say why the rest can't."""
        raise NotImplementedError

    def stop_waiting(self) -> None:
        """Show that nothing is under way any more."""
        raise NotImplementedError

    def set_status(self, text: str, tone: Tone = Tone.normal) -> None:
        """Show a sentence in the status line; it stands until the user chooses something else."""
        self._spoken_of = self.choices()
        self._show(text, tone)

    def retone(self, text: str) -> None:
        """Say the last sentence again, in the colours of the theme that is in use now."""
        self._show(text, self._tone)

    def set_hint(self, text: str) -> None:
        """Say what can be done, or why nothing can, where the last sentence is about other choices."""
        if self.run is None and self._spoken_of != self.choices():
            self._spoken_of = None
        if self._spoken_of is None:
            self._show(text, Tone.hint)

    def _show(self, text: str, tone: Tone) -> None:
        self._tone = tone
        style = colour(self._line, tone)
        weight = " font-weight: bold;" if tone is Tone.bad else ""
        self._line.setStyleSheet(f"color: {style};{weight}" if style else "")
        self._line.text = text

    def log(self, text: str) -> None:
        """Add lines to the log."""
        self._log.appendPlainText(text)

    def announce(self, what: str, fraction: float | None = None) -> None:
        """Say in Slicer's status bar, which is seen in other modules too, what goes on and how far it is.

        fraction: 0..1; None: it is over, and the text goes after a while.
        """
        if fraction is None:
            slicer.util.showStatusMessage(f"DeepRegSlicer: {what}", SHOWN_FOR)
        else:
            slicer.util.showStatusMessage(f"DeepRegSlicer: {round(100 * fraction)} %, {what}")

    def take(self, run, answer) -> None:
        """What a `Question` that is over brought: answer(result), or why there is no result.

        Slicer's status bar says it too. A panel that was closed meanwhile stays as it is.
        """
        if self.closed:
            return
        try:
            if isinstance(run.error, WorkerCancelled):
                self.set_status(_("Cancelled."))
            elif run.error is not None:
                self.fail(run.error)
            else:
                answer(run.result)
        except Exception as error:
            self.fail(error)
        self.announce(self._line.text)
        self.update()

    def fail(self, error: Exception, text: str = "", tone: Tone = Tone.bad) -> None:
        """Say what went wrong in one sentence; the details go to the log."""
        self.stop_waiting()
        details = getattr(error, "details", "")
        if not isinstance(error, FORESEEN):
            details = "".join(traceback.format_exception(error))
            logger.error("%s", details)
        sentence = text or sentence_of(error)
        self.set_status(sentence, tone)
        self.log(sentence)
        if details:
            self.log(details)


class Section:
    """A part of a panel in a file of its own; it speaks through the panel."""

    def __init__(self, panel: Panel, ui=None):
        """ui: the widgets by name, the panel's own by default."""
        self.panel, self.ui = panel, panel.ui if ui is None else ui

    def fail(self, error: Exception) -> None:
        """Say what went wrong, see `Panel.fail`."""
        self.panel.fail(error)

    def update(self) -> None:
        """Let the panel show what changed."""
        self.panel.update()


def sentence_of(error: Exception) -> str:
    """An error as a sentence for the user."""
    if isinstance(error, FORESEEN):
        return str(error)
    if isinstance(error, MemoryError):
        return _("The computer has too little memory for this: close other programs or volumes.")
    name = type(error).__name__
    return _("This failed unexpectedly ({name}: {error}). The log below has the details.").format(
        name=name, error=error
    )


def fit_to_current(tabs) -> None:
    """Let a QTabWidget need the height of the tab that is seen, not, as by itself, of the highest one."""

    def fit():
        for place in range(tabs.count):
            seen = place == tabs.currentIndex
            policy = qt.QSizePolicy.Preferred if seen else qt.QSizePolicy.Ignored
            tabs.widget(place).setSizePolicy(policy, policy)
        tabs.updateGeometry()

    tabs.currentChanged.connect(fit)
    fit()
