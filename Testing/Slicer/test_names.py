"""Every class of Qt, CTK, qMRML and MRML that the module names, with where it is declared; its sentences."""

import ast
import importlib
import os
import re
from pathlib import Path

import pytest

from Testing.paths import ROOT

# Where Slicer, CTK and VTK's additions declare the classes; Qt's own are known to every binding of Qt.
CORE, SEGMENTS, WIDGETS = "Libs/MRML/Core", "Libs/vtkSegmentationCore", "Libs/MRML/Widgets"
SEQUENCES = "Modules/Loadable/Sequences/MRML"
SLICER = {
    CORE: "GridTransformNode LabelMapVolumeNode LinearTransformNode MarkupsFiducialNode MarkupsNode "
    "MarkupsPlaneNode MarkupsROINode ModelNode PlotChartNode PlotSeriesNode ScalarVolumeNode Scene "
    "ScriptedModuleNode SequenceNode SegmentationNode SliceNode SubjectHierarchyNode "
    "TableNode TransformDisplayNode TransformNode TransformableNode VolumeNode",
    SEQUENCES: "SequenceBrowserNode",
    SEGMENTS: "OrientedImageData OrientedImageDataResample Segment Segmentation SegmentationConverter",
    WIDGETS: "NodeComboBox Widget",
}
PREFIXES = {CORE: "vtkMRML", SEQUENCES: "vtkMRML", SEGMENTS: "vtk", WIDGETS: "qMRML"}
CTK = ("ctkCollapsibleButton", "ctkPathLineEdit", "ctkSliderWidget")  # Libs/Widgets
ADDON = ("vtkOrientedGridTransform",)  # vtkAddon, which Slicer fetches
VTK = (
    "vtkCommand",
    "vtkGeneralTransform",
    "vtkImageCheckerboard",
    "vtkImageData",
    "vtkImageMapToWindowLevelColors",
    "vtkMatrix4x4",
    "vtkPoints",
    "vtkTransform",
)
QT = [
    "QBrush",
    "QCheckBox",
    "QColor",
    "QComboBox",
    "QDoubleSpinBox",
    "QFrame",
    "QHeaderView",
    "QLabel",
    "QLineEdit",
    "QListWidget",
    "QListWidgetItem",
    "QPalette",
    "QPlainTextEdit",
    "QProgressBar",
    "QPushButton",
    "QSettings",
    "QSizePolicy",
    "QSpinBox",
    "QTabWidget",
    "QTableWidget",
    "QTableWidgetItem",
    "QTimer",
    "QWidget",
    "Qt",
]
HEADERS = {f"{PREFIXES[folder]}{name}": folder for folder, names in SLICER.items() for name in names.split()}
CLASS = re.compile(r"(?:vtk|qMRML|ctk|Q[A-Z])\w+|Qt")


def named() -> set[str]:
    """The classes that the module's source and its .ui files name."""
    found = set()
    for path in (ROOT / "DeepRegSlicer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found |= {node.attr} if node.value.id in ("qt", "ctk", "slicer", "vtk") else set()
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value}
            elif isinstance(node, ast.ImportFrom) and node.module == "slicer":
                found |= {alias.name for alias in node.names}
    for path in (ROOT / "Resources" / "UI").glob("*.ui"):
        found |= set(re.findall(r'<widget class="(\w+)"', path.read_text(encoding="utf-8")))
    return {name for name in found if CLASS.fullmatch(name)}


def test_every_class_in_use_is_listed_and_no_other():
    listed = {*HEADERS, *CTK, *ADDON, *VTK, *QT}
    assert sorted(named() - listed) == [] and sorted(listed - named()) == []


def test_every_listed_class_is_there_in_the_host(host):
    import slicer

    for name in (*HEADERS, *ADDON):
        assert hasattr(slicer, name), name
    for module, names in (("qt", QT), ("ctk", CTK), ("vtk", VTK)):
        assert [name for name in names if not hasattr(importlib.import_module(module), name)] == []


@pytest.mark.parametrize("variable", ["SLICER_SOURCE", "CTK_SOURCE"])
def test_every_listed_class_is_declared_where_it_is_said_to_be(variable):
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no source tree")
    table = HEADERS if variable == "SLICER_SOURCE" else dict.fromkeys(CTK, "Libs/Widgets")
    for name, folder in table.items():
        text = (Path(os.environ[variable]) / folder / f"{name}.h").read_text(encoding="utf-8")
        assert re.search(rf"class\s+(?:\w+\s+)?{name}\b", text), name


ERRORS = {
    "InputError",
    "WorkerError",
    "WorkerCancelled",
    "RegistrationError",
    "InstallError",
    "TrainingError",
}


def test_the_sentences_of_errors_can_be_translated():
    """A text that stands in an error as it is would be read in English by everybody."""
    found, count = [], 0
    for path in (ROOT / "DeepRegSlicer").rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        for call in calls:
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            if name in ERRORS and call.args:
                count += 1
                text = ast.unparse(call.args[0])
                plain = isinstance(call.args[0], ast.Constant | ast.JoinedStr) and re.search(
                    "[a-z]{3} ", text
                )
                found += [f"{path.name}, line {call.lineno}: {text}"] if plain else []
    assert found == [] and count > 40
