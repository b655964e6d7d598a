"""`slicer.parameterNodeWrapper`: values kept in the scene, and bound to widgets both ways.

With SLICER_SOURCE set these tests run on Slicer's own wrapper.
"""

import enum
import pathlib
from typing import Annotated

import pytest


class Method(enum.Enum):
    AFFINE = 1
    DEFORMABLE = 2

    def label(self):
        return self.name.capitalize()


@pytest.fixture
def wrapper_class(host):
    from slicer import vtkMRMLNode, vtkMRMLScalarVolumeNode
    from slicer.parameterNodeWrapper import Choice, Default, Minimum, WithinRange, parameterNodeWrapper

    @parameterNodeWrapper
    class Parameters:
        volume: vtkMRMLScalarVolumeNode
        anything: vtkMRMLNode
        method: Method = Method.DEFORMABLE
        loss: Annotated[str, Choice(["lncc", "nmi"])] = "nmi"
        steps: Annotated[int, WithinRange(1, 500)] = 100
        seed: Annotated[int, Minimum(0)]
        weight: Annotated[float, WithinRange(0, 10)] = 0.5
        tolerance: Annotated[float, Default(0.01)]
        note: str
        folder: pathlib.Path
        fast: bool = True

    return Parameters


@pytest.fixture
def parameters(host, wrapper_class):
    return wrapper_class(host.scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "Parameters"))


@pytest.fixture
def bind(host, parameters):
    """bind(name, widget): the widget, bound to the parameter; unbound after the test."""

    def connect(name, widget):
        widgets.append(widget)
        tags.append(parameters.connectParametersToGui({name: widget}))
        return widget

    tags, widgets = [], []
    yield connect
    for tag in tags:
        parameters.disconnectGui(tag)


def test_defaults(parameters):
    assert parameters.volume is None and parameters.method is Method.DEFORMABLE
    assert (parameters.loss, parameters.steps, parameters.seed, parameters.fast) == ("nmi", 100, 0, True)
    assert (parameters.weight, parameters.tolerance) == (0.5, 0.01)
    assert (parameters.note, parameters.folder) == ("", pathlib.Path())


def test_values_live_in_the_node(host, parameters, wrapper_class):
    node = host.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    changes = {
        "volume": node,
        "method": Method.AFFINE,
        "loss": "lncc",
        "steps": 7,
        "weight": 1 / 3,
        "note": "tight",
        "folder": pathlib.Path("/data/out"),
        "fast": False,
    }
    for name, value in changes.items():
        setattr(parameters, name, value)
    again = wrapper_class(parameters.parameterNode)
    assert {name: getattr(again, name) for name in changes} == changes


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("steps", 0, ValueError),
        ("steps", 501, ValueError),
        ("steps", 2.5, TypeError),
        ("seed", -1, ValueError),
        ("weight", 10.01, ValueError),
        ("weight", "1", TypeError),
        ("weight", None, ValueError),
        ("loss", "ssd", ValueError),
        ("note", 3, TypeError),
        ("folder", "/data", TypeError),
    ],
)
def test_bad_values_are_refused_and_change_nothing(parameters, name, value, error):
    before = getattr(parameters, name)
    with pytest.raises((ValueError, TypeError)) as caught:
        setattr(parameters, name, value)
    assert caught.type is error
    assert getattr(parameters, name) == before


def test_node_of_another_class_is_refused(host, parameters):
    node = host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    parameters.anything = node
    with pytest.raises(TypeError):
        parameters.volume = node
    assert parameters.anything is node and parameters.volume is None


def test_removed_node_is_none(host, parameters):
    parameters.volume = host.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    host.scene.RemoveNode(parameters.volume)
    assert parameters.volume is None


def test_one_event_for_a_change_and_none_for_none(host, parameters):
    import vtk

    events = []
    tag = parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: events.append(event))
    parameters.volume = host.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert len(events) == 1
    parameters.steps = 100
    assert len(events) == 1
    parameters.RemoveObserver(tag)
    parameters.steps = 5
    assert len(events) == 1


