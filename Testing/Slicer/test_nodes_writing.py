"""Results become nodes that map as RegCore does, lie on the fixed volume, and come whole or not at all."""

import numpy as np
import pytest

from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume


@pytest.fixture
def nodes(library):
    return library("nodes")


@pytest.fixture
def make(host):
    from Testing.Slicer import scenes

    return scenes


class Case:
    """A fixed and a moving volume with segmentations, and a result on the fixed grid."""

    def __init__(self, nodes, make, bend=True):
        self.nodes = nodes
        self.fixed = make.volume("F")
        self.moving = make.volume("M", (11, 9, 13), make.MOVING)
        labels = make.boxes((11, 9, 13))
        self.segmentation = make.segmentation("MS", self.moving, {"A": labels == 1, "B": labels == 2})
        self.bend = bend
        self.outputs = nodes.Outputs()

    def read(self):
        self.grid = self.nodes.volume(self.fixed).geometry
        _, self.labels, self.structures = self.nodes.label_volumes(None, self.segmentation)
        self.placement = self.nodes.Placement.of(
            self.fixed, self.moving, self.segmentation, self.grid, self.outputs.transform
        )
        return self

    def result(self):
        from Testing.Slicer import stand_in_worker as worker

        fixed = Volume(np.zeros(self.grid.shape, np.float32), self.grid)
        transform = worker.bend(fixed) if self.bend else worker.shift()
        moving = self.nodes.volume(self.moving)
        return (
            transform,
            worker.warped(moving, transform, fixed),
            worker.warped(self.labels, transform, fixed),
        )

    def write(self):
        self.made = self.result()
        return self.nodes.write(*self.made, self.structures, self.placement, self.outputs)


@pytest.fixture
def case(nodes, make):
    return Case(nodes, make)


GRIDS = [
    ("oblique", np.eye(4)),
    ("left-handed", np.diag([-1.0, 1, 1, 1])),
    ("sheared", np.array([[1, 0.3, 0, 5], [0, 1, 0.2, 0], [0, 0, 1, -4], [0, 0, 0, 1.0]])),
]


@pytest.mark.parametrize(("name", "placed"), GRIDS, ids=[name for name, _ in GRIDS])
def test_a_field_maps_a_thousand_points_as_regcore_does(nodes, make, name, placed):
    import slicer

    writing = __import__("DeepRegSlicerLib.nodes.writing", fromlist=["x"])
    rng = np.random.default_rng(1)
    grid = Geometry((7, 8, 9), placed @ make.OBLIQUE)
    field = DisplacementField(grid, rng.normal(0, 3, (7, 8, 9, 3)))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "T")
    node.SetAndObserveTransformFromParent(writing.vtk_transform_of(field))
    points = grid.to_world(rng.uniform(-2, 11, (1000, 3)))  # a third of them outside
    np.testing.assert_allclose(make.mapped_by(node, points), field.map(points), atol=2e-4)  # noise of 3 mm


@pytest.mark.parametrize("bend", [True, False], ids=["field", "affine"])
@pytest.mark.parametrize("parents", ["none", "linear", "bent"])
def test_everything_lies_on_the_fixed_volume(nodes, make, bend, parents):
    case = Case(nodes, make, bend)
    if parents == "linear":
        make.under(case.fixed, make.linear_parent("Bed", shear=0.2)[0])
        make.under(case.moving, make.linear_parent("Room")[0])
        case.segmentation.SetAndObserveTransformNodeID(case.moving.GetTransformNodeID())
    if parents == "bent":
        make.under(case.fixed, make.bent_parent())
    case.read()
    written = case.write()
    transform, warped, labels = case.made
    kind = "vtkMRMLGridTransformNode" if bend else "vtkMRMLLinearTransformNode"
    assert written.transform.GetClassName() == kind
    assert written.transform.GetTransformNodeID() is None
    points = case.grid.to_world(np.random.default_rng(0).uniform(0, 11, (1000, 3)))
    np.testing.assert_allclose(make.mapped_by(written.transform, points), transform.map(points), atol=2e-5)
    np.testing.assert_allclose(make.world_matrix(written.volume), case.grid.affine, atol=1e-6)
    np.testing.assert_array_equal(make.array(written.volume), warped.array)
    if parents != "bent":
        assert written.volume.GetTransformNodeID() == case.fixed.GetTransformNodeID()
        np.testing.assert_allclose(
            make.world_matrix(written.volume), make.world_matrix(case.fixed), atol=1e-6
        )
    for segment_id, label in (("id-A", 1), ("id-B", 2)):
        found = make.segment_mask(written.segmentation, segment_id, written.volume)
        np.testing.assert_array_equal(found, labels.array == label)


