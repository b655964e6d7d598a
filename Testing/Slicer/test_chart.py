"""The chart of a training in the scene: its nodes, what they hold, and that they are found again."""

import numpy as np
import pytest

ROWS = [{"epoch": n, "loss": 1 / n, "val_loss": 2 / n, "learning_rate": 0.1} for n in (1, 2, 3)]


@pytest.fixture
def charts(library):
    return library("nodes.chart")


def table_of(chart) -> np.ndarray:
    table = chart.table.GetTable()
    columns = [table.GetColumn(n) for n in range(table.GetNumberOfColumns())]
    return np.array([[c.GetValue(row) for c in columns] for row in range(table.GetNumberOfRows())])


def names_of(chart) -> list[str]:
    return [chart.table.GetColumnName(n) for n in range(chart.table.GetNumberOfColumns())]


def test_losses_become_a_table_and_a_series_each(host, charts):
    chart = charts.loss_chart("/data/run", "run")
    chart.show(ROWS[:1])
    chart.show(ROWS)
    assert names_of(chart) == ["Epoch", "Training", "Validation"]
    np.testing.assert_array_equal(table_of(chart), [[1, 1, 2], [2, 0.5, 1], [3, 1 / 3, 2 / 3]])
    series = [chart.chart.GetNthPlotSeriesNode(n) for n in range(chart.chart.GetNumberOfPlotSeriesNodes())]
    assert [one.GetName() for one in series] == ["Training", "Validation"]
    for one in series:
        assert one.GetTableNode() is chart.table
        assert (one.GetXColumnName(), one.GetYColumnName()) == ("Epoch", one.GetName())
        assert one.GetPlotType() == one.PlotTypeScatter
    assert series[0].GetColor() != series[1].GetColor()
    node = chart.chart
    assert (node.GetTitle(), node.GetXAxisTitle(), node.GetYAxisTitle()) == ("Losses of run", "Epoch", "Loss")


def test_without_validation_there_is_one_series(host, charts):
    chart = charts.loss_chart("/data/run", "run")
    chart.show([{"epoch": 1, "loss": 0.5}])
    assert names_of(chart) == ["Epoch", "Training"] and list(chart.series) == ["loss"]


def test_each_new_epoch_tells_the_views(host, charts):
    import vtk

    chart = charts.loss_chart("/data/run", "run")
    chart.show(ROWS[:1])
    told = []
    chart.chart.AddObserver(
        vtk.vtkCommand.ModifiedEvent, lambda caller, event: told.append(len(table_of(chart)))
    )
    chart.show(ROWS[:2])
    assert told[-1] == 2


def test_the_chart_of_a_training_is_found_again_and_others_get_their_own(host, charts):
    first = charts.loss_chart("/data/run", "run")
    first.show(ROWS)
    again = charts.loss_chart("/data/run", "run")
    assert again.chart is first.chart and again.table is first.table and again.series == first.series
    other = charts.loss_chart("/data/run-2", "run-2")
    assert other.chart is not first.chart
    again.show(ROWS[:2])
    assert len(table_of(first)) == 2


def test_it_comes_back_with_a_saved_scene(host, charts, tmp_path):
    charts.loss_chart("/data/run", "run").show(ROWS)
    for node in host.slicer.util.getNodesByClass("vtkMRMLTableNode"):
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(tmp_path / "table.tsv"))
        assert node.GetStorageNode().WriteData(node)
    host.scene.SetURL(str(tmp_path / "scene.mrml"))
    assert host.scene.Commit()
    host.close_scene()
    assert host.scene.GetFirstNodeByClass("vtkMRMLPlotChartNode") is None
    host.scene.SetURL(str(tmp_path / "scene.mrml"))
    assert host.scene.Connect()
    found = charts.loss_chart("/data/run", "run")
    assert list(found.series) == ["loss", "val_loss"]
    np.testing.assert_allclose(table_of(found), [[1, 1, 2], [2, 0.5, 1], [3, 1 / 3, 2 / 3]], atol=1e-6)


@pytest.mark.parametrize("gone", ["chart", "table"])
def test_a_chart_of_which_a_node_is_gone_is_known_as_such(host, charts, gone):
    chart = charts.loss_chart("/data/run", "run")
    chart.show(ROWS)
    assert chart.is_there()
    host.scene.RemoveNode(getattr(chart, gone))
    assert not chart.is_there()
    made = charts.loss_chart("/data/run", "run")
    made.show(ROWS)
    assert made.is_there()


def test_the_layout_gets_a_plot_view_that_shows_the_chart(host, library, charts):
    layout = host.scene.AddNewNodeByClass("vtkMRMLLayoutNode")
    view = host.scene.AddNewNodeByClass("vtkMRMLPlotViewNode")
    chart = charts.loss_chart("/data/run", "run")
    chart.show(ROWS)
    library("nodes.showing").show_chart(chart.chart)
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpPlotView
    assert view.GetPlotChartNodeID() == chart.chart.GetID()
