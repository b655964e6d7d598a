"""The losses of a training in the scene: a table, a series for each loss, and a chart of them."""

from dataclasses import dataclass, field, replace

import numpy as np
import slicer
from slicer.i18n import tr as _

RUN = "DeepRegSlicer.training"  # attribute of the chart: the folder of the training
OF = "DeepRegSlicerResult"  # role of the reference from the chart of a registration to what came of it
# Blue and orange that colour-blind people tell apart (Okabe and Ito, 2008), (R, G, B) in 0..1.
TRAINING, VALIDATION = (0.0, 0.447, 0.698), (0.835, 0.369, 0.0)
LINE, MARKER = 2.5, 6.0  # pixels


@dataclass
class LossChart:
    """The nodes of one training's losses; made by `loss_chart`.

    chart: vtkMRMLPlotChartNode. table: vtkMRMLTableNode, a row for each epoch. series: the
    vtkMRMLPlotSeriesNode of each column, by the name of the figure.
    """

    chart: object
    table: object
    series: dict[str, object] = field(default_factory=dict)
    steps: str = ""  # what is counted along the axis, epochs by default

    def is_there(self) -> bool:
        """Whether the nodes are still in the scene."""
        nodes = (self.chart, self.table, *self.series.values())
        return all(slicer.mrmlScene.IsNodePresent(node) for node in nodes)

    def show(self, history: list[dict]) -> None:
        """Write the epochs' `loss` and `val_loss` into the table and have the views draw them."""
        figures = {"loss": _("Training"), "val_loss": _("Validation")}
        figures = {name: title for name, title in figures.items() if any(name in row for row in history)}
        values = [[row["epoch"], *(row.get(name, np.nan) for name in figures)] for row in history]
        columns = [self.steps or _("Epoch"), *figures.values()]
        with slicer.util.NodeModify(self.table):
            rows = np.array(values, dtype=float).reshape(len(values), len(columns))
            slicer.util.updateTableFromArray(self.table, rows, columns)
        for name, title in figures.items():
            if name not in self.series:
                self._add(name, title, columns[0])
        self.chart.Modified()  # else a view may stay empty, as slicer.util.plot says

    def _add(self, name: str, title: str, epochs: str) -> None:
        series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode")
        series.SetName(title)  # what the legend shows
        series.SetAndObserveTableNodeID(self.table.GetID())
        series.SetPlotType(series.PlotTypeScatter)
        series.SetXColumnName(epochs)
        series.SetYColumnName(title)
        series.SetColor(*(TRAINING if name == "loss" else VALIDATION))
        series.SetLineWidth(LINE)
        series.SetMarkerStyle(series.MarkerStyleCircle)
        series.SetMarkerSize(MARKER)
        self.series[name] = series
        self.chart.AddAndObservePlotSeriesNodeID(series.GetID())


def loss_chart(folder: str, name: str, steps: str = "", of=None) -> LossChart:
    """The nodes for the training in that folder, new ones with that name if the scene has none.

    steps: what is counted along the axis; epochs by default. of: for a registration, a node that came of it.
    """
    for chart in slicer.util.getNodesByClass("vtkMRMLPlotChartNode"):
        mine = chart.GetAttribute(RUN) == folder and chart.GetNodeReference(OF) is of
        if mine and (found := _nodes_of(chart)) is not None:
            return replace(found, steps=steps)
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", _("Losses of {name}").format(name=name))
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", _("Training {name}").format(name=name))
    chart.SetAttribute(RUN, folder)
    if of is not None:
        chart.SetNodeReferenceID(OF, of.GetID())
    chart.SetTitle(_("Losses of {name}").format(name=name))
    chart.SetXAxisTitle(steps or _("Epoch"))
    chart.SetYAxisTitle(_("Loss"))
    chart.SetLegendVisibility(True)
    return LossChart(chart, table, steps=steps)


def _nodes_of(chart) -> LossChart | None:
    """The nodes that a chart of a training stands with; None if one of them is gone."""
    series = [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]
    if not series or None in series or series[0].GetTableNode() is None:
        return None
    return LossChart(chart, series[0].GetTableNode(), dict(zip(("loss", "val_loss"), series, strict=False)))