def test_a_parent_that_left_the_scene_leaves_the_result_in_its_place(case, make, nodes):
    import slicer

    parent, _ = make.linear_parent("Bed")
    make.under(case.fixed, parent)
    case.read()
    slicer.mrmlScene.RemoveNode(parent)
    written = case.write()
    assert written.volume.GetTransformNodeID() is None
    np.testing.assert_allclose(make.world_matrix(written.volume), case.grid.affine, atol=1e-6)


def test_the_transform_node_brings_the_moving_volume_where_the_warped_one_is(case, make, nodes):
    """The independent check: Slicer's own resampler with the node gives RegCore's warped volume."""
    import slicer

    case.read()
    written = case.write()
    case.moving.SetAndObserveTransformNodeID(written.transform.GetID())
    logic = slicer.modules.volumes.logic()
    own = make.array(logic.ResampleVolumeToReferenceVolume(case.moving, case.fixed))
    index = case.nodes.volume(case.moving, written.transform).geometry.to_index(
        case.made[0].map(case.grid.world_grid())
    )
    inside = ((index > 0.01) & (index < np.array([11, 9, 13]) - 1.01)).all(-1)
    assert inside.sum() > 200
    np.testing.assert_allclose(own[inside], case.made[1].array[inside], atol=0.2)  # of a range of 250


def test_segments_keep_names_colours_terminology_and_display(case, make, nodes):
    import slicer
    import vtk

    case.segmentation.GetDisplayNode().SetSegmentOpacity2DFill("id-B", 0.25)
    written = case.read().write()
    tag = slicer.vtkSegment.GetTerminologyEntryTagName()
    before, after = case.segmentation.GetSegmentation(), written.segmentation.GetSegmentation()
    assert list(after.GetSegmentIDs()) == ["id-A", "id-B"]
    for segment_id in ("id-A", "id-B"):
        old, new = before.GetSegment(segment_id), after.GetSegment(segment_id)
        assert new.GetName() == old.GetName()
        assert new.GetColor() == old.GetColor()
        kept = vtk.reference("")
        assert new.GetTag(tag, kept) and kept == make.TERMINOLOGY
    assert written.segmentation.GetDisplayNode().GetSegmentOpacity2DFill("id-B") == 0.25
    assert written.segmentation.GetDisplayNode() is not case.segmentation.GetDisplayNode()
    assert written.segmentation.CreateClosedSurfaceRepresentation()


def test_overlapping_segments_come_back_overlapping(nodes, make):
    case = Case(nodes, make)
    labels = make.boxes((11, 9, 13))
    case.segmentation = make.segmentation("MS", case.moving, {"A": labels == 1, "All": labels > 0})
    written = case.read().write()
    assert case.structures.overlapping
    for channel, segment_id in enumerate(["id-A", "id-All"]):
        found = make.segment_mask(written.segmentation, segment_id, case.fixed)
        np.testing.assert_array_equal(found, case.made[2].array[..., channel] > 0)
    assert case.made[2].array.all(-1).any()


def test_the_warped_volume_is_shown_as_the_moving_one(case, make):
    display = case.moving.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(123, 45)
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeRed")
    written = case.read().write()
    shown = written.volume.GetDisplayNode()
    assert (shown.GetWindow(), shown.GetLevel()) == (123, 45)
    assert shown.GetColorNodeID() == "vtkMRMLColorTableNodeRed"
    assert shown is not display


def test_the_transform_names_its_fixed_and_moving_volume(case):
    written = case.read().write()
    assert written.transform.GetName() == "M to F"
    assert written.transform.GetNodeReference("spatialRegistrationFixed") is case.fixed
    assert written.transform.GetNodeReference("spatialRegistrationMoving") is case.moving


