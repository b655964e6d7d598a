"""Shows results in Slicer's views: the registered volume over the fixed one, the chart of a training."""

import slicer


def show_over(fixed, warped) -> None:
    """The fixed volume in the background of all slice views, the warped one half transparent in front."""
    slicer.util.setSliceViewerLayers(background=fixed, foreground=warped, foregroundOpacity=0.5)


def show_chart(chart) -> None:
    """A plot chart node in the plot view; the layout gets one beside its other views if it has none."""
    slicer.modules.plots.logic().ShowChartInLayout(chart)
