"""What Slicer's application gives to modules: `slicer.app`, the scene and the module logics."""

import tempfile
import types

import slicer
import vtk

from . import qt
from .files import CoreIOManager

TEMPORARY_FOLDER_PREFIX = "slicer-host-"
# slicer.modules.<name>.logic() -> class in slicer-core
MODULE_LOGICS = {
    "volumes": "vtkSlicerVolumesLogic",
    "segmentations": "vtkSlicerSegmentationsModuleLogic",
    "transforms": "vtkSlicerTransformLogic",
    "tables": "vtkSlicerTablesLogic",
    "plots": "vtkSlicerPlotsLogic",
    "markups": "vtkSlicerMarkupsLogic",
    "sequences": "vtkSlicerSequencesLogic",
}
# Slicer's Segmentations module registers these; without them an empty segmentation can't be exported.
CONVERTER_RULES = (
    "vtkBinaryLabelmapToClosedSurfaceConversionRule",
    "vtkClosedSurfaceToBinaryLabelmapConversionRule",
    "vtkFractionalLabelmapToClosedSurfaceConversionRule",
    "vtkClosedSurfaceToFractionalLabelmapConversionRule",
)


class Emitter:
    """An object with signals known by their signature, for the C++ objects that have no Python class here."""

    def __init__(self):
        self._slots = {}

    def connect(self, signature, slot):
        """Call `slot` when `emit(signature, …)` is called."""
        self._slots.setdefault(signature, []).append(slot)
        return True

    def disconnect(self, signature, slot):
        """Undo `connect`."""
        if slot not in self._slots.get(signature, []):
            return False
        self._slots[signature].remove(slot)
        return True

    def drop_connections(self):
        """Disconnect everything."""
        self._slots.clear()

    def emit(self, signature, *values):
        """Call what is connected."""
        for slot in list(self._slots.get(signature, [])):
            slot(*values)


class ModuleManager(Emitter):
    """`slicer.app.moduleManager()`: knows the modules of `slicer.modules`."""

    def module(self, name):
        """The module of that name or None."""
        return getattr(slicer.modules, name.lower(), None)

    def modulesNames(self):
        """The names of all modules."""
        return [module.name for module in vars(slicer.modules).values() if hasattr(module, "logic")]


class Application(Emitter):
    """`slicer.app`. It is in testing mode: `slicer.util` logs its message boxes and shows none."""

    applicationName = "Slicer"
    documentationBaseUrl = "https://slicer.readthedocs.io/"
    majorVersion, minorVersion, revision = 5, 13, "31053"

    def __init__(self, qt_application, logic):
        super().__init__()
        self._qt_application = qt_application
        self._temporary_folder = tempfile.TemporaryDirectory(prefix=TEMPORARY_FOLDER_PREFIX)
        self._module_manager = ModuleManager()
        self._io_manager = CoreIOManager()
        self._logic = logic
        self.temporaryPath = self._temporary_folder.name
        self.slicerHome = self.temporaryPath
        # Also what a module gets from qt.QSettings() without a path, as in Slicer.
        qt.QSettings.setDefaultFormat(qt.QSettings.IniFormat)
        qt.QSettings.setPath(qt.QSettings.IniFormat, qt.QSettings.UserScope, self.temporaryPath)
        qt.QCoreApplication.setOrganizationName("SlicerHost")
        qt.QCoreApplication.setApplicationName("Slicer")
        self._settings = qt.QSettings()
        self.slicerUserSettingsFilePath = self._settings.fileName()

    def processEvents(self):
        """Let Qt handle what is waiting: timers, clicks, deletions."""
        self._qt_application.processEvents()

    def applicationLogic(self):
        """The vtkSlicerApplicationLogic."""
        return self._logic

    def mrmlScene(self):
        """The scene."""
        return slicer.mrmlScene

    def moduleManager(self):
        """Knows the modules and tells of their end."""
        return self._module_manager

    def coreIOManager(self):
        """What `slicer.util.loadVolume`, `saveNode` and their kin use."""
        return self._io_manager

    def layoutManager(self):
        """None: the host has no views in a window; `sliceview.SliceView` draws them to a picture."""
        return None

    def userSettings(self):
        """Settings in a file that is gone after the run, never those of the person who runs the tests."""
        return self._settings

    settings = revisionUserSettings = userSettings

    def testingEnabled(self):
        """True."""
        return True

    def commandOptions(self):
        """The command line's options that modules ask for."""
        return types.SimpleNamespace(noMainWindow=True, testingEnabled=True)

    def translate(self, context, text):
        """The text, as in an English Slicer."""
        return text

    def moduleDocumentationUrl(self, name):
        """Where a module's page would be."""
        return f"{self.documentationBaseUrl}en/latest/user_guide/modules/{name.lower()}.html"

    def startupEnvironment(self):
        """The environment of a child process outside of Slicer."""
        return qt.QProcessEnvironment.systemEnvironment()

    def topLevelWidgets(self):
        """All windows."""
        return self._qt_application.topLevelWidgets()

    def setOverrideCursor(self, cursor):
        """Show that the application is busy."""
        self._qt_application.setOverrideCursor(cursor)

    def restoreOverrideCursor(self):
        """Undo `setOverrideCursor`."""
        self._qt_application.restoreOverrideCursor()

    def pauseRender(self):
        """There are no views to hold back."""

    def resumeRender(self):
        """There are no views to let go."""


def make_module(name, logic):
    """An entry of `slicer.modules` for a module that is written in C++."""
    return types.SimpleNamespace(name=name, logic=lambda: logic, widgetRepresentation=lambda: None)


def make_scene():
    """The scene, the application logic with colours, and the logics of the modules that panels use."""
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    color_logic = logic.GetColorLogic()
    color_logic.SetMRMLScene(scene)
    color_logic.AddDefaultColorNodes()
    logic.SetModuleLogic("Colors", color_logic)
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    modules = types.SimpleNamespace(colors=make_module("Colors", color_logic))
    for name, class_name in MODULE_LOGICS.items():
        module_logic = getattr(slicer, class_name)()
        module_logic.SetMRMLScene(scene)
        module_logic.SetMRMLApplicationLogic(logic)
        logic.SetModuleLogic(name.capitalize(), module_logic)
        setattr(modules, name, make_module(name.capitalize(), module_logic))
    factory = slicer.vtkSegmentationConverterFactory.GetInstance()
    for rule in CONVERTER_RULES:
        factory.RegisterConverterRule(getattr(slicer, rule)())
    return scene, logic, modules