def test_chosen_outputs_are_written_in_place(case, make, nodes):
    first = case.read().write()
    first.volume.GetDisplayNode().SetAutoWindowLevel(False)
    first.volume.GetDisplayNode().SetWindowLevel(7, 8)
    case.outputs = nodes.Outputs(first.transform, first.volume, first.segmentation)
    before = set(make.inventory())
    again = case.read().write()
    assert (again.transform, again.volume, again.segmentation) == (
        first.transform,
        first.volume,
        first.segmentation,
    )
    assert set(make.inventory()) == before
    assert again.volume.GetDisplayNode().GetWindow() == 7  # what the user set stays


@pytest.mark.parametrize("chosen", ["vtkMRMLLinearTransformNode", "vtkMRMLTransformNode"])
def test_an_output_transform_of_another_class_is_replaced(case, make, nodes, chosen):
    import slicer

    old = slicer.mrmlScene.AddNewNodeByClass(chosen, "Mine")
    rider = make.under(make.volume("Rider"), old)
    case.outputs = nodes.Outputs(old)
    written = case.read().write()
    assert not slicer.mrmlScene.IsNodePresent(old)
    assert written.transform.GetClassName() == "vtkMRMLGridTransformNode"
    assert written.transform.GetName() == "Mine"
    assert rider.GetParentTransformNode() is written.transform


def test_the_transform_alone_can_be_had(case, nodes):
    case.outputs = nodes.Outputs(images=False)
    written = case.read().write()
    assert written.volume is None and written.segmentation is None


def test_inputs_are_not_overwritten(case, make, nodes):
    with pytest.raises(InputError, match="'M' can't be input and output"):
        nodes.Outputs(volume=case.moving).check([case.fixed, case.moving])
    output, _ = make.linear_parent("Out")
    make.under(case.fixed, output)
    case.outputs = nodes.Outputs(output)
    with pytest.raises(InputError, match="'F' is under the transform 'Out'.*choose another"):
        case.read()


@pytest.mark.parametrize("chosen", [False, True], ids=["new", "in-place"])
@pytest.mark.parametrize("step", ["_write_transform", "_write_volume", "_write_segmentation", "_retire"])
def test_an_error_at_any_step_leaves_the_scene_as_it_was(case, make, nodes, monkeypatch, step, chosen):
    import slicer

    if chosen:
        first = case.read().write()
        make.under(first.volume, make.linear_parent()[0])
        linear, _ = make.linear_parent("Selected")
        make.under(case.moving, linear)
        case.outputs = nodes.Outputs(linear, first.volume, first.segmentation)
        case.bend = False if step != "_retire" else case.bend
    case.read()
    before = make.inventory()
    writing = __import__("DeepRegSlicerLib.nodes.writing", fromlist=["x"])
    original = getattr(writing, step)

    def fails_at_its_end(transaction, *arguments):
        remove, transaction.scene = transaction.scene.RemoveNode, _KeepsNodes(transaction.scene)
        original(transaction, *arguments)
        assert remove is not None
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(writing, step, fails_at_its_end)
    with pytest.raises(RuntimeError, match="the disk is full"):
        case.write()
    assert make.inventory() == before
    assert not slicer.mrmlScene.IsBatchProcessing()
    monkeypatch.undo()
    assert case.write().transform is not None


class _KeepsNodes:
    """The scene, but nodes can't be removed: so a failure in the last step of all can be played."""

    def __init__(self, scene):
        self._scene, self._failed = scene, False

    def __getattr__(self, name):
        return getattr(self._scene, name)

    def RemoveNode(self, node):
        if not self._failed and node.GetName() == "Selected":
            self._failed = True
            raise RuntimeError("the disk is full")
        self._scene.RemoveNode(node)


def test_undo_takes_the_whole_result_back(case, make):
    import slicer

    scene = slicer.mrmlScene
    scene.SetUndoOn()
    try:
        before = len(make.inventory())
        case.read().write()
        assert scene.GetNumberOfUndoLevels() == 1
        assert len(make.inventory()) > before
    finally:
        scene.ClearUndoStack()
        scene.SetUndoOff()


def test_an_affine_result_is_exact(nodes, make):
    writing = __import__("DeepRegSlicerLib.nodes.writing", fromlist=["x"])
    transform = writing.vtk_transform_of(AffineTransform(make.OBLIQUE))
    assert transform.TransformDoublePoint(1, 2, 3) == pytest.approx(
        make.OBLIQUE[:3, :3] @ [1, 2, 3] + make.OBLIQUE[:3, 3], abs=1e-12
    )
