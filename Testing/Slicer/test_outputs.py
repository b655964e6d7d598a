"""What is made besides the transform, and how the warped volume is: chosen, registered, read from nodes."""

import numpy as np
import pytest

from Testing.Slicer.stand_in_worker import bend, shift
from Testing.Slicer.test_panel import Panel
from Testing.Slicer.test_user_steps import save


class Outputs(Panel):
    """A panel with two volumes chosen and its section of outputs open."""

    def open(self):
        self.choose()
        self.ui.moreOutputsSection.collapsed = False
        return self

    def run(self, **settings):
        self.settings = settings
        self.ui.registerButton.click()
        assert self.finish().startswith("Done"), self.ui.statusLabel.text
        return {node.GetName(): node for node in self.nodes("vtkMRMLTransformableNode")}

    def nodes(self, name: str) -> list:
        import slicer

        return list(slicer.util.getNodesByClass(name))

    def tick(self, widget, *names) -> None:
        """Tick these rows of a list and no others."""
        import qt

        for row in range(widget.count):
            wanted = widget.item(row).text() in names
            widget.item(row).setCheckState(qt.Qt.Checked if wanted else qt.Qt.Unchecked)

    def truth(self):
        from RegCore.space.geometry import Geometry
        from RegCore.space.volume import Volume

        return bend(Volume(self.make.array(self.fixed), Geometry((14, 16, 12), self.make.FIXED)))


@pytest.fixture
def panel(host, library, stand_in, monkeypatch):
    return Outputs(host, library, monkeypatch).open()


POINTS = np.array([[1.0, 2.0, 20.0], [-3.0, 5.0, 18.0], [4.0, -1.0, 25.0]])


def points(name: str = "Vessels", where=POINTS):
    """A list of points."""
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for n, point in enumerate(where):
        node.AddControlPoint(point.tolist(), f"{name}-{n}")
    return node


def model(name: str = "Lung"):
    """A triangle."""
    import slicer
    import vtk

    made, cells = vtk.vtkPoints(), vtk.vtkCellArray()
    made.SetDataTypeToDouble()
    cells.InsertNextCell(3)
    for point in POINTS:
        cells.InsertCellPoint(made.InsertNextPoint(point))
    surface = vtk.vtkPolyData()
    surface.SetPoints(made)
    surface.SetPolys(cells)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", name)
    node.SetAndObservePolyData(surface)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetColor(0.9, 0.1, 0.2)
    return node


def places(node) -> np.ndarray:
    """The points of markups or of a model in the world."""
    if node.IsA("vtkMRMLMarkupsNode"):
        return np.array(
            [node.GetNthControlPointPositionWorld(n) for n in range(node.GetNumberOfControlPoints())]
        )
    import vtk

    general = vtk.vtkGeneralTransform()
    import slicer

    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), None, general)
    own = node.GetPolyData().GetPoints()
    return np.array([general.TransformDoublePoint(own.GetPoint(n)) for n in range(own.GetNumberOfPoints())])


def test_nothing_more_is_made_unless_it_is_ticked(panel, requests):
    made = panel.run()
    assert set(made) == {"F", "M", "FS", "MS", "M to F", "M registered"}
    asked = requests[0]["wanted"]
    assert asked == {
        "inverse": False,
        "jacobian": False,
        "displacement": False,
        "interpolation": "linear",
        "fill": None,
    }


def test_the_inverse_leads_back_and_is_written_anew_by_the_next_run(panel):
    panel.ui.createInverseCheckBox.checked = True
    made = panel.run()
    inverse = made["F to M"]
    assert inverse.GetClassName() == "vtkMRMLLinearTransformNode"
    x = panel.make.mapped_by(made["M to F"], POINTS)
    np.testing.assert_allclose(panel.make.mapped_by(inverse, x), POINTS, atol=1e-9)
    assert inverse.GetNodeReference("spatialRegistrationFixed") is panel.moving
    assert inverse.GetNodeReference("spatialRegistrationMoving") is panel.fixed
    inverse.SetMatrixTransformFromParent(panel.make.vtk_matrix(np.eye(4)))
    again = panel.run()
    assert set(again) == set(made) and again["F to M"] is inverse
    np.testing.assert_allclose(panel.make.mapped_by(inverse, x), POINTS, atol=1e-9)


