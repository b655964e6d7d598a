"""Lists of things to be ticked."""

from collections.abc import Callable

import qt


class TickList:
    """A QListWidget whose items can be ticked, each with a value of its own."""

    def __init__(self, widget, changed: Callable[[], None] | None = None):
        """widget: the QListWidget. changed() is called when the user ticks an item or takes a tick away."""
        self.widget, self._changed = widget, changed
        self._values: list = []  # in the order of the list
        self._filling = False
        if changed is not None:
            widget.itemChanged.connect(self._on_change)

    def show(self, entries: list[tuple[str, object, bool]]) -> None:
        """List these in place of what was there: text, value, and whether it is ticked."""
        self._filling = True
        self.widget.clear()
        self._values = [value for _text, value, _ticked in entries]
        for text, _value, ticked in entries:
            item = qt.QListWidgetItem(text)
            item.setCheckState(qt.Qt.Checked if ticked else qt.Qt.Unchecked)
            self.widget.addItem(item)
        self._filling = False

    @property
    def values(self) -> list:
        """The values of all items."""
        return list(self._values)

    def ticked(self) -> list:
        """The values of the ticked items."""
        items = [self.widget.item(row) for row in range(self.widget.count)]
        pairs = zip(self._values, items, strict=True)
        return [value for value, item in pairs if item.checkState() == qt.Qt.Checked]

    def _on_change(self) -> None:
        if not self._filling:
            self._changed()
