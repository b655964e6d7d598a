"""Widgets whose values outlive the session: kept in Slicer's settings, since they belong to no scene."""

import json

import qt

from ..paths import typed_path

# The property that holds a widget's value, by its class.
VALUES = {
    "QSpinBox": "value",
    "QDoubleSpinBox": "value",
    "QCheckBox": "checked",
    "QLineEdit": "text",
    "ctkPathLineEdit": "currentPath",
}


def change_of(widget):
    """The signal that tells of every change of a widget's value."""
    kind = widget.className()
    if kind == "ctkPathLineEdit":  # its own signal leaves out empty paths and those of other endings
        return widget.comboBox().editTextChanged
    names = {"QComboBox": "currentIndexChanged", "QCheckBox": "toggled", "QLineEdit": "textChanged"}
    return getattr(widget, names.get(kind, "valueChanged"))


class Fields:
    """Values of widgets by the widgets' names; of a combo box, the data of the chosen item."""

    def __init__(self, ui, names: list[str], key: str, changed):
        """ui: the widgets. names: of those that count. key: in Slicer's settings. changed(): at each change.

        The widgets show what was kept; those of which nothing fits, what the .ui file says, and no path.
        """
        self.key = key
        self._widgets = {name: getattr(ui, name) for name in names}
        for widget in self._widgets.values():
            if widget.className() == "ctkPathLineEdit":
                widget.currentPath = ""  # it shows the path used last, which is a proposal too much
        self._restore()
        for widget in self._widgets.values():
            change_of(widget).connect(changed)

    def __getitem__(self, name: str):
        return self._read(self._widgets[name])

    def __setitem__(self, name: str, value) -> None:
        """Show a value; one that a combo box does not offer changes nothing."""
        widget = self._widgets[name]
        if widget.className() == "QComboBox":
            place = widget.findData(value)
            if place >= 0:
                widget.currentIndex = place
        else:
            setattr(widget, VALUES[widget.className()], value)

    def values(self) -> dict:
        """All values by the widgets' names."""
        return {name: self._read(widget) for name, widget in self._widgets.items()}

    def keep(self) -> None:
        """Write all values into Slicer's settings, and paths into the lists of those used last."""
        qt.QSettings().setValue(self.key, json.dumps(self.values()))
        for widget in self._widgets.values():
            if widget.className() == "ctkPathLineEdit":
                widget.addCurrentPathToHistory()

    @staticmethod
    def _read(widget):
        if widget.className() == "QComboBox":
            return widget.itemData(widget.currentIndex)
        value = getattr(widget, VALUES[widget.className()])
        return typed_path(value) if widget.className() == "ctkPathLineEdit" else value

    def _restore(self) -> None:
        try:
            kept = json.loads(qt.QSettings().value(self.key, "{}"))
        except (TypeError, ValueError):
            kept = {}
        for name, widget in self._widgets.items():
            if name in kept and type(kept[name]) is type(self._read(widget)):
                self[name] = kept[name]


def tame_selectors(ui) -> None:
    """Let the node selectors among the widgets become narrower than the names of the nodes that they list.

    One whose node leaves the scene then chooses none, where that is offered, and not any neighbour: nobody
    chose that one as an output to be overwritten, or as a mask.
    """
    for widget in vars(ui).values():
        if widget.className() != "qMRMLNodeComboBox":
            continue
        widget.sizeAdjustPolicy = qt.QComboBox.AdjustToMinimumContentsLengthWithIcon
        if widget.noneEnabled:
            widget.nodeAboutToBeRemoved.connect(_letting_go(widget))


def _letting_go(selector):
    def on_removal(node) -> None:
        if selector.currentNodeID == node.GetID():
            selector.setCurrentNode(None)

    return on_removal


def offer(combo, choices: dict[str, str]) -> None:
    """Fill a combo box: data of an item -> what it shows."""
    for data, text in choices.items():
        combo.addItem(text, data)
