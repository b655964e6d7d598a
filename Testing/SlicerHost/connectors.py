"""How a parameter is bound to a widget: for which exact widget types it can be, and through which signal."""

import enum
import pathlib

INT_MINIMUM, INT_MAXIMUM = -(2**31), 2**31 - 1


class Connector:
    """Reads and writes a widget's value, and calls back when the user changes it."""

    def __init__(self, read, write, signal):
        self.read, self.write, self._signal = read, write, signal
        self._callback = None

    def connect(self, callback):
        """Call `callback()` at each change."""
        self._callback = callback
        if self._signal is not None:
            self._signal.connect(self._changed)

    def disconnect(self):
        """Call no more."""
        if self._callback is not None and self._signal is not None:
            self._signal.disconnect(self._changed)
        self._callback = None

    def _changed(self):
        if self._callback is not None:
            self._callback()


def _attribute(widget, name, signal):
    return Connector(lambda: getattr(widget, name), lambda value: setattr(widget, name, value), signal)


def _checkable(widget, parameter):
    signal = widget.toggled
    if type(widget).__name__ == "QPushButton":
        widget.checkable = True
    return _attribute(widget, "checked", signal)


def _bounds(parameter):
    """(minimum, maximum) that the parameter's annotations give, None for an open end."""
    minima = [note.minimum for note in parameter.annotations if hasattr(note, "minimum")]
    maxima = [note.maximum for note in parameter.annotations if hasattr(note, "maximum")]
    return max(minima, default=None), min(maxima, default=None)


def _number(widget, parameter):
    name = type(widget).__name__
    minimum, maximum = _bounds(parameter)
    is_slider = name in ("QSlider", "ctkSliderWidget", "qMRMLSliderWidget")
    if is_slider and (minimum is None or maximum is None):
        raise RuntimeError(f"{name} needs a parameter with both bounds: {parameter.name} has none")
    for note in parameter.annotations:
        if type(note).__name__ == "Decimals":
            widget.decimals = note.value
        if type(note).__name__ == "SingleStep":
            widget.singleStep = note.value
    if name in ("QSlider", "QSpinBox"):
        lowest, highest = INT_MINIMUM, INT_MAXIMUM
    else:
        lowest, highest = float("-inf"), float("inf")
        if parameter.type is int:
            widget.decimals = 0
    widget.minimum = lowest if minimum is None else minimum
    widget.maximum = highest if maximum is None else maximum
    return Connector(
        lambda: parameter.type(widget.value),
        lambda value: setattr(widget, "value", value),
        widget.valueChanged,
    )


def _choice(widget, parameter):
    if issubclass(parameter.type, enum.Enum):
        choices = list(parameter.type)
        label = getattr(parameter.type, "label", lambda member: member.name)
        labels = [label(member) for member in choices]
    else:
        stated = [note.choices for note in parameter.annotations if hasattr(note, "choices")]
        if not stated:
            raise RuntimeError(f"a combo box needs a parameter with Choice: {parameter.name} has none")
        choices = list(stated[0])
        labels = [str(choice) for choice in choices]
    widget.clear()
    for label in labels:
        widget.addItem(label)
    return Connector(
        lambda: choices[widget.currentIndex],
        lambda value: setattr(widget, "currentIndex", choices.index(value)),
        widget.currentIndexChanged,
    )


def _text(widget, parameter):
    if type(widget).__name__ == "QTextEdit":
        return Connector(widget.toPlainText, widget.setPlainText, widget.textChanged)
    if type(widget).__name__ == "QLabel":
        return _attribute(widget, "text", None)

    def write(value):
        if value != widget.text:  # writing moves the cursor to the end, also while the user types
            widget.text = value

    return Connector(lambda: widget.text, write, widget.textChanged)


def _path(widget, parameter):
    is_line = type(widget).__name__ == "ctkPathLineEdit"
    name, signal = ("currentPath", "currentPathChanged") if is_line else ("directory", "directoryChanged")
    return Connector(
        lambda: parameter.type(getattr(widget, name)),
        lambda value: setattr(widget, name, str(value)),
        getattr(widget, signal),
    )


def _node(widget, parameter):
    widget.nodeTypes = [cls.__name__ for cls in parameter.node_classes]
    return Connector(widget.currentNode, widget.setCurrentNode, widget.currentNodeChanged)


# (test of the parameter, exact widget types, how to bind), tried in this order
BINDINGS = [
    (lambda p: bool(p.node_classes), {"qMRMLNodeComboBox"}, _node),
    (
        lambda p: p.type is bool,
        {"QCheckBox", "ctkCheckBox", "QPushButton", "ctkCheckablePushButton"},
        _checkable,
    ),
    (lambda p: p.type is int, {"QSlider", "QSpinBox"}, _number),
    (
        lambda p: p.type in (int, float),
        {"QDoubleSpinBox", "ctkSliderWidget", "qMRMLSliderWidget", "ctkDoubleSpinBox"},
        _number,
    ),
    (
        lambda p: p.type in (int, float, str, bool) or issubclass(p.type, enum.Enum),
        {"QComboBox", "ctkComboBox"},
        _choice,
    ),
    (lambda p: p.type is str, {"QLineEdit", "QLabel", "QTextEdit"}, _text),
    (lambda p: issubclass(p.type, pathlib.PurePath), {"ctkPathLineEdit", "ctkDirectoryButton"}, _path),
]


def connector_for(widget, parameter):
    """The connector of the parameter to the widget, RuntimeError if Slicer has none for that pair."""
    for suits, widgets, make in BINDINGS:
        if type(widget).__name__ in widgets and suits(parameter):
            return make(widget, parameter)
    raise RuntimeError(
        f"Slicer can't bind {parameter.name}, of type {parameter.annotated}, to a {type(widget).__name__}"
    )
