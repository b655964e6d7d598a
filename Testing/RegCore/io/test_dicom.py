"""DICOM: folders of slices, and files with many, against Slicer and the voxels that they were made of."""

import logging
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.io import load, read_header
from RegCore.io.series import load_series
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.series import Series
from Testing.RegCore.grids import LEFT_HANDED, LPS, OBLIQUE, SHAPE
from Testing.RegCore.io.enhanced import write_dicom, write_enhanced
from Testing.RegCore.io.references import assert_same_in_space, by_slicer

VOXELS = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)


def dicom(folder, uid="1.2.3.4", skip=(), tilt=0.0, title="head", more=None, first=0, lying=OBLIQUE):
    """Slices of `VOXELS` 2.5 mm apart as DICOM files; `tilt` shifts each in its plane, mm a slice.

    first: added to the numbers of the slices. lying: whose directions
    they have.
    """
    folder.mkdir(exist_ok=True, parents=True)
    row, column = lying.direction[:, 0] * LPS, lying.direction[:, 1] * LPS
    normal = np.cross(row, column)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in (k for k in range(SHAPE[2]) if k not in skip):
        image = sitk.GetImageFromArray(VOXELS[:, :, k : k + 1].T)
        image.SetSpacing([1.1, 1.7, 2.5])
        place = np.array([10.0, 20, 30]) + normal * 2.5 * k + column * tilt * k
        image.SetOrigin(place)
        image.SetDirection(np.stack([row, column, normal], 1).ravel())
        tags = {
            "0008|0060": "CT", "0008|103e": title, "0020|000d": "1.2.3", "0020|000e": uid,
            "0008|0018": f"{uid}.{first + k + 1}", "0020|0013": str(first + k + 1),
            "0020|0032": "\\".join(f"{x:.6f}" for x in place),
            "0020|0037": "\\".join(f"{x:.6f}" for x in [*row, *column]),
        }  # fmt: skip
        for tag, value in (tags | (more or {})).items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}-{first}{(k * 5) % 9}.dcm"))
        writer.Execute(image)
    return folder


def ordered(folder) -> tuple[str, ...]:
    """The files of the one series of a folder in their order in space."""
    (uid,) = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    return sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return dicom(tmp_path_factory.mktemp("dicom") / "one")


def test_the_padding_value_of_a_dicom_header_is_known_in_the_unit_of_the_voxels(tmp_path, series):
    assert load(series).padding is None
    tags = {"0028|0120": "-2000", "0028|1052": "-1024", "0028|1053": "1"}
    assert load(dicom(tmp_path / "padded", more=tags)).padding == -3024


def test_a_folder_of_dicom_is_a_volume_as_in_slicer(series, caplog):
    found = load(series)
    np.testing.assert_array_equal(found.array, VOXELS)
    np.testing.assert_allclose(found.geometry.spacing, [1.1, 1.7, 2.5], atol=1e-4)
    np.testing.assert_allclose(found.geometry.origin, [-10, -20, 30], atol=1e-4)
    assert_same_in_space(found, by_slicer(ordered(series)[0], ordered(series)))
    assert read_header(series) == (SHAPE, found.geometry)
    assert not caplog.records


def test_one_of_several_series_is_chosen(tmp_path):
    for uid in ("1.2.3.4", "1.2.3.5"):
        dicom(tmp_path / "two", uid, title=f"scan {uid[-1]}")
    with pytest.raises(InputError, match=r"holds 2 DICOM series; choose one of: .*\(scan 4, 9 files\)"):
        load(tmp_path / "two")
    with pytest.raises(InputError, match="none of them 9"):
        load(tmp_path / "two", series="9")
    uid = "1.2.3.5"
    np.testing.assert_array_equal(load(tmp_path / "two", "image", series=uid).array, VOXELS)
    with pytest.raises(InputError, match="from a folder only"):
        load(sorted((tmp_path / "two").iterdir())[0], series=uid)