def test_without_the_transform_the_rest_is_made_the_same(panel):
    ui = panel.ui
    for name in ("Inverse", "Jacobian", "Displacement"):
        getattr(ui, f"create{name}CheckBox").checked = True
    panel.parameters.warp_along([points(), model()])
    first = panel.run(play="bend")
    ui.createTransformCheckBox.checked = False
    assert not ui.outputTransformSelector.enabled and not ui.applyCheckBox.enabled
    panel.parameters.outputTransform = panel.parameters.warpedVolume = None
    made = panel.run(play="bend")
    new = {name.removesuffix("_1"): node for name, node in made.items() if name not in first}
    assert set(new) == set(first) - {"F", "M", "FS", "MS", "Vessels", "Lung", "M to F"}
    assert "The result is in 'M registered_1'." in ui.statusLabel.text
    for name, node in new.items():
        if node.IsA("vtkMRMLVolumeNode"):
            np.testing.assert_array_equal(panel.make.array(node), panel.make.array(first[name]))
        elif not node.IsA("vtkMRMLTransformNode"):
            np.testing.assert_allclose(places(node), places(first[name]), atol=1e-6)
    assert set(panel.run(play="bend")) == set(made)  # they belong to the warped volume, and are written anew


def test_a_result_without_a_transform_can_be_looked_at(panel, tmp_path):
    panel.ui.createTransformCheckBox.checked = False
    panel.run(play="bend")
    views = panel.module.widget.panel.checking.ui
    assert not views.gridButton.enabled and views.blendSlider.enabled
    views.reportPath.currentPath = str(tmp_path)
    views.reportButton.click()
    assert panel.finish(120).startswith("The report is in ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["M to F.pdf", "M to F.png"]
    views.mapsButton.click()
    assert panel.finish(60) == "The maps are 'M to F Jacobian' and 'M to F displacement'."
    found = {node.GetName(): node for node in panel.nodes("vtkMRMLScalarVolumeNode")}
    lengths = np.linalg.norm(panel.truth().mm, axis=-1)
    np.testing.assert_allclose(panel.make.array(found["M to F displacement"]), lengths, rtol=1e-5)
    for _click in range(2):
        views.lossButton.click()
    assert len(panel.nodes("vtkMRMLPlotChartNode")) == 1


@pytest.mark.parametrize("what", ["Inverse", "Jacobian", "Displacement"])
def test_one_output_alone_is_made_alone(panel, what):
    for name in ("Transform", "Images", "Segmentation"):
        getattr(panel.ui, f"create{name}CheckBox").checked = False
    getattr(panel.ui, f"create{what}CheckBox").checked = True
    name = {"Inverse": "F to M", "Jacobian": "M to F Jacobian", "Displacement": "M to F displacement"}[what]
    assert set(panel.run()) == {"F", "M", "FS", "MS", name}
    assert f"The result is in '{name}'." in panel.ui.statusLabel.text
    assert panel.moving.GetTransformNodeID() is None and panel.parameters.outputTransform is None


def test_a_chosen_transform_is_not_touched_where_none_is_made(panel):
    first = panel.run()["M to F"]
    first.SetMatrixTransformFromParent(panel.make.vtk_matrix(np.diag([1.0, 1, 2, 1])))
    panel.make.under(panel.moving, first)
    panel.ui.createTransformCheckBox.checked = False
    panel.run(play="bend")
    assert panel.parameters.outputTransform is first
    np.testing.assert_allclose(panel.make.mapped_by(first, POINTS), POINTS * [1, 1, 2])
    assert panel.moving.GetParentTransformNode() is first


def test_with_nothing_to_be_made_register_says_so(panel):
    ui, text = panel.ui, "Nothing is to be made: tick something under More outputs"
    ui.createTransformCheckBox.checked = ui.createImagesCheckBox.checked = False
    assert not ui.registerButton.enabled and ui.statusLabel.text == ui.registerButton.toolTip == text
    ui.movingSegmentationSelector.setCurrentNode(panel.moving_segmentation)
    assert ui.registerButton.enabled  # the warped segmentation is
    ui.createSegmentationCheckBox.checked = False
    assert ui.statusLabel.text == text
    source = points()
    panel.parameters.warp_along([source])
    assert ui.registerButton.enabled
    panel.settings = {"steps": 20, "seconds": 0.05}
    ui.registerButton.click()
    panel.host.scene.RemoveNode(source)
    assert panel.finish().endswith("What was to be warped has left the scene.")


def test_a_second_pair_leaves_the_first_inverse_and_maps_alone(panel):
    panel.ui.createInverseCheckBox.checked = panel.ui.createDisplacementCheckBox.checked = True
    first = panel.run()
    before = panel.make.array(first["M to F displacement"]).copy()
    other = panel.make.volume("O", (10, 12, 9))
    panel.ui.movingVolumeSelector.setCurrentNode(other)
    second = panel.run(play="bend")
    assert set(second) - set(first) == {
        "O",
        "O to F",
        "F to O",
        "O registered",
        "O to F displacement",
    }
    np.testing.assert_array_equal(panel.make.array(first["M to F displacement"]), before)


def test_an_inverse_of_another_class_does_not_touch_the_former_one(panel):
    panel.ui.createInverseCheckBox.checked = True
    linear = panel.run()["F to M"]
    made = panel.run(play="bend")
    grids = [n for n in made.values() if n.GetClassName() == "vtkMRMLGridTransformNode"]
    assert len(grids) == 2 and linear in panel.nodes("vtkMRMLLinearTransformNode")


def test_the_maps_say_what_the_deformation_does(panel):
    from RegCore.space.transforms import determinants, jacobians

    panel.ui.createJacobianCheckBox.checked = panel.ui.createDisplacementCheckBox.checked = True
    made = panel.run(play="bend")
    truth = panel.truth()
    displacement = made["M to F displacement"]
    np.testing.assert_allclose(panel.make.array(displacement), np.linalg.norm(truth.mm, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(panel.make.world_matrix(displacement), panel.make.FIXED, atol=1e-9)
    whole = np.concatenate([determinants(slab) for _part, slab in jacobians(truth)])
    np.testing.assert_allclose(panel.make.array(made["M to F Jacobian"]), whole, rtol=1e-4)
    display = made["M to F Jacobian"].GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0.0, 2.0)
    again = panel.run(play="bend")
    assert set(again) == set(made) and again["M to F displacement"] is displacement


@pytest.mark.parametrize("play", ["shift", "bend"])
def test_points_and_models_of_the_moving_patient_are_warped_along(panel, play):
    ui, sources = panel.ui, [points(), model()]
    ui.moreOutputsSection.collapsed = True
    ui.moreOutputsSection.collapsed = False
    assert {ui.alongList.item(row).text() for row in range(ui.alongList.count)} == {"Vessels", "Lung"}
    panel.tick(ui.alongList, "Vessels", "Lung")
    before = [places(node).copy() for node in sources]
    made = panel.run(play=play)
    truth = shift() if play == "shift" else panel.truth()
    for name, source in (("Vessels", sources[0]), ("Lung", sources[1])):
        warped = made[f"{name} registered"]
        assert warped is not source and warped.GetClassName() == source.GetClassName()
        np.testing.assert_allclose(truth.map(places(warped)), places(source), atol=0.02)
    for node, was in zip(sources, before, strict=True):
        np.testing.assert_array_equal(places(node), was)
        assert node.GetTransformNodeID() is None
    assert made["Vessels registered"].GetNthControlPointLabel(1) == "Vessels-1"
    assert made["Lung registered"].GetDisplayNode().GetColor() == (0.9, 0.1, 0.2)
    again = panel.run(play=play)
    assert set(again) == set(made)
    np.testing.assert_allclose(truth.map(places(again["Lung registered"])), places(sources[1]), atol=0.02)


def test_what_is_warped_along_stands_where_the_fixed_volume_does(panel):
    bed, _ = panel.make.linear_parent("Bed")
    tilt, _ = panel.make.linear_parent("Tilt")
    panel.make.under(panel.fixed, bed)
    source = panel.make.under(points(), tilt)
    panel.ui.moreOutputsSection.collapsed = True
    panel.ui.moreOutputsSection.collapsed = False
    panel.tick(panel.ui.alongList, "Vessels")
    made = panel.run()
    warped = made["Vessels registered"]
    assert warped.GetParentTransformNode() is bed
    np.testing.assert_allclose(shift().map(places(warped)), places(source), atol=1e-6)


def test_after_a_swap_nothing_of_the_other_patient_is_warped_along(panel):
    panel.parameters.warp_along([points()])
    panel.ui.swapButton.click()
    assert panel.parameters.along() == []
    assert set(panel.run()) == {"F", "M", "FS", "MS", "F to M", "F registered", "Vessels"}


def test_regions_and_planes_can_not_be_warped_along_and_hidden_nodes_are_not_listed(panel):
    import slicer

    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    model("Hidden").SetHideFromEditors(True)
    points()
    panel.ui.fixedLandmarksSelector.setCurrentNode(points("Of the fixed patient"))
    panel.ui.moreOutputsSection.collapsed = True
    panel.ui.moreOutputsSection.collapsed = False
    found = panel.ui.alongList
    assert [found.item(row).text() for row in range(found.count)] == ["Vessels"]


def test_volume_and_segmentation_are_made_each_by_itself(panel):
    ui = panel.ui
    ui.fixedSegmentationSelector.setCurrentNode(panel.fixed_segmentation)
    ui.movingSegmentationSelector.setCurrentNode(panel.moving_segmentation)
    ui.createImagesCheckBox.checked = False
    assert not ui.warpedVolumeSelector.enabled and ui.warpedSegmentationSelector.enabled
    made = panel.run()
    assert "MS registered" in made and "M registered" not in made
    ui.createImagesCheckBox.checked, ui.createSegmentationCheckBox.checked = True, False
    ui.movingVolumeSelector.setCurrentNode(panel.make.volume("O", (10, 12, 9)))
    made = panel.run()
    assert "O registered" in made and "MS registered_1" not in made


@pytest.mark.parametrize(
    ("label", "dtype"),
    [
        ("As the moving volume", np.float32),
        ("Float, 32 bit", np.float32),
        ("Whole numbers from 0 to 255", np.uint8),
        ("Whole numbers, 16 bit", np.int16),
        ("Whole numbers from 0, 16 bit", np.uint16),
        ("Whole numbers, 32 bit", np.int32),
    ],
)
def test_the_warped_volume_has_the_type_that_was_chosen(panel, label, dtype):
    exact = panel.make.array(panel.run()["M registered"]).copy()
    panel.ui.voxelTypeSelector.currentIndex = panel.ui.voxelTypeSelector.findText(label)
    found = panel.make.array(panel.run()["M registered"])
    assert found.dtype == dtype
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        exact = np.clip(np.rint(exact), limits.min, limits.max)
    np.testing.assert_array_equal(found, exact.astype(dtype))


def test_interpolation_and_outside_value_are_those_that_were_chosen(panel, requests):
    ui = panel.ui
    linear = panel.make.array(panel.run()["M registered"]).copy()
    ui.interpolationSelector.currentIndex = ui.interpolationSelector.findText("Nearest voxel")
    ui.outsideEdit.text = "-1024,5"
    nearest = panel.make.array(panel.run()["M registered"])
    assert requests[-1]["wanted"]["interpolation"] == "nearest"
    assert requests[-1]["wanted"]["fill"] == -1024.5
    seen = nearest != -1024.5
    assert 0 < seen.sum() < seen.size and (linear[seen] != nearest[seen]).any()
    values = np.unique(panel.make.array(panel.moving))
    assert np.isin(nearest[seen], values).all()
    ui.outsideEdit.text = "air"
    assert not ui.registerButton.enabled
    assert ui.statusLabel.text == "The outside value is 'air'; a number is expected"


def test_the_choice_is_kept_with_the_scene(panel, tmp_path):
    points(), model()
    ui = panel.ui
    ui.moreOutputsSection.collapsed = True
    ui.moreOutputsSection.collapsed = False
    panel.tick(ui.alongList, "Lung")
    ui.createInverseCheckBox.checked = True
    ui.outsideEdit.text = "-7"
    url = save(tmp_path)
    panel.host.close_scene()
    assert panel.parameters.along() == [] and not ui.createInverseCheckBox.checked
    panel.host.scene.SetURL(url)
    assert panel.host.scene.Import() and panel.host.errors == []
    assert [node.GetName() for node in panel.parameters.along()] == ["Lung"]
    assert ui.createInverseCheckBox.checked and ui.outsideEdit.text == "-7"
    made = panel.run()
    assert {"Lung registered", "F to M"} <= set(made)


def test_a_failure_while_more_is_written_leaves_the_scene_as_it_was(panel, library, monkeypatch):
    source = points()
    panel.ui.createInverseCheckBox.checked = panel.ui.createJacobianCheckBox.checked = True
    panel.parameters.warp_along([source])
    panel.run(play="bend")
    before = panel.make.inventory()
    where = places(panel.nodes("vtkMRMLMarkupsFiducialNode")[1]).copy()

    def fails(*arguments):
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(library("nodes.writing"), "_retire", fails)
    panel.settings = {"play": "bend", "outside": 1.0}
    panel.ui.registerButton.click()
    assert "the disk is on fire" in panel.finish()
    assert panel.make.inventory() == before
    np.testing.assert_array_equal(places(panel.nodes("vtkMRMLMarkupsFiducialNode")[1]), where)
