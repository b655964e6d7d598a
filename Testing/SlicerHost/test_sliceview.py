"""Slice views: voxels, outlines and grid lines appear where the scene says, and move with the transform."""

import numpy as np
import pytest

SIZE = (160, 160)
SHAPE = (20, 40, 40)  # (K, J, I)
SPACING = 2.0
ORIGIN = (-40.0, -40.0, -20.0)


@pytest.fixture
def sliceview(host):
    from SlicerHost import sliceview

    reason = sliceview.missing_reason()
    if reason:
        pytest.skip(reason)
    return sliceview


@pytest.fixture
def view(host, sliceview):
    with sliceview.SliceView(host, size=SIZE) as opened:
        yield opened


def add_volume(host, array, name="CT"):
    """A volume with window 0 to 200, in grey."""
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = ORIGIN
    node = host.slicer.util.addVolumeFromArray(array.astype(np.float32), ijkToRAS=affine, name=name)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    display.AutoWindowLevelOff()
    display.SetWindowLevel(200, 100)
    display.SetInterpolate(False)
    return node


def block(left_to_right=slice(8, 20)):
    """A bright block on the patient's left or right, anterior half; RAS x grows with I."""
    array = np.zeros(SHAPE)
    array[:, 22:34, left_to_right] = 200
    return array


def add_grid_transform(host, shift_mm, steps=8):
    """A field on the volume's box, u_x = `shift_mm` sin(pi y / height): fixed to moving, in RAS mm."""
    import vtk
    from vtk.util import numpy_support

    k, j, i = np.meshgrid(np.arange(steps), np.arange(steps), np.arange(steps), indexing="ij")
    field = np.zeros((*k.shape, 3))
    field[..., 0] = shift_mm * np.sin(np.pi * j / (steps - 1))
    grid = vtk.vtkImageData()
    grid.SetDimensions(steps, steps, steps)
    grid.SetSpacing(80 / (steps - 1), 80 / (steps - 1), 40 / (steps - 1))
    grid.SetOrigin(*ORIGIN)
    grid.GetPointData().SetScalars(numpy_support.numpy_to_vtk(field.reshape(-1, 3), deep=True))
    transform = host.slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(grid)
    node = host.scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "field")
    node.SetAndObserveTransformFromParent(transform)
    return node


def centre_of(mask):
    """(row, column) of the mask's centre as a fraction of the picture, top left (0, 0)."""
    return np.argwhere(mask).mean(axis=0) / (SIZE[1], SIZE[0])


def test_volume_is_drawn_in_radiological_convention(host, view):
    view.show(background=add_volume(host, block()))
    picture = view.render(at=(0, 0, 0.0))
    assert picture.shape == (160, 160, 3) and picture.dtype == np.uint8
    bright = picture[..., 0] > 150
    assert 0.05 < bright.mean() < 0.15
    row, column = centre_of(bright)
    assert column > 0.55, "small x, the patient's left, is on the right"
    assert row < 0.45, "anterior is up"


def test_offset_chooses_the_slice(host, view):
    array = block()
    array[:10] = 0
    view.show(background=add_volume(host, array))
    assert view.render(at=(0, 0, -10.0)).max() < 50
    assert view.render(at=(0, 0, 10.0))[..., 0].max() > 150


def test_foreground_is_blended(host, view):
    background, foreground = add_volume(host, np.zeros(SHAPE)), add_volume(host, block())
    view.show(background, foreground, opacity=0.0)
    assert view.render(at=(0, 0, 0.0)).max() < 10
    view.show(background, foreground, opacity=0.5)
    half = int(view.render(at=(0, 0, 0.0)).max())
    view.show(background, foreground, opacity=1.0)
    assert abs(2 * half - int(view.render(at=(0, 0, 0.0)).max())) < 6


