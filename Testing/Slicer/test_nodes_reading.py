"""Nodes become volumes, labels, landmarks and transforms where the user sees them, whatever their parents."""

import numpy as np
import pytest

from RegCore.space.geometry import InputError


@pytest.fixture
def nodes(library):
    return library("nodes")


@pytest.fixture
def make(host):
    from Testing.Slicer import scenes

    return scenes


def transformed(matrix, points):
    return points @ matrix[:3, :3].T + matrix[:3, 3]


@pytest.mark.parametrize("shear", [0.0, 0.3])
def test_a_volume_is_read_where_it_stands(nodes, make, shear):
    node = make.volume("CT", matrix=make.MOVING)
    read = nodes.volume(node)
    np.testing.assert_array_equal(read.array, make.blobs((14, 16, 12)))
    np.testing.assert_allclose(read.geometry.affine, make.MOVING, atol=1e-12)
    parent, matrix = make.linear_parent(shear=shear)
    upper, above = make.linear_parent("Room")
    make.under(parent, upper)
    read = nodes.volume(make.under(node, parent))
    np.testing.assert_allclose(read.geometry.affine, above @ matrix @ make.MOVING, atol=1e-9)


def test_a_volume_under_a_bent_parent_is_resampled_on_a_copy(nodes, make):
    node = make.under(make.volume("CT"), make.bent_parent())
    before = make.inventory()
    read = nodes.volume(node)
    assert make.inventory() == before
    node.HardenTransform()  # what Slicer makes of it
    np.testing.assert_allclose(read.geometry.affine, make.world_matrix(node), atol=1e-9)
    np.testing.assert_array_equal(read.array, make.array(node))
    assert not np.array_equal(read.array.shape, (14, 16, 12)) or np.ptp(read.array - make.blobs((14, 16, 12)))


def test_what_is_no_image_is_refused_by_name(nodes, make):
    import slicer

    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty one")
    with pytest.raises(InputError, match="'Empty one' holds no image"):
        nodes.volume(empty)
    colour = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Photo")
    slicer.util.updateVolumeFromArray(colour, np.zeros((3, 4, 5, 3), np.uint8))
    with pytest.raises(InputError, match="'Photo' has 3 values per voxel"):
        nodes.volume(colour)


def test_segments_are_paired_by_name_whatever_their_order(nodes, make):
    fixed_volume, moving_volume = make.volume("F"), make.volume("M", (11, 9, 13), make.MOVING)
    f, m = make.boxes((14, 16, 12)), make.boxes((11, 9, 13))
    fixed = make.segmentation("FS", fixed_volume, {"Liver": f == 1, "Spleen": f == 2})
    moving = make.segmentation("MS", moving_volume, {"tumour": m == 0, " spleen": m == 2, "LIVER": m == 1})
    moving.GetSegmentation().RemoveSegment("id-tumour")
    read_f, read_m, structures = nodes.label_volumes(fixed, moving)
    np.testing.assert_array_equal(read_f.array, f)
    np.testing.assert_array_equal(read_m.array, m)
    np.testing.assert_allclose(read_f.geometry.affine, make.FIXED, atol=1e-9)
    np.testing.assert_allclose(read_m.geometry.affine, make.MOVING, atol=1e-9)
    assert structures.names == ("Liver", "Spleen") and structures.name_of(2) == "Spleen"
    assert structures.moving == {"id-LIVER": 0, "id- spleen": 1}
    assert not structures.overlapping


def test_one_segment_each_is_a_pair_and_unmatched_names_are_an_error(nodes, make):
    reference = make.volume("F")
    labels = make.boxes((14, 16, 12))
    one = make.segmentation("One", reference, {"Prostate": labels == 1})
    other = make.segmentation("Other", reference, {"Gland": labels == 2})
    read, read_other, structures = nodes.label_volumes(one, other)
    assert (read.labels(), read_other.labels(), structures.names) == ([1], [1], ("Prostate",))
    two = make.segmentation("Two", reference, {"Gland": labels == 2, "Gut": labels == 1})
    with pytest.raises(InputError, match="share none: 'One' has 'prostate'; 'Two' has 'gland', 'gut'"):
        nodes.label_volumes(one, two)
    import slicer

    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Nothing")
    with pytest.raises(InputError, match="'Nothing' has no segment"):
        nodes.label_volumes(one, empty)
    assert nodes.label_volumes(None, None)[:2] == (None, None)


