"""Slice views without a window: drawn to a picture by Slicer's own slice logic and displayable managers.

Needs an OpenGL that works without a screen: EGL (on Debian: libegl1 and libegl-mesa0) or a display.
"""

import functools
import subprocess
import sys
from pathlib import Path

import slicer
import vtk
from vtk.util import numpy_support

# What Slicer registers for its slice views, as far as registration needs it.
DISPLAYABLE_MANAGERS = (
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
)
PROBE = """
import vtk
window = vtk.vtkRenderWindow()
window.SetOffScreenRendering(1)
window.AddRenderer(vtk.vtkRenderer())
window.Render()
raise SystemExit(0 if window.SupportsOpenGL() else 1)
"""
PROBE_SECONDS = 60


@functools.cache
def missing_reason():
    """Why nothing can be drawn here, as a sentence for a skipped test; empty if it can.

    Tried in a child process, because a machine without any OpenGL ends the process that tries.
    """
    try:
        answer = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"drawing without a screen did not answer within {PROBE_SECONDS} s"
    if answer.returncode:
        return "nothing can be drawn without a screen: EGL (libegl1, libegl-mesa0) does not work here"
    return ""


class SliceView:
    """One slice view of the host's scene.

    name: the layout name in the scene, `Red`, `Green`, `Yellow` or another. size: (width, height) in pixels.
    orientation: `Axial`, `Sagittal` or `Coronal`. Use it in a `with`, or `close` it before the scene.
    """

    def __init__(self, host, name="Red", orientation="Axial", size=(400, 400)):
        self._scene, self._application_logic = host.scene, host.app.applicationLogic()
        self._renderer = vtk.vtkRenderer()
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._window = self._make_window(size)
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(self._application_logic)
        self._application_logic.GetSliceLogics().AddItem(self._logic)
        self._logic.SetMRMLScene(self._scene)
        self.node = self._logic.AddSliceNode(name)
        self.node.SetOrientation(orientation)
        self._managers = self._make_managers()
        self._image = vtk.vtkActor2D()
        self._add_image()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _make_window(self, size):
        window = vtk.vtkRenderWindow()
        window.SetOffScreenRendering(1)
        window.SetSize(*size)
        window.AddRenderer(self._renderer)
        # The displayable managers look for an interactor with a style.
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(window)
        self._interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self._interactor.Initialize()
        self._interactor.UpdateSize(*size)
        return window

    def _make_managers(self):
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(self._application_logic)
        for name in DISPLAYABLE_MANAGERS:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        group = slicer.vtkMRMLDisplayableManagerGroup()
        group.SetRenderer(self._renderer)
        group.Initialize(factory, self._renderer)
        group.SetMRMLDisplayableNode(self.node)
        return group

    def _add_image(self):
        """The volumes' blended slice, under what the displayable managers draw."""
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        self._image.SetMapper(mapper)
        self._image.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(self._image)

    def show(self, background=None, foreground=None, opacity=0.5, label=None):
        """Show these volume nodes, the foreground with that opacity (0 to 1), fitted to the background."""
        composite = self._logic.GetSliceCompositeNode()
        composite.SetBackgroundVolumeID(background.GetID() if background else None)
        composite.SetForegroundVolumeID(foreground.GetID() if foreground else None)
        composite.SetForegroundOpacity(opacity)
        composite.SetLabelVolumeID(label.GetID() if label else None)
        self._logic.ResizeSliceNode(*self._window.GetSize())
        if background is not None:
            self._logic.FitSliceToBackground()

    def render(self, at=None):
        """The view as an array (height, width, 3) of bytes, top row first.

        at: a point (R, A, S) in mm through which the slice passes; None leaves the slice where it is.
        """
        if at is not None:
            self.node.JumpSliceByOffsetting(*at)
        self._logic.UpdatePipeline()
        source = self._logic.GetImageDataConnection()
        self._image.SetVisibility(source is not None)
        if source is not None:
            self._image.GetMapper().SetInputConnection(source)
        self._window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self._window)
        grabber.ReadFrontBufferOff()
        grabber.Update()
        picture = grabber.GetOutput()
        width, height, _ = picture.GetDimensions()
        pixels = numpy_support.vtk_to_numpy(picture.GetPointData().GetScalars())
        return pixels.reshape(height, width, -1)[::-1, :, :3].copy()

    def save(self, path, at=None):
        """Write what `render` gives to a PNG file."""
        from PIL import Image

        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.render(at)).save(path)

    def close(self):
        """Take the view and its nodes out of the scene."""
        self._managers.SetMRMLDisplayableNode(None)
        composite = self._logic.GetSliceCompositeNode()
        self._application_logic.GetSliceLogics().RemoveItem(self._logic)
        self._logic.SetMRMLScene(None)
        for node in (composite, self.node):
            self._scene.RemoveNode(node)


def show_outlines(segmentation, thickness=2):
    """Draw the segments of a segmentation node as outlines, `thickness` pixels wide, without filling."""
    segmentation.CreateDefaultDisplayNodes()
    display = segmentation.GetDisplayNode()
    display.SetVisibility(True)
    display.SetVisibility2DFill(False)
    display.SetVisibility2DOutline(True)
    display.SetSliceIntersectionThickness(thickness)


def show_deformation_grid(transform, spacing_mm=10.0, visible=True):
    """Draw a transform node as a grid of lines `spacing_mm` apart, bent by the transform; or hide it."""
    transform.CreateDefaultDisplayNodes()
    display = transform.GetDisplayNode()
    display.SetVisualizationMode(slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID)
    display.SetGridSpacingMm(spacing_mm)
    display.SetVisibility(visible)
    display.SetVisibility2D(visible)
