"""Ways to look at a registration in the slice views: blended, as a checkerboard, by contours and by a grid.

Each is switched on and off; off leaves display and views as they were.
"""

from collections.abc import Callable

import slicer
import vtk
from slicer.i18n import tr as _

from .reading import array_of, matrix_of
from .showing import show_over

SQUARES = 6  # of the checkerboard along each axis
THIN, THICK = 1, 3  # pixels of the contours of the fixed and of the warped segmentation
GRID_LINES = 20  # of the deformation grid along the longest side of the fixed volume


def blend(opacity: float) -> None:
    """How much of the foreground is seen in all slice views, 0..1."""
    slicer.util.setSliceViewerLayers(foregroundOpacity=opacity)


class Checkerboard:
    """A volume of squares of the fixed and of the warped volume in turn, each with its own window."""

    def __init__(self, fixed, warped, opacity: float):
        """Show it. fixed, warped: scalar volume nodes of one grid. opacity: of the foreground afterwards."""
        self._pair, self._opacity = (fixed, warped), opacity
        name = _("{name} checkerboard").format(name=warped.GetName())
        self.node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        self.node.SetSaveWithScene(False)
        board = vtk.vtkImageCheckerboard()
        self._windows = [_windowed(node) for node in self._pair]
        for place, window in enumerate(self._windows):
            board.SetInputConnection(place, window.GetOutputPort())
        board.SetNumberOfDivisions(SQUARES, SQUARES, SQUARES)
        board.Update()
        matrix = vtk.vtkMatrix4x4()
        fixed.GetIJKToRASMatrix(matrix)
        self.node.SetAndObserveImageData(board.GetOutput())
        self.node.SetIJKToRASMatrix(matrix)
        self.node.SetAndObserveTransformNodeID(fixed.GetTransformNodeID())
        self.node.CreateDefaultDisplayNodes()
        self.node.GetDisplayNode().SetAutoWindowLevel(False)
        self.node.GetDisplayNode().SetWindowLevelMinMax(0, 255)
        slicer.util.setSliceViewerLayers(background=self.node, foreground=None)

    def remove(self) -> None:
        """Show the two volumes again."""
        fixed, warped = (slicer.mrmlScene.IsNodePresent(node) and node or None for node in self._pair)
        if slicer.mrmlScene.IsNodePresent(self.node):
            show_over(fixed, warped)
            blend(self._opacity)
            slicer.mrmlScene.RemoveNode(self.node)


def _windowed(node) -> vtk.vtkImageMapToWindowLevelColors:
    """The volume as grey values 0..255, as its display node shows it."""
    display, image = node.GetDisplayNode(), vtk.vtkImageMapToWindowLevelColors()
    low, high = node.GetImageData().GetScalarRange()
    image.SetInputData(node.GetImageData())
    image.SetOutputFormatToLuminance()
    image.SetWindow(display.GetWindow() if display else max(high - low, 1e-6))
    image.SetLevel(display.GetLevel() if display else (low + high) / 2)
    return image


def same_grid(fixed, warped) -> bool:
    """Whether two volume nodes have voxels at the same places, so that they can be laid out as squares."""
    if fixed is None or warped is None or any(n.IsA("vtkMRMLLabelMapVolumeNode") for n in (fixed, warped)):
        return False
    matrices = []
    for node in (fixed, warped):
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        matrices.append(matrix_of(matrix))
    shapes = [array_of(node.GetImageData()).shape for node in (fixed, warped)]
    parents = fixed.GetTransformNodeID() == warped.GetTransformNodeID()
    return parents and shapes[0] == shapes[1] and bool(abs(matrices[0] - matrices[1]).max() < 1e-6)


class Contours:
    """The segments of the fixed segmentation as thin outlines, those of the warped one as thick ones."""

    def __init__(self, fixed, warped, moving):
        """Show them and hide the moving segmentation where it was. Segmentation nodes or None."""
        self._undo: list[Callable[[], object]] = []
        for node, thickness in ((fixed, THIN), (warped, THICK)):
            if node is not None and node.IsA("vtkMRMLSegmentationNode"):
                node.CreateDefaultDisplayNodes()
                self._outline(node.GetDisplayNode(), thickness)
        if moving is not None and moving is not warped and moving.GetDisplayNode() is not None:
            self._set(moving.GetDisplayNode(), "Visibility", False)

    def _outline(self, display, thickness: int) -> None:
        for name, value in (("Visibility", True), ("Visibility2DFill", False), ("Visibility2DOutline", True)):
            self._set(display, name, value)
        self._set(display, "SliceIntersectionThickness", thickness)

    def _set(self, display, name: str, value) -> None:
        before, write = getattr(display, f"Get{name}")(), getattr(display, f"Set{name}")
        self._undo.append(lambda: write(before))
        write(value)

    def remove(self) -> None:
        """Show the segmentations as they were shown before."""
        for step in reversed(self._undo):
            step()


class DeformationGrid:
    """The transform as a grid of lines in the slice views."""

    def __init__(self, transform, fixed):
        """Show it. fixed: a volume node, whose size says how far the lines are apart."""
        transform.CreateDefaultDisplayNodes()
        self._display = display = transform.GetDisplayNode()
        self._before = display.GetVisibility(), display.GetVisibility2D(), display.GetVisualizationMode()
        bounds = [0.0] * 6
        fixed.GetRASBounds(bounds)
        display.SetVisualizationMode(slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID)
        display.SetGridSpacingMm(max(bounds[n + 1] - bounds[n] for n in (0, 2, 4)) / GRID_LINES)
        display.SetVisibility(True)
        display.SetVisibility2D(True)

    def remove(self) -> None:
        """Show the transform as it was shown before."""
        visible, in_slices, mode = self._before
        self._display.SetVisualizationMode(mode)
        self._display.SetVisibility2D(in_slices)
        self._display.SetVisibility(visible)


def jump_to(point) -> None:
    """Let all slice views show a point, RAS mm."""
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *point)
