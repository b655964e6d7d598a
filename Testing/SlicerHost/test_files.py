"""Reading and writing nodes through `slicer.util`, with Slicer's own storage nodes."""

import numpy as np
import pytest

TERMINOLOGY = (
    "Segmentation category and type~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~Codes~^^~^^"
)


@pytest.fixture
def volume(host):
    """An oblique, anisotropic 9 x 8 x 7 volume (I, J, K) with a different value in each voxel."""
    turn = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine[:3, :3] *= [1.0, 1.5, 2.5]
    affine[:3, 3] = [-12, 30, 4]
    array = np.arange(7 * 8 * 9, dtype=np.float32).reshape(7, 8, 9)
    return host.slicer.util.addVolumeFromArray(array, ijkToRAS=affine, name="CT")


def ijk_to_ras(host, node):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return host.slicer.util.arrayFromVTKMatrix(matrix)


def grid_transform(host, volume, displacement):
    """A grid transform on the volume's grid; displacement (K, J, I, 3) in RAS mm, fixed to moving."""
    import vtk
    from vtk.util import numpy_support

    affine = ijk_to_ras(host, volume)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    grid = vtk.vtkImageData()
    grid.SetDimensions(displacement.shape[2::-1])
    grid.SetSpacing(spacing)
    grid.SetOrigin(affine[:3, 3])
    scalars = numpy_support.numpy_to_vtk(displacement.reshape(-1, 3), deep=True)
    grid.GetPointData().SetScalars(scalars)
    direction = np.eye(4)
    direction[:3, :3] = affine[:3, :3] / spacing
    transform = host.slicer.vtkOrientedGridTransform()
    transform.SetInterpolationModeToLinear()
    transform.SetDisplacementGridData(grid)
    transform.SetGridDirectionMatrix(host.slicer.util.vtkMatrixFromArray(direction))
    node = host.scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "field")
    node.SetAndObserveTransformFromParent(transform)
    return node


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_volume_there_and_back(host, volume, tmp_path, ending):
    path = tmp_path / ("CT" + ending)
    assert host.slicer.util.saveNode(volume, str(path))
    again = host.slicer.util.loadVolume(path)
    assert again.GetName() == "CT_1"
    np.testing.assert_array_equal(
        host.slicer.util.arrayFromVolume(again), host.slicer.util.arrayFromVolume(volume)
    )
    np.testing.assert_allclose(ijk_to_ras(host, again), ijk_to_ras(host, volume), atol=1e-5)


def test_label_map(host, volume, tmp_path):
    host.slicer.util.saveNode(volume, str(tmp_path / "labels.nrrd"))
    node = host.slicer.util.loadLabelVolume(tmp_path / "labels.nrrd", {"name": "organs"})
    assert (node.GetClassName(), node.GetName()) == ("vtkMRMLLabelMapVolumeNode", "organs")


@pytest.mark.parametrize("name", ["absent.nrrd", "text.nrrd"])
def test_file_that_can_not_be_read_leaves_no_node(host, tmp_path, name):
    (tmp_path / "text.nrrd").write_text("no picture")
    before = host.scene.GetNumberOfNodes()
    with pytest.raises(RuntimeError, match=name):
        host.slicer.util.loadVolume(tmp_path / name)
    assert host.scene.GetNumberOfNodes() == before


@pytest.mark.parametrize("ending", [".h5", ".nrrd", ".nii.gz"])
def test_grid_transform_there_and_back(host, volume, tmp_path, ending):
    displacement = np.random.default_rng(0).normal(size=(7, 8, 9, 3))
    node = grid_transform(host, volume, displacement)
    assert host.slicer.util.saveNode(node, str(tmp_path / ("field" + ending)))
    again = host.slicer.util.loadTransform(tmp_path / ("field" + ending))
    assert again.GetClassName() == "vtkMRMLGridTransformNode"
    point = (ijk_to_ras(host, volume) @ [3, 4, 2, 1])[:3]
    moved = again.GetTransformFromParent().TransformDoublePoint(point)
    np.testing.assert_allclose(moved, point + displacement[2, 4, 3], atol=1e-4)


@pytest.mark.parametrize("ending", [".h5", ".tfm"])
def test_linear_transform_there_and_back(host, tmp_path, ending):
    matrix = np.eye(4)
    matrix[:3, 3] = [1, 2, 3]
    node = host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    host.slicer.util.updateTransformMatrixFromArray(node, matrix)
    host.slicer.util.saveNode(node, str(tmp_path / ("move" + ending)))
    again = host.slicer.util.loadTransform(tmp_path / ("move" + ending))
    assert again.GetClassName() == "vtkMRMLLinearTransformNode"
    np.testing.assert_allclose(host.slicer.util.arrayFromTransformMatrix(again), matrix)


def test_segmentation_keeps_names_colours_and_terminology(host, volume, tmp_path):
    import vtk

    util, tag = host.slicer.util, host.slicer.vtkSegment.GetTerminologyEntryTagName()
    node = host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    liver = node.GetSegmentation().AddEmptySegment("liver", "Liver", (0.2, 0.4, 0.6))
    node.GetSegmentation().GetSegment(liver).SetTag(tag, TERMINOLOGY)
    mask = np.zeros((7, 8, 9), np.uint8)
    mask[2:4, 3:6, 1:7] = 1
    util.updateSegmentBinaryLabelmapFromArray(mask, node, liver, volume)
    assert util.saveNode(node, str(tmp_path / "organs.seg.nrrd"))
    again = util.loadSegmentation(tmp_path / "organs.seg.nrrd")
    segment = again.GetSegmentation().GetNthSegment(0)
    kept = vtk.reference("")
    assert segment.GetTag(tag, kept) and str(kept) == TERMINOLOGY
    assert segment.GetName() == "Liver"
    np.testing.assert_allclose(segment.GetColor(), (0.2, 0.4, 0.6), atol=1 / 255)
    np.testing.assert_array_equal(util.arrayFromSegmentBinaryLabelmap(again, "liver", volume), mask)


def test_empty_segment_has_an_empty_array_and_a_surface(host, volume):
    """Both need the converter rules that Slicer's Segmentations module registers."""
    node = host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    empty = node.GetSegmentation().AddEmptySegment("empty")
    array = host.slicer.util.arrayFromSegmentBinaryLabelmap(node, empty, volume)
    assert array.shape == (7, 8, 9) and not array.any()
    assert node.CreateClosedSurfaceRepresentation()


def test_a_scene_is_saved_with_its_nodes_and_added_to_another_one(host, volume, tmp_path):
    util = host.slicer.util
    before, affine = util.arrayFromVolume(volume).copy(), ijk_to_ras(host, volume)
    assert util.saveScene(str(tmp_path / "scene.mrb"))
    host.close_scene()
    util.loadScene(str(tmp_path / "scene.mrb"))
    again = util.getNode("CT")
    np.testing.assert_array_equal(util.arrayFromVolume(again), before)
    np.testing.assert_allclose(ijk_to_ras(host, again), affine, atol=1e-6)