@pytest.mark.parametrize(
    ("fields", "words"), [({"skip": (4,)}, "2.5 to 5 mm apart"), ({"tilt": 0.5}, "shifted by up to 0.5 mm")]
)
def test_missing_slices_and_gantry_tilt_are_read_as_by_slicer_with_a_warning(tmp_path, caplog, fields, words):
    folder = dicom(tmp_path / "odd", **fields)
    with caplog.at_level(logging.WARNING):
        found = load(folder)
    assert words in caplog.text
    assert_same_in_space(found, by_slicer(ordered(folder)[0], ordered(folder)))


def test_a_folder_without_dicom_is_refused(tmp_path, capfd):
    with pytest.raises(InputError, match="no DICOM series in it"):
        load(tmp_path)
    assert capfd.readouterr() == ("", "")


# ---- folders as people have them ---------------------------------------------------------------------------


@pytest.mark.parametrize("first", [(1.0, 0.0), (2.0, -7.0), (0.5, 0.0)], ids=["whole", "other", "half"])
def test_each_slice_has_a_scale_of_its_own(tmp_path, first):
    """As PET has; ITK takes the type of the first slice for all."""
    scales = [first, *((0.25 * k + 0.125, float(k)) for k in range(1, SHAPE[2]))]
    slopes, offsets = np.array(scales).T
    stored = np.abs(VOXELS)  # ITK writes voxels divided by the scale, so those are stored that fit
    for k in range(SHAPE[2]):
        _rescaled(tmp_path / "pet", k, stored[:, :, k], scales[k])
    np.testing.assert_allclose(load(tmp_path / "pet").array, stored * slopes + offsets)


def _rescaled(folder, k: int, stored: np.ndarray, scale: tuple[float, float]) -> None:
    """A slice as a file in which the voxels are stored as given."""
    folder.mkdir(exist_ok=True)
    tags = [
        (0x8, 0x16, "UI", "1.2.840.10008.5.1.4.1.1.128"), (0x8, 0x18, "UI", f"1.9.{k + 1}"),
        (0x8, 0x60, "CS", "PT"), (0x20, 0xD, "UI", "1.9"), (0x20, 0xE, "UI", "1.9.7"),
        (0x20, 0x13, "IS", k + 1), (0x20, 0x32, "DS", f"3\\-4\\{2.5 * k}"),
        (0x20, 0x37, "DS", "1\\0\\0\\0\\1\\0"), (0x28, 2, "US", 1), (0x28, 4, "CS", "MONOCHROME2"),
        (0x28, 0x10, "US", stored.shape[1]), (0x28, 0x11, "US", stored.shape[0]),
        (0x28, 0x30, "DS", "1.5\\1.25"), (0x28, 0x100, "US", 16), (0x28, 0x101, "US", 16),
        (0x28, 0x102, "US", 15), (0x28, 0x103, "US", 0), (0x28, 0x1052, "DS", scale[1]),
        (0x28, 0x1053, "DS", scale[0]), (0x7FE0, 0x10, "OW", stored.T.astype("<u2").tobytes()),
    ]  # fmt: skip
    write_dicom(folder / f"{k}", tags)


def test_a_copy_of_a_file_is_no_further_slice(tmp_path, series):
    folder = tmp_path / "copies"
    shutil.copytree(series, folder)
    one, *_, last = sorted(series.iterdir())
    shutil.copy(one, folder / "copy of one.dcm")
    shutil.copy(last, folder / "last (1)")
    np.testing.assert_array_equal(load(folder).array, VOXELS)
    assert load(folder).geometry == load(series).geometry


def test_a_localiser_in_the_series_of_the_scan_is_left_out(tmp_path, caplog, series):
    folder = dicom(tmp_path / "both")
    dicom(folder, skip=range(2, 9), first=20, lying=Geometry(SHAPE, OBLIQUE.affine[:, [1, 2, 0, 3]]))
    with caplog.at_level(logging.WARNING):
        found = load(folder)
    np.testing.assert_array_equal(found.array, VOXELS)
    assert found.geometry == load(series).geometry
    assert "files of another size or direction, a localiser maybe, are left out: 2" in caplog.text
    dicom(folder, first=40, lying=Geometry(SHAPE, OBLIQUE.affine[:, [2, 0, 1, 3]]))
    with pytest.raises(InputError, match=r"3 volumes of different sizes or directions, of 9, 2, 9 slices"):
        load(folder)