def test_spin_boxes_take_the_bounds(host, bind, parameters):
    steps, weight = bind("steps", host.qt.QSpinBox()), bind("weight", host.ctk.ctkSliderWidget())
    assert (steps.minimum, steps.maximum, steps.value) == (1, 500, 100)
    assert (weight.minimum, weight.maximum, weight.value) == (0, 10, 0.5)
    steps.value, weight.value = 20, 2.5
    assert (parameters.steps, parameters.weight) == (20, 2.5)
    parameters.steps, parameters.weight = 30, 7.5
    assert (steps.value, weight.value) == (30, 7.5)


def test_combo_boxes_are_filled(host, bind, parameters):
    method, loss = bind("method", host.qt.QComboBox()), bind("loss", host.qt.QComboBox())
    assert [method.itemText(row) for row in range(method.count)] == ["Affine", "Deformable"]
    assert (method.currentText, loss.currentText) == ("Deformable", "nmi")
    method.currentIndex, loss.currentText = 0, "lncc"
    assert (parameters.method, parameters.loss) == (Method.AFFINE, "lncc")
    parameters.method = Method.DEFORMABLE
    assert method.currentIndex == 1


def test_text_path_and_check_box(host, bind, parameters):
    note, fast = bind("note", host.qt.QLineEdit()), bind("fast", host.qt.QCheckBox())
    line, button = bind("folder", host.ctk.ctkPathLineEdit()), host.ctk.ctkDirectoryButton()
    bind("folder", button)
    note.text, fast.checked, line.currentPath = "tight", False, "/data"
    assert (parameters.note, parameters.fast, parameters.folder) == ("tight", False, pathlib.Path("/data"))
    assert button.directory == str(pathlib.Path("/data").absolute())


def test_node_selector_gets_the_class(host, bind, parameters):
    selector = host.slicer.qMRMLNodeComboBox()
    selector.noneEnabled = True
    selector.setMRMLScene(host.scene)
    bind("volume", selector)
    node = host.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert list(selector.nodeTypes) == ["vtkMRMLScalarVolumeNode"] and selector.nodeCount() == 1
    selector.setCurrentNode(node)
    assert parameters.volume is node
    parameters.volume = None
    assert selector.currentNode() is None


def test_disconnected_widgets_are_left_alone(host, parameters):
    box = host.qt.QSpinBox()
    tag = parameters.connectParametersToGui({"steps": box})
    parameters.disconnectGui(tag)
    box.value = 20
    assert parameters.steps == 100
    parameters.steps = 40
    assert box.value == 20


def test_connect_gui_by_dynamic_property(host, parameters):
    panel = host.qt.QWidget()
    box, other = host.qt.QSpinBox(panel), host.qt.QSpinBox(panel)
    box.setProperty("SlicerParameterName", "steps")
    tag = parameters.connectGui(panel)
    assert (box.value, other.value) == (100, 0)
    parameters.disconnectGui(tag)


@pytest.mark.parametrize(
    ("name", "widget"),
    [("note", "QSpinBox"), ("seed", "QSlider"), ("note", "QPlainTextEdit"), ("note", "QComboBox")],
)
def test_pairs_that_slicer_can_not_bind(host, parameters, name, widget):
    with pytest.raises(RuntimeError):
        parameters.connectParametersToGui({name: getattr(host.qt, widget)()})


def test_unknown_parameter(host, parameters):
    with pytest.raises(ValueError, match="speed"):
        parameters.connectParametersToGui({"speed": host.qt.QSpinBox()})


def test_type_that_no_wrapper_keeps(host):
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    class Parameters:
        pixels: bytes

    with pytest.raises(Exception, match="pixels"):
        parameterNodeWrapper(Parameters)
