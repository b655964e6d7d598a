"""How Slicer's own reader and SimpleITK read a volume, to hold RegCore's reading against voxel by voxel."""

import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.space.geometry import Geometry
from RegCore.space.volume import Volume
from Testing.RegCore.grids import LPS


def by_itk(path) -> Volume | None:
    """The volume as SimpleITK reads it, (I, J, K) in RAS; None where it refuses."""
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        return None
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing() * LPS[:, None]
    affine[:3, 3] = np.array(image.GetOrigin()) * LPS
    return Volume(sitk.GetArrayFromImage(image).T, Geometry(image.GetSize(), affine))


def by_slicer(path, slices=()) -> Volume | None:
    """The volume as Slicer's volume node holds it, (I, J, K) in RAS; None where Slicer refuses.

    slices: the files of a series in their order, as Slicer's DICOM module hands them over.
    Slicer turns an axis of left-handed grids round, voxels and matrix alike.
    """
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
    vtk = pytest.importorskip("vtk")
    from vtk.util.numpy_support import vtk_to_numpy

    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    for file in slices:
        storage.AddFileName(str(file))
    storage.SetSingleFile(not slices)
    if not storage.ReadData(node):
        return None
    matrix, image = vtk.vtkMatrix4x4(), node.GetImageData()
    node.GetIJKToRASMatrix(matrix)
    affine = [[matrix.GetElement(row, column) for column in range(4)] for row in range(4)]
    shape = image.GetDimensions()
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape[::-1]).T
    return Volume(voxels, Geometry(shape, affine))


def assert_same_in_space(found: Volume, expected: Volume, tolerance_mm: float = 1e-3) -> None:
    """Each voxel has its counterpart of the same value at the same place, in whatever order of axes."""
    centres = found.geometry.world_grid()
    index = np.rint(expected.geometry.to_index(centres)).astype(int)
    assert sorted(found.array.shape) == sorted(expected.array.shape)
    assert index.min() >= 0 and (index.reshape(-1, 3).max(0) < expected.array.shape).all()
    assert np.abs(expected.geometry.to_world(index) - centres).max() < tolerance_mm
    np.testing.assert_array_equal(found.array, expected.array[tuple(np.moveaxis(index, -1, 0))])
