"""Charts drawn without a window: what the nodes say is where it must be in the picture."""

import numpy as np
import pytest


@pytest.fixture
def chart(host):
    """A chart of a red line from (0, 0) to (10, 1) and a blue one that lacks its column."""
    from SlicerHost import sliceview

    if sliceview.missing_reason():
        pytest.skip(sliceview.missing_reason())
    slicer = host.slicer
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
    slicer.util.updateTableFromArray(table, np.array([[0.0, 0.0], [10.0, 1.0]]), ["x", "y"])
    made = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode")
    for name, column, colour in (("rising", "y", (1, 0, 0)), ("absent", "z", (0, 0, 1))):
        series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", name)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetPlotType(series.PlotTypeScatter)
        series.SetXColumnName("x")
        series.SetYColumnName(column)
        series.SetColor(*colour)
        series.SetLineWidth(3)
        series.SetMarkerStyle(series.MarkerStyleNone)
        made.AddAndObservePlotSeriesNodeID(series.GetID())
    return made


def coloured(picture, channel: int) -> np.ndarray:
    """Where a picture shows one of the colours, as rows of (y, x)."""
    others = [other for other in range(3) if other != channel]
    return np.argwhere((picture[..., channel] > 150) & (picture[..., others] < 100).all(-1))


def test_a_series_is_a_line_of_its_colour_from_its_first_to_its_last_row(chart, tmp_path):
    from PIL import Image

    from SlicerHost import plotview

    chart.SetLegendVisibility(False)
    plotview.save(chart, tmp_path / "chart.png", (300, 200))
    picture = np.asarray(Image.open(tmp_path / "chart.png"))
    assert picture.shape == (200, 300, 3)
    line = coloured(picture, 0)
    first, last = line[line[:, 1].argmin()], line[line[:, 1].argmax()]
    assert first[0] > 150 and first[1] < 80 and last[0] < 40 and last[1] > 270
    middle = line[np.abs(line[:, 1] - (first[1] + last[1]) / 2) < 2][:, 0].mean()
    assert abs(middle - (first[0] + last[0]) / 2) < 4
    assert not len(coloured(picture, 2))


def test_titles_and_legend_are_drawn_if_they_are_to_be_seen(chart):
    from SlicerHost import plotview

    chart.SetLegendVisibility(False)
    bare = plotview.render(chart, (300, 200))
    chart.SetTitle("Title")
    titled = plotview.render(chart, (300, 200))
    assert (titled[:20] < 100).sum() > (bare[:20] < 100).sum()
    chart.SetTitleVisibility(False)
    np.testing.assert_array_equal(plotview.render(chart, (300, 200)), bare)
    chart.SetXAxisTitle("Epoch")
    assert (plotview.render(chart, (300, 200))[-20:] < 100).sum() > (bare[-20:] < 100).sum()
    chart.SetXAxisTitle("")
    chart.SetLegendVisibility(True)
    legend = plotview.render(chart, (300, 200))
    black = [(picture < 100).all(-1)[:60, 200:].sum() for picture in (bare, legend)]
    assert black[1] > black[0] + 50