def test_overlapping_segments_become_channels_in_both(nodes, make):
    reference = make.volume("F")
    labels = make.boxes((14, 16, 12))
    fixed = make.segmentation("FS", reference, {"A": labels == 1, "B": labels == 2})
    moving = make.segmentation("MS", reference, {"B": labels > 0, "A": labels == 1})
    read_f, read_m, structures = nodes.label_volumes(fixed, moving)
    assert structures.overlapping and structures.name_of(1) == "B"
    np.testing.assert_array_equal(read_f.array, np.stack([labels == 1, labels == 2], -1))
    np.testing.assert_array_equal(read_m.array, np.stack([labels == 1, labels > 0], -1))


def test_a_segmentation_under_parents_is_where_it_is_seen(nodes, make):
    reference = make.volume("F")
    labels = make.boxes((14, 16, 12))
    node = make.segmentation("S", reference, {"A": labels == 1})
    parent, matrix = make.linear_parent()
    _, read, _ = nodes.label_volumes(None, make.under(node, parent))
    np.testing.assert_allclose(read.geometry.affine, matrix @ make.FIXED, atol=1e-9)
    np.testing.assert_array_equal(read.array, labels == 1)
    bend = make.bent_parent()
    before = make.inventory()
    _, read, _ = nodes.label_volumes(None, make.under(node, bend))
    node.SetAndObserveTransformNodeID(parent.GetID())
    assert make.inventory() == before
    points = read.geometry.to_world(
        np.argwhere(read.array)
    )  # each must lie in the box, up to a voxel's rounding
    index = transformed(np.linalg.inv(make.FIXED), make.mapped_by(bend, points))
    inside = np.argwhere(labels == 1)
    assert (index >= inside.min(0) - 0.51).all() and (index <= inside.max(0) + 0.51).all()
    volume_ratio = np.linalg.det(read.geometry.affine[:3, :3]) / np.linalg.det(make.FIXED[:3, :3])
    assert 0.8 < len(points) * abs(volume_ratio) / len(inside) < 1.25


def test_a_segmentation_of_surfaces_is_converted_on_a_copy(nodes, make):
    reference = make.volume("F", (20, 20, 20), np.diag([1.0, 1.0, 1.0, 1.0]))
    labels = np.zeros((20, 20, 20), bool)
    labels[4:15, 5:14, 6:13] = True
    node = make.segmentation("S", reference, {"A": labels})
    node.CreateClosedSurfaceRepresentation()
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    node.GetSegmentation().RemoveRepresentation("Binary labelmap")
    _, read, _ = nodes.label_volumes(None, node)
    assert not node.GetSegmentation().ContainsRepresentation("Binary labelmap")
    on_grid = np.zeros_like(labels)
    index = np.rint(transformed(np.linalg.inv(np.eye(4)), read.geometry.to_world(np.argwhere(read.array))))
    on_grid[tuple(index.astype(int).T)] = True
    assert 2 * (on_grid & labels).sum() / (on_grid.sum() + labels.sum()) > 0.9


def test_a_mask_is_the_union_of_segments_or_what_is_not_zero(nodes, make):
    reference = make.volume("F")
    labels = make.boxes((14, 16, 12))
    node = make.segmentation("S", reference, {"A": labels == 1, "B": labels > 0})
    np.testing.assert_array_equal(nodes.mask(node).array, labels > 0)
    plain = make.volume("Mask", array=labels.astype(np.float32))
    read = nodes.mask(plain)
    np.testing.assert_array_equal(read.array, labels > 0)
    assert read.kind == "labels"


