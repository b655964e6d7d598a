"""From RegCore's transforms to VTK's."""

import numpy as np
import slicer
import vtk

from RegCore.space.transforms import AffineTransform, DisplacementField

from .reading import image_of, vtk_matrix_of


def vtk_transform_of(transform: AffineTransform | DisplacementField):
    """The VTK transform that maps as the given one does: linear, or a grid with linear interpolation."""
    if isinstance(transform, AffineTransform):
        linear = vtk.vtkTransform()
        linear.SetMatrix(vtk_matrix_of(transform.matrix))
        return linear
    spacing, direction = transform.geometry.spacing, np.eye(4)
    direction[:3, :3] = transform.geometry.affine[:3, :3] / spacing
    image = image_of(transform.mm)
    image.SetSpacing(*spacing)
    image.SetOrigin(*transform.geometry.origin)
    grid = slicer.vtkOrientedGridTransform()
    grid.SetInterpolationModeToLinear()
    grid.SetDisplacementGridData(image)
    grid.SetGridDirectionMatrix(vtk_matrix_of(direction))
    return grid
