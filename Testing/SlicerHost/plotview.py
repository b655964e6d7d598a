"""Plot views without a window: a chart node drawn to a picture by VTK's charts, as Slicer's view does.

Needs what `sliceview` needs; `sliceview.missing_reason()` says why nothing can be drawn, or "".
"""

from pathlib import Path

import vtk
from vtk.util import numpy_support

TITLE_SIZE, AXIS_TITLE_SIZE, LABEL_SIZE = 20, 16, 12  # points, as in Slicer
LEFT, BOTTOM = vtk.vtkAxis.LEFT, vtk.vtkAxis.BOTTOM
LINES = ("NO_PEN", "SOLID_LINE", "DASH_LINE", "DOT_LINE", "DASH_DOT_LINE", "DASH_DOT_DOT_LINE")


def render(chart, size=(600, 400)):
    """A vtkMRMLPlotChartNode with its series as an array (height, width, 3) of bytes, top row first.

    Of series, line and scatter plots are drawn. size: (width, height) in pixels.
    """
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(0)  # with them, texts repeat their first row of pixels below
    window.SetSize(*size)
    view = vtk.vtkContextView()
    view.SetRenderWindow(window)
    view.GetRenderer().SetBackground(1, 1, 1)
    view.GetRenderer().SetUseFXAA(True)
    drawn = vtk.vtkChartXY()
    view.GetScene().AddItem(drawn)
    _dress(drawn, chart)
    for number in range(chart.GetNumberOfPlotSeriesNodes()):
        _add_series(drawn, chart.GetNthPlotSeriesNode(number))
    drawn.RecalculateBounds()
    window.Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    grabber.Update()
    width, height, _ = grabber.GetOutput().GetDimensions()
    pixels = numpy_support.vtk_to_numpy(grabber.GetOutput().GetPointData().GetScalars())
    return pixels.reshape(height, width, -1)[::-1, :, :3].copy()


def save(chart, path, size=(600, 400)):
    """Write what `render` gives to a PNG file."""
    from PIL import Image

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render(chart, size)).save(path, optimize=True)


def _dress(drawn, chart):
    """Title, axes and legend as the chart node says."""
    drawn.SetTitle(chart.GetTitle() or "" if chart.GetTitleVisibility() else "")
    _font(drawn.GetTitleProperties(), TITLE_SIZE)
    drawn.SetShowLegend(chart.GetLegendVisibility())
    _font(drawn.GetLegend().GetLabelProperties(), LABEL_SIZE)
    for place, letter in ((LEFT, "Y"), (BOTTOM, "X")):
        axis = drawn.GetAxis(place)
        shown = getattr(chart, f"Get{letter}AxisTitleVisibility")()
        axis.SetTitle(getattr(chart, f"Get{letter}AxisTitle")() or "" if shown else "")
        axis.SetGridVisible(chart.GetGridVisibility())
        _font(axis.GetTitleProperties(), AXIS_TITLE_SIZE)
        _font(axis.GetLabelProperties(), LABEL_SIZE)


def _font(text, points):
    text.SetFontFamilyToArial()
    text.SetBold(False)
    text.SetFontSize(points)


def _add_series(drawn, series):
    """A line through the rows of the series' table; none where a column is missing, as in Slicer."""
    table = series.GetTableNode().GetTable() if series.GetTableNode() else None
    names = [series.GetXColumnName(), series.GetYColumnName()]
    if table is None or any(table.GetColumnByName(name) is None for name in names):
        return
    plot = drawn.AddPlot(vtk.vtkChart.LINE)
    plot.SetInputData(table, *names)
    plot.SetLabel(series.GetName())
    plot.SetColorF(*series.GetColor())
    plot.SetWidth(series.GetLineWidth())
    plot.GetPen().SetLineType(getattr(vtk.vtkPen, LINES[series.GetLineStyle()]))
    styles = ("NONE", "CROSS", "PLUS", "SQUARE", "CIRCLE", "DIAMOND")
    plot.SetMarkerStyle(getattr(vtk.vtkPlotPoints, styles[series.GetMarkerStyle()]))
    plot.SetMarkerSize(series.GetMarkerSize())