def test_grid_transform_moves_the_drawn_volume(host, view):
    volume = add_volume(host, block())
    view.show(background=volume)
    before = centre_of(view.render(at=(0, 0, 0.0))[..., 0] > 150)
    volume.SetAndObserveTransformNodeID(add_grid_transform(host, shift_mm=10).GetID())
    after = centre_of(view.render(at=(0, 0, 0.0))[..., 0] > 150)
    # T(x) = x + u samples the volume at larger x: what is seen moves to smaller x, to the right.
    assert after[1] - before[1] > 0.05
    assert abs(after[0] - before[0]) < 0.02


def test_segment_outline_follows_the_segment(host, sliceview, view):
    volume = add_volume(host, np.zeros(SHAPE))
    node = host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = node.GetSegmentation().AddEmptySegment("organ", "Organ", (0, 1, 0))
    host.slicer.util.updateSegmentBinaryLabelmapFromArray(
        (block() > 0).astype(np.uint8), node, segment, volume
    )
    sliceview.show_outlines(node, thickness=2)
    view.show(background=volume)
    picture = view.render(at=(0, 0, 0.0)).astype(int)
    green = picture[..., 1] - picture[..., 0] > 100
    assert green.any()
    rows, columns = np.nonzero(green)
    inside = green[rows.min() + 6 : rows.max() - 5, columns.min() + 6 : columns.max() - 5]
    assert inside.size > 0 and not inside.any(), "an outline is not filled"
    assert centre_of(green)[1] > 0.55 and centre_of(green)[0] < 0.45
    node.GetDisplayNode().SetVisibility(False)
    hidden = view.render(at=(0, 0, 0.0)).astype(int)
    assert not (hidden[..., 1] - hidden[..., 0] > 100).any()


def test_deformation_grid_is_drawn_and_bent(host, sliceview, view):
    view.show(background=add_volume(host, np.zeros(SHAPE)))
    plain = view.render(at=(0, 0, 0.0))
    pictures = []
    for shift in (0.0, 10.0):
        node = add_grid_transform(host, shift)
        sliceview.show_deformation_grid(node, spacing_mm=10)
        pictures.append(view.render(at=(0, 0, 0.0)))
        sliceview.show_deformation_grid(node, visible=False)
    straight, bent = ((picture != plain).any(axis=2) for picture in pictures)
    assert straight.mean() > 0.02 and bent.mean() > 0.02
    assert (straight != bent).mean() > 0.02
    np.testing.assert_array_equal(view.render(at=(0, 0, 0.0)), plain)


def test_picture_file_holds_what_is_rendered(host, view, tmp_path):
    from PIL import Image

    view.show(background=add_volume(host, block()))
    view.save(tmp_path / "views" / "axial.png", at=(0, 0, 0.0))
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "views" / "axial.png")), view.render(at=(0, 0, 0.0))
    )


def test_orientations_show_other_planes(host, sliceview):
    """The block fills K, 12 of 40 rows along J and 12 of 40 along I, all of it at x below 0."""
    volume = add_volume(host, block())
    shares = []
    for name, orientation, at in (
        ("Red", "Axial", (0, 0, 10)),
        ("Green", "Coronal", (0, 10, 0)),
        ("Yellow", "Sagittal", (-10, 0, 0)),
        ("Yellow", "Sagittal", (10, 0, 0)),
    ):
        with sliceview.SliceView(host, name, orientation, size=SIZE) as view:
            view.show(background=volume)
            shares.append((view.render(at)[..., 0] > 150).mean())
    axial, coronal, left, right = shares
    assert abs(axial - 0.09) < 0.01, "12 of 40 by 12 of 40"
    assert abs(coronal - 0.15) < 0.01, "12 of 40 by half of the square picture"
    assert abs(left - 0.15) < 0.01 and right == 0


def test_closed_view_leaves_nothing_in_the_scene(host, sliceview):
    before = host.scene.GetNumberOfNodesByClass("vtkMRMLAbstractViewNode")
    with sliceview.SliceView(host, size=SIZE):
        assert host.scene.GetNumberOfNodesByClass("vtkMRMLAbstractViewNode") == before + 1
    assert host.scene.GetNumberOfNodesByClass("vtkMRMLAbstractViewNode") == before
    host.close_scene()