def test_landmarks_are_read_in_the_world(nodes, make):
    import slicer

    lists = []
    for name in ("F", "M"):
        lists.append(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name))
    points = np.array([[1.0, 2.0, 3.0], [-4.0, 5.0, 6.0], [7.0, -8.0, 9.0]])
    for point in points:
        lists[0].AddControlPoint(point)
        lists[1].AddControlPoint(point + 1)
    parent, matrix = make.linear_parent()
    make.under(lists[1], parent)
    read = nodes.landmarks(lists[0], lists[1])
    np.testing.assert_allclose(read, np.hstack([points, transformed(matrix, points + 1)]), atol=1e-9)
    lists[1].RemoveNthControlPoint(0)
    lists[1].RemoveNthControlPoint(0)
    with pytest.raises(InputError, match="'F' has 3 points and 'M' has 1"):
        nodes.landmarks(*lists)


@pytest.fixture
def lists(nodes):
    """A fixed and a moving list of four points each, whose labels differ."""
    import slicer

    made = []
    for number, name in enumerate(("F", "M")):
        made.append(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name))
        for k in range(4):
            made[-1].AddControlPoint(k + 10 * number, 2 * k, -k)
    return made


def test_landmarks_that_are_not_set_in_both_lists_are_left_out(nodes, lists):
    fixed, moving = lists
    fixed.UnsetNthControlPointPosition(0)
    moving.UnsetNthControlPointPosition(2)
    expected = [[k, 2 * k, -k, k + 10, 2 * k, -k] for k in (1, 3)]
    np.testing.assert_allclose(nodes.landmarks(fixed, moving), expected)
    assert nodes.paired_landmarks(fixed, moving) == ([(1, 1), (3, 3)], ["1", "3"])
    fixed.UnsetNthControlPointPosition(1)
    fixed.UnsetNthControlPointPosition(3)
    with pytest.raises(InputError, match="No landmark is set in both 'F' and 'M'"):
        nodes.landmarks(fixed, moving)


def test_landmarks_with_labels_in_common_are_paired_by_them(nodes, lists):
    fixed, moving = lists
    for k, label in enumerate(("apex", "hilum", "carina", "F-4")):
        fixed.SetNthControlPointLabel(k, label)
    for k, label in enumerate(("hilum", "apex", "M-3", "carina")):
        moving.SetNthControlPointLabel(k, label)
    moving.RemoveNthControlPoint(2)
    assert nodes.paired_landmarks(fixed, moving) == ([(0, 1), (1, 0), (2, 2)], ["F-4"])
    np.testing.assert_allclose(nodes.landmarks(fixed, moving)[2], [2, 4, -2, 13, 6, -3])
    moving.SetNthControlPointLabel(2, "apex")  # twice in one list: no label tells a point
    fixed.RemoveNthControlPoint(3)
    assert nodes.paired_landmarks(fixed, moving) == ([(0, 0), (1, 1), (2, 2)], [])


@pytest.mark.parametrize("matrix", ["FIXED", "MOVING"])
def test_a_roi_masks_the_voxels_whose_centres_lie_in_it(nodes, make, matrix):
    import slicer

    node = make.volume("F", (7, 8, 9), getattr(make, matrix))
    grid = nodes.volume(node).geometry
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    roi.SetSize(6, 5, 7)
    turned, _ = make.linear_parent("Turn")
    roi.SetCenter(*(np.linalg.inv(make.linear_parent("Same")[1]) @ [*grid.to_world([[3, 4, 4]])[0], 1])[:3])
    make.under(roi, turned)
    read = nodes.mask(roi, grid=grid)
    axes = np.array([[roi.GetObjectToWorldMatrix().GetElement(r, c) for c in range(4)] for r in range(4)])
    local = (grid.world_grid() - axes[:3, 3]) @ np.linalg.inv(axes[:3, :3]).T
    np.testing.assert_array_equal(read.array, (abs(local) <= np.array([3, 2.5, 3.5])).all(-1))
    assert 0 < read.array.sum() < read.array.size
    roi.SetCenter(900, 0, 0)
    with pytest.raises(InputError, match="ROI 'Box' lies outside"):
        nodes.mask(roi, grid=grid)


