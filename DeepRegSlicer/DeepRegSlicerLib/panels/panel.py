"""What all panels have: a status line that says what happens, and a log."""

NORMAL, HINT, GOOD, BAD = "", "color: gray;", "color: #1b7837;", "color: #c62828; font-weight: bold;"


class Panel:
    """Widgets with a voice. Knows no MRML; nodes pass through it."""

    def __init__(self, ui, line, log):
        """ui: the widgets by name. line: the QLabel that speaks. log: a QPlainTextEdit."""
        self.ui = ui
        self._line, self._log = line, log
        self._silent = True  # nothing was said yet: the status line gives a hint

    def say(self, text: str, style: str = NORMAL) -> None:
        """Show a sentence in the status line."""
        self._silent = False
        self._line.setStyleSheet(style)
        self._line.text = text

    def hint(self, text: str) -> None:
        """Say in grey what can be done, unless something was said."""
        if self._silent:
            self._line.setStyleSheet(HINT)
            self._line.text = text

    def note(self, text: str) -> None:
        """Add lines to the log."""
        self._log.appendPlainText(text)
