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

    def setMRMLScene(self, scene):
        """Use this scene, or none."""
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        """The scene in use."""
        return self._scene


@qt.stand_in
class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """What a module's panel has for a parent. `isEntered` is true while the user sees this module."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._entered, self._python_widget = False, None

    def self(self):
        """The module's Python widget."""
        return self._python_widget

    isEntered = Property(bool, lambda self: self._entered)


class qSlicerScriptedLoadableModule:
    """An entry of `slicer.modules` for a scripted module."""

    def __init__(self, name, path, panel):
        self.name, self.path, self._panel = name, path, panel

    def widgetRepresentation(self):
        """The panel."""
        return self._panel

    def logic(self):
        """None: the logic of a scripted module belongs to its panel."""
        return None


@qt.stand_in
class qMRMLSliderWidget(SliderAndSpinBox):
    """A slider for a quantity with a unit."""


@qt.stand_in
class qMRMLSpinBox(ctkDoubleSpinBox):
    """A spin box for a quantity with a unit."""


@qt.stand_in
class qMRMLRangeWidget(RangeOfSpinBoxes):
    """A range of a quantity with a unit."""


slicer.qSlicerScriptedLoadableModule = qSlicerScriptedLoadableModule
for _name, _cls in qt.STAND_INS.items():
    if _name.startswith(("qMRML", "qSlicer")):
        setattr(slicer, _name, _cls)
