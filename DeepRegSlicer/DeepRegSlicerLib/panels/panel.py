"""What all panels have: a status line that says what happens, a log, and a place among the tabs."""

import qt

NORMAL, HINT, GOOD, BAD = "", "color: gray;", "color: #1b7837;", "color: #c62828; font-weight: bold;"


class Panel:
    """Widgets with a voice. Knows no MRML; nodes pass through it."""

    def __init__(self, ui, line, log):
        """ui: the widgets by name. line: the QLabel that speaks. log: a QPlainTextEdit."""
        self.ui = ui
        self._line, self._log = line, log
        self._silent = True  # nothing was said yet: the status line gives a hint

    def set_status(self, text: str, style: str = NORMAL) -> None:
        """Show a sentence in the status line."""
        self._silent = False
        self._line.setStyleSheet(style)
        self._line.text = text

    def set_hint(self, text: str) -> None:
        """Say in grey what can be done, unless something was said."""
        if self._silent:
            self._line.setStyleSheet(HINT)
            self._line.text = text

    def log(self, text: str) -> None:
        """Add lines to the log."""
        self._log.appendPlainText(text)


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
