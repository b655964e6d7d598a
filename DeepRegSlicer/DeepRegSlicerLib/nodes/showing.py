"""Shows a result in the slice views: the registered volume over the fixed one."""

import slicer


def show_over(fixed, warped) -> None:
    """The fixed volume in the background of all slice views, the warped one half transparent in front."""
    slicer.util.setSliceViewerLayers(background=fixed, foreground=warped, foregroundOpacity=0.5)
