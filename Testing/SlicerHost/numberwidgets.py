"""CTK's widgets for numbers, for tests: spin box, slider with spin box, range."""

from . import qt

Signal, Property = qt.Signal, qt.Property
SLIDER_STEPS = 1000


def forwarded(kind, child, name):
    """A Qt property whose value is that of the child widget in attribute `child`."""
    return Property(
        kind,
        lambda self: getattr(getattr(self, child), name),
        lambda self, value: setattr(getattr(self, child), name, value),
    )


def row_layout(widget, *children):
    """Put the children side by side in the widget, without margins."""
    layout = qt.QHBoxLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    for child in children:
        layout.addWidget(child)


@qt.stand_in
class ctkDoubleSpinBox(qt.QWidget):
    """A spin box for a real number."""

    valueChanged = Signal(float)
    editingFinished = Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self._spin = qt.QDoubleSpinBox()
        row_layout(self, self._spin)
        self._spin.valueChanged.connect(self.valueChanged.emit)
        self._spin.editingFinished.connect(self.editingFinished.emit)

    def setValue(self, value):
        """Set the value, clipped to the range."""
        self._spin.setValue(value)

    def setRange(self, minimum, maximum):
        """Set both ends."""
        self._spin.setRange(minimum, maximum)

    value = forwarded(float, "_spin", "value")
    minimum = forwarded(float, "_spin", "minimum")
    maximum = forwarded(float, "_spin", "maximum")
    singleStep = forwarded(float, "_spin", "singleStep")
    decimals = forwarded(int, "_spin", "decimals")
    prefix = forwarded(str, "_spin", "prefix")
    suffix = forwarded(str, "_spin", "suffix")


class SliderAndSpinBox(qt.QWidget):
    """A slider with a spin box for the same number: what CTK's and qMRML's sliders have in common."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider = qt.QSlider(qt.Qt.Horizontal)
        self._slider.setRange(0, SLIDER_STEPS)
        self._spin = qt.QDoubleSpinBox()
        self._following = False
        row_layout(self, self._slider, self._spin)
        self._spin.valueChanged.connect(self._follow)
        self._slider.valueChanged.connect(self._lead)

    def _follow(self, value):
        extent = self._spin.maximum - self._spin.minimum
        self._following = True
        self._slider.setValue(round(SLIDER_STEPS * (value - self._spin.minimum) / extent) if extent else 0)
        self._following = False
        self.valueChanged.emit(value)

    def _lead(self, step):
        if not self._following:
            extent = self._spin.maximum - self._spin.minimum
            self._spin.setValue(self._spin.minimum + extent * step / SLIDER_STEPS)

    def setValue(self, value):
        """Set the value, clipped to the range."""
        self._spin.setValue(value)

    def setRange(self, minimum, maximum):
        """Set both ends."""
        self._spin.setRange(minimum, maximum)

    value = forwarded(float, "_spin", "value")
    minimum = forwarded(float, "_spin", "minimum")
    maximum = forwarded(float, "_spin", "maximum")
    singleStep = forwarded(float, "_spin", "singleStep")
    decimals = forwarded(int, "_spin", "decimals")
    prefix = forwarded(str, "_spin", "prefix")
    suffix = forwarded(str, "_spin", "suffix")
    tracking = forwarded(bool, "_slider", "tracking")


@qt.stand_in
class ctkSliderWidget(SliderAndSpinBox):
    """A slider with its spin box."""


@qt.stand_in
class ctkDoubleSlider(qt.QWidget):
    """A slider for a real number, without a spin box."""

    valueChanged = Signal(float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider = ctkSliderWidget()
        self._slider._spin.hide()
        row_layout(self, self._slider)
        self._slider.valueChanged.connect(self.valueChanged.emit)

    value = forwarded(float, "_slider", "value")
    minimum = forwarded(float, "_slider", "minimum")
    maximum = forwarded(float, "_slider", "maximum")
    singleStep = forwarded(float, "_slider", "singleStep")


class RangeOfSpinBoxes(qt.QWidget):
    """Two numbers within bounds, the lower one first: what CTK's and qMRML's range widgets have in common."""

    valuesChanged = Signal(float, float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._lower, self._upper = qt.QDoubleSpinBox(), qt.QDoubleSpinBox()
        row_layout(self, self._lower, self._upper)
        for spin_box in (self._lower, self._upper):
            spin_box.valueChanged.connect(self._announce)

    def _announce(self):
        self.valuesChanged.emit(self._lower.value, self._upper.value)

    def setRange(self, minimum, maximum):
        """Set the bounds."""
        self._lower.setRange(minimum, maximum)
        self._upper.setRange(minimum, maximum)

    def setValues(self, lower, upper):
        """Set both numbers."""
        self._lower.setValue(min(lower, upper))
        self._upper.setValue(max(lower, upper))

    minimumValue = forwarded(float, "_lower", "value")
    maximumValue = forwarded(float, "_upper", "value")
    minimum = forwarded(float, "_lower", "minimum")
    maximum = forwarded(float, "_upper", "maximum")
    decimals = forwarded(int, "_lower", "decimals")
    singleStep = forwarded(float, "_lower", "singleStep")


@qt.stand_in
class ctkRangeWidget(RangeOfSpinBoxes):
    """A range with spin boxes."""


@qt.stand_in
class ctkDoubleRangeSlider(RangeOfSpinBoxes):
    """A range with a slider of two handles."""
