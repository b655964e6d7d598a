"""What is shown of a result: tables, slice views, maps, chart and report, through the widgets."""

import numpy as np
import pytest
from PIL import Image

from Testing.Slicer.test_panel import MODULE, Panel
from Testing.Slicer.test_user_steps import save


class Checked(Panel):
    """A panel whose worker tells all that it measures, with landmarks and segmentations chosen."""

    CHECK = {"check": True, "steps": 6}

    def choose(self):
        import slicer

        super().choose()
        self.points = []
        for name, shift in (("fixed", 0.0), ("moving", 2.0)):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
            for n, label in enumerate(("apex", "valve")):
                node.AddControlPoint((n + shift, -4.0 * n, 12.0 + n), label)
            self.points.append(node)
            getattr(self.ui, f"{name}LandmarksSelector").setCurrentNode(node)
        self.ui.fixedSegmentationSelector.setCurrentNode(self.fixed_segmentation)
        self.ui.movingSegmentationSelector.setCurrentNode(self.moving_segmentation)
        return self

    def register(self, **settings):
        self.settings = {**self.CHECK, **settings}
        self.ui.registerButton.click()
        return self.finish()

    @property
    def check(self):
        return self.module.widget.panel.checking

    @property
    def views(self):
        return self.check.ui

    def cells(self, table) -> list[list[str]]:
        return [[table.item(r, c).text() for c in range(table.columnCount)] for r in range(table.rowCount)]


@pytest.fixture
def panel(host, library, monkeypatch, stand_in):
    import slicer

    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    return Checked(host, library, monkeypatch).choose()


def composite():
    import slicer

    return slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")[0]


def layers() -> tuple:
    import slicer

    node = composite()
    ids = node.GetBackgroundVolumeID(), node.GetForegroundVolumeID()
    found = [node_id and slicer.mrmlScene.GetNodeByID(node_id) for node_id in ids]
    return (*(one and one.GetName() for one in found), node.GetForegroundOpacity())


def test_tables_of_structures_and_landmarks_are_there_without_a_click(panel):
    panel.register()
    ui = panel.views
    figures = ["0.41 → 0.93", "7.5 → 1.5", "0.5 → 0.2"]
    assert panel.cells(ui.structureTable) == [["Liver", *figures], ["Gut", *figures]]
    assert panel.cells(ui.landmarkTable) == [["apex", "2.00 mm", "0.00 mm"], ["valve", "3.00 mm", "0.50 mm"]]
    assert not any(row[0].startswith("Dice, L") for row in panel.table())
    assert not ui.structureTable.isHidden() and layers() == ("F", "M registered", 0.5)


def test_without_segmentations_and_landmarks_there_are_no_such_tables(panel):
    for name in ("fixedSegmentation", "movingSegmentation", "fixedLandmarks", "movingLandmarks"):
        getattr(panel.ui, f"{name}Selector").setCurrentNode(None)
    panel.settings = {}
    panel.ui.registerButton.click()
    panel.finish()
    assert panel.views.structureTable.isHidden() and panel.views.landmarkTable.isHidden()
    assert not panel.views.contoursButton.enabled


def test_figures_that_warn_are_said_in_words(panel):
    assert panel.register(outside=55.0).endswith("55 % of the fixed volume lie outside of the moving one.")
    assert "outside" not in panel.register(outside=20.0)


def test_the_slider_blends_and_flicker_shows_one_after_the_other(panel):
    panel.register()
    ui = panel.views
    ui.blendSlider.value = 0.3
    assert layers() == ("F", "M registered", 0.3)
    ui.flickerButton.click()
    seen = set()

    def both() -> bool:
        seen.add(composite().GetForegroundOpacity())
        return {0.0, 1.0} <= seen

    assert panel.host.spin(20, until=both)
    ui.flickerButton.click()
    assert layers()[2] == 0.3
    panel.host.spin(0.7)
    assert layers()[2] == 0.3