def test_frames_are_no_volume_and_the_command_for_them_is_named(tmp_path):
    folder = dicom(dicom(tmp_path / "frames"), first=20, more={"0020|0100": "2"})
    with pytest.raises(InputError, match="18 slices lie at 9 places, so they are frames"):
        load(folder)
    assert load_series(folder).array.shape == (*SHAPE, 2)


def test_a_series_in_folders_below(tmp_path, series):
    folder = dicom(tmp_path / "cd" / "PA1" / "ST1", skip=range(4))
    dicom(tmp_path / "cd" / "PA1" / "ST2", skip=range(4, 9))
    (tmp_path / "cd" / "DICOMDIR").write_bytes(b"no slice")
    np.testing.assert_array_equal(load(tmp_path / "cd").array, VOXELS)
    assert load(tmp_path / "cd").geometry == load(series).geometry
    assert load(folder).array.shape == (*SHAPE[:2], 5)


def test_slices_without_a_place_are_placed_as_in_slicer_and_said_so(tmp_path, caplog):
    tags = [
        (0x8, 0x16, "UI", "1.2.840.10008.5.1.4.1.1.7"), (0x8, 0x60, "CS", "OT"), (0x20, 0xD, "UI", "1.9"),
        (0x20, 0xE, "UI", "1.9.8"), (0x28, 2, "US", 1), (0x28, 4, "CS", "MONOCHROME2"),
        (0x28, 0x10, "US", SHAPE[1]), (0x28, 0x11, "US", SHAPE[0]), (0x28, 0x100, "US", 16),
        (0x28, 0x101, "US", 16), (0x28, 0x102, "US", 15), (0x28, 0x103, "US", 1),
    ]  # fmt: skip
    for k in range(SHAPE[2]):
        own = [(0x8, 0x18, "UI", f"1.9.8.{k + 1}"), (0x20, 0x13, "IS", k + 1)]
        own += [(0x7FE0, 0x10, "OW", VOXELS[:, :, k].T.astype("<i2").tobytes())]
        write_dicom(tmp_path / f"{k}.dcm", sorted(tags + own))
    with caplog.at_level(logging.WARNING):
        found = load(tmp_path)
    assert "do not say where they lie" in caplog.text
    assert_same_in_space(found, by_slicer(ordered(tmp_path)[0], ordered(tmp_path)))


@pytest.mark.parametrize("grid", [OBLIQUE, LEFT_HANDED], ids=["oblique", "left-handed"])
def test_the_slices_of_one_file_lie_where_each_says_and_have_its_scale(tmp_path, grid):
    """ITK places the first slice and goes on from there, and scales all as the first."""
    slopes = {0: 1.5}
    volume = Series(VOXELS[..., None], grid)
    order = [(0, int(k)) for k in np.random.default_rng(1).permutation(SHAPE[2])]
    write_enhanced(tmp_path / "e.dcm", volume, order, slopes)
    for path in (tmp_path, tmp_path / "e.dcm"):
        found = load(path)
        index = grid.to_index(found.geometry.world_grid())
        np.testing.assert_allclose(index, index.round(), atol=1e-3)
        expected = VOXELS[tuple(np.moveaxis(index.round().astype(int), -1, 0))]
        np.testing.assert_array_equal(found.array, expected * 1.5)
        assert read_header(path) == (SHAPE, found.geometry)


def test_one_file_of_frames_is_no_volume(tmp_path):
    frames = np.stack([VOXELS, VOXELS + 1], -1)
    write_enhanced(tmp_path / "e.dcm", Series(frames, OBLIQUE), slopes={1: 2.5})
    with pytest.raises(InputError, match="18 slices lie at 9 places"):
        load(tmp_path / "e.dcm")
    found = load_series(tmp_path / "e.dcm").array
    np.testing.assert_array_equal(np.sort(found, 2), np.sort(frames * [1.0, 2.5], 2))
