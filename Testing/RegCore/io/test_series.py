"""Series of frames: 4-D NIfTI against SimpleITK, sequences against Slicer, frames of DICOM slices."""

import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.io.series import load_series, save_series, save_transforms
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.series import Series
from RegCore.space.transforms import AffineTransform
from Testing.RegCore.grids import GRIDS, LPS, OBLIQUE, SHAPE, points_inside, rough_field, tilted_affine
from Testing.RegCore.io.enhanced import shuffled, write_enhanced

TIMES = ("0", "0.5", "1.5", "7 a/b", "9")  # what has a space and a slash is written in another way


def frames(grid=OBLIQUE, count: int = 5, dtype=np.int16, **fields) -> Series:
    values = np.random.default_rng(0).integers(-999, 999, (*grid.shape, count)).astype(dtype)
    return Series(values, grid, **fields)


@pytest.fixture
def mrml():
    """A scene of Slicer."""
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
    return slicer, slicer.vtkMRMLScene()


def read_by_slicer(mrml, path, kind: str):
    """The node of a sequence that Slicer reads from a file."""
    slicer, scene = mrml
    node = scene.AddNewNodeByClass("vtkMRMLSequenceNode")
    storage = scene.AddNewNodeByClass(f"vtkMRML{kind}SequenceStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("ending", ["nii.gz", "nii", "seq.nrrd"])
def test_what_is_written_is_read_again(tmp_path, name, ending):
    given = frames(GRIDS[name], times=("0", "2.5", "5", "7.5", "10"), axis="time", unit="s")
    save_series(given, tmp_path / f"s.{ending}")
    found = load_series(tmp_path / f"s.{ending}")
    np.testing.assert_array_equal(found.array, given.array)
    assert found.array.dtype == np.int16
    assert found.geometry.is_close(given.geometry)
    assert (found.times, found.axis, found.unit) == (given.times, "time", "s")


@pytest.mark.parametrize("name", GRIDS)
def test_simpleitk_reads_the_frames_of_a_nifti_file_and_their_step(tmp_path, name):
    given = frames(GRIDS[name], times=("0", "1.25", "2.5", "3.75", "5"), axis="time", unit="ms")
    save_series(given, tmp_path / "s.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "s.nii.gz"))
    assert image.GetSize() == (*SHAPE, 5)
    for t in range(5):
        one = sitk.Extract(image, (*SHAPE, 0), (0, 0, 0, t))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(one).T, given.frame(t).array)
        np.testing.assert_allclose(np.array(one.GetOrigin()) * LPS, given.geometry.origin, atol=1e-4)
    import nibabel

    header = nibabel.load(tmp_path / "s.nii.gz").header
    assert float(header["pixdim"][4]) == 1.25 and header.get_xyzt_units() == ("mm", "msec")


@pytest.mark.parametrize("name", ["oblique", "permuted", "lps-like"])
def test_slicer_reads_our_sequence_of_volumes(tmp_path, mrml, name):
    from vtk.util.numpy_support import vtk_to_numpy

    given = frames(GRIDS[name], times=TIMES, axis="phase", unit="%")
    save_series(given, tmp_path / "s.seq.nrrd")
    node = read_by_slicer(mrml, tmp_path / "s.seq.nrrd", "Volume")
    assert [node.GetNthIndexValue(n) for n in range(5)] == list(TIMES)
    assert (node.GetIndexName(), node.GetIndexUnit(), node.GetIndexTypeAsString()) == ("phase", "%", "text")
    import vtk

    for t in range(5):
        volume, matrix = node.GetNthDataNode(t), vtk.vtkMatrix4x4()
        assert volume.GetClassName() == "vtkMRMLScalarVolumeNode"
        volume.GetIJKToRASMatrix(matrix)
        rows = [[matrix.GetElement(row, column) for column in range(4)] for row in range(4)]
        np.testing.assert_allclose(rows, given.geometry.affine, atol=1e-4)
        voxels = vtk_to_numpy(volume.GetImageData().GetPointData().GetScalars())
        np.testing.assert_array_equal(voxels.reshape(SHAPE[::-1]).T, given.frame(t).array)


def test_a_sequence_that_slicer_wrote_is_read(tmp_path, mrml):
    given = frames(times=TIMES, axis="phase", unit="%")
    save_series(given, tmp_path / "ours.seq.nrrd")
    node = read_by_slicer(mrml, tmp_path / "ours.seq.nrrd", "Volume")
    storage = mrml[1].AddNewNodeByClass("vtkMRMLVolumeSequenceStorageNode")
    storage.SetFileName(str(tmp_path / "theirs.seq.nrrd"))
    assert storage.WriteData(node)
    found = load_series(tmp_path / "theirs.seq.nrrd")
    np.testing.assert_array_equal(found.array, given.array)
    assert found.geometry.is_close(given.geometry)
    assert (found.times, found.axis, found.unit) == (TIMES, "phase", "%")


def test_a_sequence_with_its_frames_first_is_read(tmp_path):
    """As Slicer wrote it before the frames came last."""
    given = frames()
    lps = np.diag([-1, -1, 1, 1]) @ given.geometry.affine
    vectors = " ".join("(" + ",".join(map(str, lps[:3, axis])) + ")" for axis in range(3))
    head = (
        "NRRD0004\ntype: short\ndimension: 4\nspace: left-posterior-superior\nsizes: 5 7 8 9\n"
        f"space directions: none {vectors}\nkinds: list domain domain domain\n"
        'labels: "time" "" "" ""\nunits: "s" "" "" ""\nendian: little\nencoding: raw\n'
        f"space origin: ({','.join(map(str, lps[:3, 3]))})\naxis 0 index type:=numeric\n"
        "axis 0 index values:=0 1 2 3 4.5\n\n"
    )
    voxels = np.moveaxis(given.array, 3, 0).astype("<i2").tobytes(order="F")
    (tmp_path / "s.seq.nrrd").write_bytes(head.encode() + voxels)
    found = load_series(tmp_path / "s.seq.nrrd")
    np.testing.assert_array_equal(found.array, given.array)
    assert (found.times, found.axis, found.unit) == (("0", "1", "2", "3", "4.5"), "time", "s")
    assert found.geometry.is_close(given.geometry)


@pytest.mark.parametrize("name", ["oblique", "left-handed", "permuted"])
def test_slicer_maps_points_through_our_sequence_of_transforms(tmp_path, mrml, name):
    grid = GRIDS[name]
    series = frames(grid, count=3, times=("0", "0.5", "1"), axis="time", unit="s")
    given = [rough_field(grid, seed) for seed in range(3)]
    save_transforms(given, series, tmp_path / "t.seq.nrrd")
    node = read_by_slicer(mrml, tmp_path / "t.seq.nrrd", "Transform")
    assert [node.GetNthIndexValue(n) for n in range(3)] == ["0", "0.5", "1"]
    assert (node.GetIndexName(), node.GetIndexUnit()) == ("time", "s")
    points = points_inside(grid)
    for t, field in enumerate(given):
        inner = node.GetNthDataNode(t).GetTransformFromParent()
        found = np.array([inner.TransformDoublePoint(point) for point in points])
        np.testing.assert_allclose(found, field.map(points), atol=1e-3)


def test_affine_transforms_become_fields_on_the_corners_which_is_exact(tmp_path, mrml):
    series = frames(count=2)
    given = [AffineTransform.identity(), tilted_affine()]
    save_transforms(given, series, tmp_path / "t.seq.nrrd")
    node = read_by_slicer(mrml, tmp_path / "t.seq.nrrd", "Transform")
    points = points_inside(OBLIQUE)
    inner = node.GetNthDataNode(1).GetTransformFromParent()
    found = np.array([inner.TransformDoublePoint(point) for point in points])
    np.testing.assert_allclose(found, given[1].map(points), atol=1e-3)


def dicom(folder, series: Series, uid: str = "1.2.3.4", tag: str | None = "0020|0100", skip=()) -> None:
    """Each slice of each frame as a file, in no order; `tag` holds the number of the frame."""
    folder.mkdir(exist_ok=True)
    grid, writer, number = series.geometry, sitk.ImageFileWriter(), 0
    row, column, normal = grid.direction.T * LPS
    writer.KeepOriginalImageUIDOn()
    for t in range(len(series)):
        for k in range(grid.shape[2]):
            number += 1
            if number in skip:
                continue
            image = sitk.GetImageFromArray(np.ascontiguousarray(series.array[:, :, k : k + 1, t].T))
            image.SetSpacing(grid.spacing.tolist())
            place = grid.to_world([0, 0, k]) * LPS
            image.SetOrigin(place)
            image.SetDirection(np.stack([row, column, normal], 1).ravel())
            tags = {
                "0008|0060": "MR", "0020|000d": "1.2.3", "0020|000e": uid, "0008|0018": f"{uid}.{number}",
                "0020|0032": "\\".join(f"{x:.6f}" for x in place),
                "0020|0037": "\\".join(f"{x:.6f}" for x in [*row, *column]),
            }  # fmt: skip
            tags |= {"0020|0013": "1"} if tag is None else {tag: str(t + 1)}
            for name, value in tags.items():
                image.SetMetaData(name, value)
            writer.SetFileName(str(folder / f"{uid}-{number * 7919 % 1000}.dcm"))
            writer.Execute(image)


@pytest.mark.parametrize("tag", ["0020|0100", "0008|0032", "0020|0012"])
def test_the_frames_of_dicom_slices(tmp_path, tag):
    given = frames(count=3)
    dicom(tmp_path / "d", given, tag=tag)
    found = load_series(tmp_path / "d")
    np.testing.assert_array_equal(found.array, given.array)
    assert found.geometry.is_close(given.geometry, 1e-2)
    assert found.times == ("0", "1", "2")


def test_dicom_that_is_no_series_of_frames_says_why(tmp_path):
    dicom(tmp_path / "one", frames(count=1))
    with pytest.raises(
        InputError, match=r"one: a series of frames was expected, but there are 1 at 9 places"
    ):
        load_series(tmp_path / "one")
    dicom(tmp_path / "gap", frames(count=2), skip=(4,))
    with pytest.raises(InputError, match=r"as many slices as there are frames, but they have \[1, 2\]"):
        load_series(tmp_path / "gap")
    dicom(tmp_path / "same", frames(count=2), tag=None)
    with pytest.raises(InputError, match="do not say which comes first"):
        load_series(tmp_path / "same")
    for uid in ("1.2.3.4", "1.2.3.5"):
        dicom(tmp_path / "two", frames(count=2), uid)
    with pytest.raises(InputError, match="holds 2 DICOM series; choose one of: 1.2.3.4"):
        load_series(tmp_path / "two")
    assert len(load_series(tmp_path / "two", series="1.2.3.5")) == 2
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no DICOM series in it"):
        load_series(tmp_path / "none")


def test_what_is_no_series_says_why(tmp_path):
    import RegCore

    volume = RegCore.Volume(np.zeros(SHAPE, np.int16), OBLIQUE)
    RegCore.save(volume, tmp_path / "v.nii.gz")
    with pytest.raises(InputError, match="v.nii.gz: a series of frames was expected, but this is a single"):
        load_series(tmp_path / "v.nii.gz")
    RegCore.save(rough_field(OBLIQUE), tmp_path / "f.nrrd")
    with pytest.raises(InputError, match="f.nrrd: frames of one channel were expected"):
        load_series(tmp_path / "f.nrrd")
    with pytest.raises(InputError, match="gone.nii.gz: there is no such file"):
        load_series(tmp_path / "gone.nii.gz")
    (tmp_path / "s.mha").write_bytes(b"x")
    with pytest.raises(InputError, match="a series is a file .nii.gz"):
        load_series(tmp_path / "s.mha")
    with pytest.raises(InputError, match="from a folder only"):
        load_series(tmp_path / "v.nii.gz", series="1.2")
    with pytest.raises(InputError, match=r"can't be saved with this ending \(possible: .nii.gz"):
        save_series(frames(), tmp_path / "s.mha")
    with pytest.raises(InputError, match="is saved as .seq.nrrd"):
        save_transforms([], frames(), tmp_path / "t.h5")
    with pytest.raises(InputError, match="5 transforms were expected, one for each frame, not 1"):
        save_transforms([tilted_affine()], frames(), tmp_path / "t.seq.nrrd")


def test_a_series_is_checked():
    with pytest.raises(InputError, match=r"on the grid \(7, 8, 9\), not \(7, 8, 9\)"):
        Series(np.zeros(SHAPE), OBLIQUE)
    with pytest.raises(InputError, match="at least one frame"):
        Series(np.zeros((*SHAPE, 0)), OBLIQUE)
    with pytest.raises(InputError, match="a series of 5 frames has as many times, not 2"):
        frames(times=("0", "1"))
    with pytest.raises(InputError, match="real numbers, not complex"):
        Series(np.zeros((*SHAPE, 2), complex), OBLIQUE)


def test_the_step_is_known_where_it_is_everywhere_the_same():
    assert frames(times=("1", "1.5", "2", "2.5", "3")).step() == pytest.approx(0.5)
    assert frames(times=("0", "1", "2", "3", "5")).step() is None
    assert frames(times=TIMES).step() is None
    assert frames(count=1).step() is None
    assert frames(Geometry(SHAPE, np.eye(4))).step() == 1


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_the_frames_of_an_enhanced_file_in_any_order(tmp_path, grid):
    given = frames(grid, count=3)
    write_enhanced(tmp_path / "e.dcm", given, order=shuffled(given))
    for path in (tmp_path, tmp_path / "e.dcm"):
        found = load_series(path)
        assert found.array.shape == (*SHAPE, 3) and found.array.dtype == np.int16
        index = grid.to_index(found.geometry.world_grid())  # of every voxel, whichever way its slices go
        np.testing.assert_allclose(index, index.round(), atol=1e-3)
        expected = given.array[tuple(np.moveaxis(index.round().astype(int), -1, 0))]
        np.testing.assert_array_equal(found.array, expected)
        assert found.times == ("0", "1", "2")


def test_enhanced_files_with_a_frame_each_are_one_series(tmp_path):
    given = frames(count=3)
    for t in range(3):
        order = [(t, place) for place in range(SHAPE[2])]
        write_enhanced(tmp_path / f"{7 * t % 3}.dcm", given, order=order)
    np.testing.assert_array_equal(load_series(tmp_path).array, given.array)


def test_an_enhanced_file_that_is_no_series_says_why(tmp_path):
    path = tmp_path / "e.dcm"

    def refused(words: str, **options) -> None:
        write_enhanced(path, given, **options)
        with pytest.raises(InputError, match=words) as told:
            load_series(path)
        assert str(told.value).startswith(str(path))

    given = frames(count=2)
    refused("do not say which comes first", times=False)
    refused(r"as many slices as there are frames, but they have \[1, 2\]", order=shuffled(given)[1:])
    refused("a series of frames was expected, but there are 2 at 1 places", order=[(0, 0), (1, 0)])


def test_a_damaged_header_of_an_enhanced_file_is_one_sentence(tmp_path):
    """Bytes of the header changed or cut off at random: refused in a sentence, or read."""
    path, random = tmp_path / "e.dcm", np.random.default_rng(0)
    write_enhanced(path, frames(count=2))
    good, refused = path.read_bytes(), 0
    for _ in range(150):
        data = bytearray(good[: random.integers(140, len(good))] if random.random() < 0.3 else good)
        for place in random.integers(132, min(len(data), 5000), 3):
            data[place] = random.integers(256)
        path.write_bytes(data)
        try:
            load_series(path)
        except InputError as error:
            refused += 1
            assert str(error).startswith(str(path)) and "\n" not in str(error)
    assert refused > 50