def test_the_checkerboard_is_squares_of_both_and_goes_again(panel):
    import slicer

    panel.register()
    ui, names = panel.views, {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode")}
    ui.blendSlider.value = 0.4
    ui.flickerButton.click()
    ui.checkerboardButton.click()
    assert not ui.flickerButton.checked
    background, foreground, _ = layers()
    assert (background, foreground) == ("M registered checkerboard", None)
    board = panel.make.array(slicer.util.getNode(background))
    warped = slicer.util.getNode("M registered")
    grey = []
    for node in (panel.fixed, warped):
        display = node.GetDisplayNode()
        low = display.GetLevel() - display.GetWindow() / 2
        grey.append(np.clip((panel.make.array(node) - low) / display.GetWindow() * 255, 0, 255))
    near = [np.abs(board - one) <= 1.5 for one in grey]
    assert (near[0] | near[1]).all()
    assert (near[0] & ~near[1]).mean() > 0.2 and (near[1] & ~near[0]).mean() > 0.2
    assert np.allclose(panel.make.world_matrix(slicer.util.getNode(background)), panel.make.FIXED)
    ui.checkerboardButton.click()
    assert layers() == ("F", "M registered", 0.4)
    assert {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode")} == names


def test_contours_are_drawn_and_the_display_is_restored(panel):
    import slicer

    panel.register()
    nodes = [panel.fixed_segmentation, slicer.util.getNode("MS registered"), panel.moving_segmentation]
    displays = [node.GetDisplayNode() for node in nodes]

    def state() -> list:
        return [
            (
                d.GetVisibility(),
                d.GetVisibility2DFill(),
                d.GetVisibility2DOutline(),
                d.GetSliceIntersectionThickness(),
            )
            for d in displays
        ]

    before = state()
    panel.views.contoursButton.click()
    assert [one[1:] for one in state()[:2]] == [(False, True, 1), (False, True, 3)]
    assert not displays[2].GetVisibility()
    panel.views.contoursButton.click()
    assert state() == before


def test_the_deformation_grid_is_drawn_and_goes_again(panel):
    import slicer

    panel.register(play="bend")
    panel.views.gridButton.click()
    display = slicer.util.getNode("M to F").GetDisplayNode()
    assert display.GetVisibility2D() and display.GetVisibility()
    assert display.GetVisualizationMode() == slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID
    panel.views.gridButton.click()
    assert not display.GetVisibility2D()


def test_another_run_switches_all_of_it_off(panel):
    panel.register()
    ui = panel.views
    for button in (ui.checkerboardButton, ui.contoursButton, ui.gridButton):
        button.click()
    panel.register()
    assert not (ui.checkerboardButton.checked or ui.contoursButton.checked or ui.gridButton.checked)
    assert layers() == ("F", "M registered", 0.5)


def test_a_node_that_is_gone_is_said(panel):
    import slicer

    panel.register()
    slicer.mrmlScene.RemoveNode(slicer.util.getNode("M registered"))
    panel.views.checkerboardButton.click()
    assert panel.ui.statusLabel.text == "'M registered' is not in the scene any more: register again."
    assert not panel.views.checkerboardButton.checked
    slicer.mrmlScene.RemoveNode(slicer.util.getNode("M to F"))
    for button in (panel.views.mapsButton, panel.views.reportButton, panel.views.lossButton):
        button.click()
        assert panel.ui.statusLabel.text.startswith("'M to F' is not in the scene any more")
    assert panel.ui.registerButton.enabled and panel.ui.progressBar.isHidden()


@pytest.mark.parametrize("what", ["scene", "module"])
def test_closing_while_all_is_on_leaves_no_error(panel, host, what):
    panel.register()
    for name in ("contoursButton", "gridButton", "checkerboardButton"):
        getattr(panel.views, name).click()
    if what == "scene":
        host.close_scene()
        assert not panel.views.checkerboardButton.checked
        assert panel.ui.resultSection.isHidden()
    else:
        host.close_module(panel.module)
    host.spin(0.1)
    assert host.errors == []


def test_maps_of_the_deformation_become_volumes(panel):
    import slicer

    panel.register(play="bend")
    panel.views.mapsButton.click()
    assert not panel.ui.registerButton.enabled and panel.ui.cancelButton.enabled
    text = panel.finish(60)
    assert text == "The maps are 'M to F Jacobian' and 'M to F displacement'."
    lengths = panel.make.array(slicer.util.getNode("M to F displacement"))
    points = np.array([[3, 4, 5], [10, 2, 8], [7, 12, 3]])
    world = points @ panel.make.FIXED[:3, :3].T + panel.make.FIXED[:3, 3]
    moved = panel.make.mapped_by(slicer.util.getNode("M to F"), world)
    assert np.allclose(lengths[tuple(points.T)], np.linalg.norm(moved - world, axis=1), atol=1e-3)
    jacobian = panel.make.array(slicer.util.getNode("M to F Jacobian"))
    step, at = 0.05, world[0]
    ahead = [panel.make.mapped_by(slicer.util.getNode("M to F"), at + step * np.eye(3))]
    behind = [panel.make.mapped_by(slicer.util.getNode("M to F"), at - step * np.eye(3))]
    determinant = np.linalg.det((ahead[0] - behind[0]).T / (2 * step))
    assert jacobian[tuple(points[0])] - 1 == pytest.approx(determinant - 1, rel=0.05)
    assert abs(determinant - 1) > 0.002 and jacobian.std() > 1e-4
    assert layers()[:2] == ("F", "M to F Jacobian") and panel.ui.registerButton.enabled


def test_the_chart_of_the_losses(panel):
    import slicer

    panel.register()
    panel.views.lossButton.click()
    table = slicer.util.getNodesByClass("vtkMRMLTableNode")[0].GetTable()
    chart = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")[0]
    assert table.GetColumnName(0) == "Step" and table.GetNumberOfRows() >= 2
    assert chart.GetXAxisTitle() == "Step" and chart.GetTitle() == "Losses of M to F"
    assert table.GetValue(0, 1).ToDouble() == 0.5


def test_the_report_is_a_page_with_figures_and_settings(panel, tmp_path):
    panel.register(play="bend")
    panel.views.reportPath.currentPath = str(tmp_path / "reports")
    panel.views.reportButton.click()
    text = panel.finish(120)
    assert text == f"The report is in {tmp_path / 'reports' / 'M to F.pdf'}."
    page = Image.open(tmp_path / "reports" / "M to F.png")
    assert page.size == (1654, 2339)
    tables = dict(panel.check.tables())
    assert ["Moving", "M"] in tables["Settings"] and ["Method", "Automatic"] in tables["Settings"]
    assert ["Liver", "0.41 - 0.93", "7.5 - 1.5", "0.5 - 0.2"] in tables["Structures, before - after"]
    assert ["apex", "2.00 mm", "0.00 mm"] in tables["Landmarks"]


def test_a_report_that_can_not_be_written_says_so(panel, tmp_path):
    panel.register()
    (tmp_path / "file").write_text("")
    panel.views.reportPath.currentPath = str(tmp_path / "file")
    panel.views.reportButton.click()
    assert "the report can't be written" in panel.finish(120) and panel.ui.registerButton.enabled


def test_a_click_on_a_landmark_shows_its_place(panel):
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
    panel.register()
    panel.views.landmarkTable.selectRow(1)
    position = panel.points[0].GetNthControlPointPositionWorld(1)
    assert node.GetSliceOffset() == pytest.approx(node.GetSliceToRAS().GetElement(2, 3))
    assert node.GetSliceToRAS().GetElement(2, 3) == pytest.approx(position[2])


@pytest.mark.parametrize("transform", [True, False], ids=["all", "without a transform"])
def test_a_scene_that_is_loaded_tells_of_its_result(panel, tmp_path, transform):
    panel.ui.createTransformCheckBox.checked = transform
    panel.ui.createJacobianCheckBox.checked = True
    panel.register(outside=55.0)
    tables = (panel.ui.resultTable, panel.views.structureTable, panel.views.landmarkTable)
    before = [panel.cells(table) for table in tables]
    report, losses = panel.check.tables(), panel.check.shown.losses
    panel.views.blendSlider.value = 0.25
    url = save(tmp_path)
    panel.host.close_scene()
    assert panel.ui.resultSection.isHidden() and panel.check.shown is None
    panel.host.scene.SetURL(url)
    assert panel.host.scene.Import()
    assert not panel.ui.resultSection.isHidden() and [panel.cells(table) for table in tables] == before
    assert panel.check.tables()[:-1] == report[:-1] and panel.check.shown.losses == losses
    assert layers()[2] == 0.25 and panel.views.gridButton.enabled is transform
    panel.views.contoursButton.click()
    panel.views.contoursButton.click()
    panel.views.reportPath.currentPath = f"file://{tmp_path}/reports"
    panel.views.reportButton.click()
    text = panel.finish(120)
    if transform:
        assert text.startswith("The report is in ") and (tmp_path / "reports" / "M to F.pdf").is_file()
    else:
        assert text == "The scene does not hold the transform of this result: register again."


def test_a_result_outlives_a_segmentation_that_was_deleted_during_its_run(panel, tmp_path):
    panel.settings = {**panel.CHECK, "steps": 40, "seconds": 0.02}
    panel.ui.registerButton.click()
    panel.host.scene.RemoveNode(panel.fixed_segmentation)
    assert panel.finish().startswith("Done in ")
    transform = panel.check.shown.run.result.transform
    assert transform.GetNodeReferenceID("DeepRegSlicerResult.fixed_segmentation") is None
    before = panel.cells(panel.views.structureTable)
    panel.ui.outputTransformSelector.setCurrentNode(transform)
    url = save(tmp_path)
    panel.host.close_scene()
    panel.host.scene.SetURL(url)
    assert panel.host.scene.Import() and panel.cells(panel.views.structureTable) == before
    panel.views.contoursButton.click()
    assert panel.host.errors == []


def test_a_result_of_other_volumes_is_not_told(panel, tmp_path):
    panel.register()
    panel.ui.movingVolumeSelector.setCurrentNode(panel.make.volume("Another"))
    panel.ui.outputTransformSelector.setCurrentNode(panel.check.shown.run.result.transform)
    url = save(tmp_path)
    panel.host.close_scene()
    panel.host.scene.SetURL(url)
    assert panel.host.scene.Import() and panel.ui.resultSection.isHidden() and panel.check.shown is None


@pytest.mark.parametrize("told", ["", "no JSON", "[1, 2]", '{"figures": {}, "about": {}}'])
def test_what_is_kept_amiss_is_passed_over(panel, host, told):
    panel.register()
    panel.check.shown.run.result.transform.SetAttribute("DeepRegSlicer.result", told)
    host.close_module(panel.module)
    module = host.load_module(MODULE)
    assert module.ui.resultSection.isHidden() and module.ui.registerButton.enabled