def label_map(make, name, array, matrix):
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array.transpose(2, 1, 0)))
    node.SetIJKToRASMatrix(make.vtk_matrix(matrix))
    node.CreateDefaultDisplayNodes()
    return node


def test_a_label_map_volume_is_a_segmentation_with_the_names_of_its_colours(nodes, make):
    import slicer

    colours = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", "Organs")
    colours.SetTypeToUser()
    colours.SetNumberOfColors(6)
    for label, name in ((2, "gut"), (5, "liver")):
        colours.SetColor(label, name, 0.1 * label, 0.5, 0.2, 1)
    labels = np.array([0, 2, 5], np.int16)[make.boxes((11, 9, 13))]
    moving = label_map(make, "Labels", labels, make.MOVING)
    moving.GetDisplayNode().SetAndObserveColorNodeID(colours.GetID())
    parent, matrix = make.linear_parent()
    make.under(moving, parent)
    f = make.boxes((14, 16, 12))
    fixed = make.segmentation("S", make.volume("F"), {"Liver": f == 2, "Gut": f == 1})
    read_fixed, read, structures = nodes.label_volumes(fixed, moving)
    assert structures.names == ("Liver", "Gut")
    np.testing.assert_array_equal(read.array, np.array([0, 2, 1])[make.boxes((11, 9, 13))])
    np.testing.assert_allclose(read.geometry.affine, matrix @ make.MOVING, atol=1e-9)
    found = {segment.GetName(): segment.GetColor()[0] for segment in structures.metadata.values()}
    assert found == pytest.approx({"gut": 0.2, "liver": 0.5}, abs=1 / 255)
    assert nodes.volume(moving).kind == "labels" and nodes.mask(moving).array.sum() == (labels > 0).sum()


def test_other_nodes_are_no_masks_and_no_segmentations(nodes, make):
    import slicer

    curve = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsCurveNode", "Curve")
    with pytest.raises(InputError, match="'Curve' is a vtkMRMLMarkupsCurveNode; a mask is"):
        nodes.mask(curve)
    with pytest.raises(InputError, match="'Curve' is a vtkMRMLMarkupsCurveNode; a segmentation"):
        nodes.label_volumes(None, curve)


def test_an_initial_transform_brings_the_moving_volume_to_the_fixed_one(nodes, make):
    node, matrix = make.linear_parent()
    upper, above = make.linear_parent("Room")
    make.under(node, upper)
    grid = nodes.volume(make.volume("F")).geometry
    points = grid.to_world(np.random.default_rng(0).uniform(0, 11, (50, 3)))
    read = nodes.initial_transform(node, grid)
    np.testing.assert_allclose(
        read.map(points), transformed(np.linalg.inv(above @ matrix), points), atol=1e-9
    )
    bend = make.under(make.bent_parent(), upper)
    read = nodes.initial_transform(bend, grid)
    at_voxels = grid.world_grid().reshape(-1, 3)[::7]
    np.testing.assert_allclose(read.map(at_voxels), make.mapped_by(bend, at_voxels), atol=1e-4)


def test_an_output_transform_to_be_replaced_does_not_count(nodes, make):
    result, _ = make.linear_parent("Result")
    own, matrix = make.linear_parent("Own")
    node = make.under(make.volume("M", matrix=make.MOVING), make.under(own, result))
    np.testing.assert_allclose(nodes.volume(node, result).geometry.affine, matrix @ make.MOVING, atol=1e-9)
    other, _ = make.linear_parent("Other")
    np.testing.assert_allclose(nodes.volume(node, other).geometry.affine, make.world_matrix(node), atol=1e-9)
