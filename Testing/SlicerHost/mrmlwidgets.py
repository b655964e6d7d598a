"""Slicer's qMRML widgets for tests, bound to a real MRML scene; all of them become names of `slicer`."""

import slicer

from . import qt
from .nodecombobox import qMRMLNodeComboBox  # noqa: F401  (known to .ui files, and to slicer below)
from .numberwidgets import RangeOfSpinBoxes, SliderAndSpinBox, ctkDoubleSpinBox
from .segmentselector import qMRMLSegmentSelectorWidget  # noqa: F401  (as above)

Signal, Property = qt.Signal, qt.Property


@qt.stand_in
class qMRMLWidget(qt.QWidget):
    """A container that tells the widgets in it which scene to use, by the connections of the `.ui` file."""

    mrmlSceneChanged = Signal(object)
    signatures = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None
        self._entered = False

    def setMRMLScene(self, scene):
        """Use this scene, or none."""
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        """The scene in use."""
        return self._scene

    # A property of Slicer's module panel (qSlicerAbstractModuleWidget): whether this module is the shown one.
    isEntered = Property(
        bool, lambda self: self._entered, lambda self, value: setattr(self, "_entered", value)
    )


@qt.stand_in
class qMRMLSliderWidget(SliderAndSpinBox):
    """A slider for a quantity with a unit."""


@qt.stand_in
class qMRMLSpinBox(ctkDoubleSpinBox):
    """A spin box for a quantity with a unit."""


@qt.stand_in
class qMRMLRangeWidget(RangeOfSpinBoxes):
    """A range of a quantity with a unit."""


for _name, _cls in qt.STAND_INS.items():
    if _name.startswith("qMRML"):
        setattr(slicer, _name, _cls)
