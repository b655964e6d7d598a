"""The test host: slicer-core and PySide6 look like Slicer to a scripted module, whose panel it drives."""

import importlib.util
import os
import sys
import time
import types
from pathlib import Path

POLL_SECONDS = 0.005


def missing_reason():
    """Why the host can't start here, as a sentence for a skipped test; empty if it can."""
    absent = [
        package
        for package, module in (
            ("slicer-core", "slicer"),
            ("PySide6-Essentials", "PySide6"),
            ("packaging", "packaging"),
        )
        if importlib.util.find_spec(module) is None
    ]
    return f"the test host needs {' and '.join(absent)} (pip install)" if absent else ""


class LoadedModule:
    """A scripted module that is open in the host: its Python file, the module and its panel.

    file: the imported Python module. module, widget: instances of `<Name>` and `<Name>Widget`.
    logic: the panel's logic. ui: the panel's widgets by name, if the panel keeps them under that name.
    """

    def __init__(self, file, module, widget):
        self.file, self.module, self.widget = file, module, widget

    @property
    def logic(self):
        return self.widget.logic

    @property
    def ui(self):
        return self.widget.ui

    @property
    def panel(self):
        """The Qt widget that holds the panel."""
        return self.widget.parent


class Host:
    """One per process: Qt allows one application, and `slicer` is one module. See `SlicerHost.start()`.

    app, scene: `slicer.app` and `slicer.mrmlScene`. slicer, qt, ctk: as a scripted module imports them.
    errors: exceptions in slots and observers, which Qt and VTK would only print; the fixture fails a test
    that leaves any there.
    """

    def __init__(self):
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
        import slicer

        from . import qt

        self.slicer, self.qt = slicer, qt
        self._qt_application = qt.QApplication.instance() or qt.QApplication(["Slicer"])
        self._set_up_application()
        self._import_widgets()
        self._import_base_classes()
        self._loaded = []
        self.errors = []
        sys.excepthook = self._note_error

    def _note_error(self, kind, error, trace):
        """Qt and VTK hand exceptions of slots and observers to `sys.excepthook`."""
        self.errors.append(error)
        sys.__excepthook__(kind, error, trace)

    def _set_up_application(self):
        from . import application

        slicer = self.slicer
        self.scene, logic, slicer.modules = application.make_scene()
        slicer.mrmlScene = self.scene
        slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(self.scene)
        slicer.app = self.app = application.Application(self._qt_application, logic)
        slicer.selfTests = {}

    def _import_widgets(self):
        sys.modules["qt"] = self.qt
        from . import ctk

        sys.modules["ctk"] = self.ctk = ctk
        from . import mrmlwidgets  # noqa: F401  (makes slicer.qMRMLNodeComboBox and the others)

    def _import_base_classes(self):
        """Our stand-ins, or Slicer's own files where SLICER_SOURCE names its source tree."""
        source = os.environ.get("SLICER_SOURCE")
        self.uses_slicer_source = bool(source)
        if source:
            self._import_from(Path(source).resolve())
            return
        from . import parameters, pip, sampledata, scripted

        self.packaging = pip
        self._add_submodule("packaging", pip)
        self._add_submodule("ScriptedLoadableModule", scripted)
        self._add_submodule("i18n", scripted)
        self._add_submodule("parameterNodeWrapper", parameters)
        sys.modules["SampleData"] = sampledata

    def _import_from(self, source):
        """Slicer's own Python files, in place of every stand-in that has an original and of slicer.util.

        packaging: Slicer's, which 5.10 does not have; then None.
        """
        folder = source / "Base" / "Python" / "slicer"
        sample_data = source / "Modules" / "Scripted" / "SampleData" / "SampleData.py"
        for there in (folder, sample_data):
            if not there.exists():
                raise RuntimeError(f"SLICER_SOURCE={source} is no Slicer source tree: it lacks {there}")
        self.slicer.__path__.append(str(folder))
        self._add_submodule("util", self._module_of("slicer.util", folder / "util.py"))
        self.packaging = None
        if (folder / "packaging.py").exists():
            self.packaging = self._module_of("slicer.packaging", folder / "packaging.py")
            self._add_submodule("packaging", self.packaging)
        self._module_of("SampleData", sample_data)

    @staticmethod
    def _module_of(name, path):
        """The module of a file, imported under that name."""
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def _add_submodule(self, name, module):
        sys.modules[f"slicer.{name}"] = module
        setattr(self.slicer, name, module)

    def load_module(self, path):
        """Import `<Name>.py`, make the module and its panel, set the panel up and enter it, as Slicer does.

        Returns a LoadedModule. `close_module` undoes it; the fixture does so after each test.
        """
        path = Path(path).resolve()
        name = path.stem
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))
        file = self._module_of(name, path)
        module = getattr(file, name)(types.SimpleNamespace(path=str(path), name=name, icon=None))
        panel = self.slicer.qSlicerScriptedLoadableModuleWidget()
        panel.setLayout(self.qt.QVBoxLayout())
        panel.setMRMLScene(self.scene)
        entry = self.slicer.qSlicerScriptedLoadableModule(name, str(path), panel)
        setattr(self.slicer.modules, name.lower(), entry)
        try:
            return self._open(file, module, panel)
        except Exception:
            panel.deleteLater()
            raise

    def _open(self, file, module, panel):
        """Make the panel's Python widget, set it up and enter it."""
        name = module.moduleName
        widget = getattr(file, name + "Widget")(panel)
        panel._python_widget = widget
        setattr(self.slicer.modules, name + "Widget", widget)
        widget.setup()
        loaded = LoadedModule(file, module, widget)
        self._loaded.append(loaded)
        panel._entered = True
        if hasattr(widget, "enter"):
            widget.enter()
        return loaded

    def close_module(self, loaded):
        """Leave the panel, have it clean up and destroy it, as Slicer does when it quits."""
        self._loaded.remove(loaded)
        loaded.panel._entered = False
        if hasattr(loaded.widget, "exit"):
            loaded.widget.exit()
        self.app.moduleManager().emit("moduleAboutToBeUnloaded(QString)", loaded.widget.moduleName)
        loaded.panel.hide()
        loaded.panel.deleteLater()
        self.spin(0)

    def spin(self, seconds=0.05, until=None):
        """Run Qt's event loop for that long, or until `until()` is true; returns whether it came true."""
        end = time.monotonic() + seconds
        while True:
            self._qt_application.processEvents()
            self._qt_application.sendPostedEvents(None, self.qt.QEvent.DeferredDelete)
            if until is not None and until():
                return True
            if time.monotonic() >= end:
                return until is None
            time.sleep(POLL_SECONDS)

    def close_scene(self):
        """What File - Close Scene does: every node goes, singletons are reset."""
        self.scene.Clear(0)
        self.slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(self.scene)
        self.spin(0)

    def screenshot(self, widget, path, size=None):
        """Draw the widget to a picture file, resized to `size` (width, height) in pixels if given."""
        widget.ensurePolished()
        was_visible = widget.visible
        widget.show()
        self.spin(0.05)
        if size is not None:
            widget.resize(*size)  # only what is shown knows how small it can be
            self.spin(0.05)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        saved = widget.grab().save(str(path))
        if not was_visible:
            widget.hide()
        if not saved:
            raise OSError(f"Qt can't write the picture {path}")

    def close_all(self):
        """Close all modules, then the scene."""
        for loaded in list(self._loaded):
            self.close_module(loaded)
        self.close_scene()

    def reset(self):
        """Back to the start: no module, an empty scene, no recorded installations, settings and errors."""
        self.close_all()
        if not self.uses_slicer_source:
            self.packaging.record.clear()
        self.slicer.modules.sampleDataSources = {}
        self.app.drop_connections()
        self.app.userSettings().clear()
        self.errors.clear()
