"""The prepared folder: what it holds, how an interrupted preparation goes on, what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from RegCore.geometry import InputError
from RegCore.io import save
from RegCore.progress import Cancelled
from RegCore.slicreg.folder import Teacher, prepare_folder, read_scan, read_template, scan_files, stem
from Testing.RegCore.slicreg import made_up


def test_a_scan_has_the_supervoxels_and_places_of_the_template(tmp_path, monkeypatch):
    paths = made_up.files(tmp_path, save)
    folder = made_up.prepare(monkeypatch, tmp_path / "prepared", paths)
    template = read_template(folder)
    assert [path.stem for path in scan_files(folder / "train")] == ["scan1", "scan2"]
    assert [path.stem for path in scan_files(folder / "valid")] == ["scan3"]
    scan = read_scan(folder / "train" / "scan2.npz")
    assert scan.image.shape == (16, 16, 16) == template.image.geometry.shape
    assert np.array_equal(scan.supervoxels, template.supervoxels.labels)
    # every second voxel, in half extents of the grid from its middle
    expected = (2 * np.indices((8, 8, 8)) + 0.5) / 8 - 1
    np.testing.assert_allclose(scan.places, expected, atol=2e-3)


def test_an_interrupted_preparation_says_so_and_goes_on(tmp_path, monkeypatch):
    paths = made_up.files(tmp_path, save)

    def stopped(path, scan, template, progress):
        if path == paths[2]:
            raise Cancelled
        return made_up.by_centres(path, scan, template, progress)

    folder = tmp_path / "prepared"
    with pytest.raises(Cancelled):
        made_up.prepare(monkeypatch, folder, paths, teacher=Teacher("centres", stopped))
    assert not list(folder.rglob("*.part"))
    with pytest.raises(InputError, match="interrupted, 1 of 2 scans of train are there"):
        scan_files(folder / "train")
    before = (folder / "train" / "scan1.npz").stat().st_mtime_ns
    made_up.prepare(monkeypatch, folder, paths)
    assert len(scan_files(folder / "train")) == 2
    assert (folder / "train" / "scan1.npz").stat().st_mtime_ns == before


def test_bad_input_has_its_sentence(tmp_path, monkeypatch):
    paths = made_up.files(tmp_path, save)
    folder = made_up.prepare(monkeypatch, tmp_path / "prepared", paths)
    with pytest.raises(InputError, match="another settings"):
        made_up.prepare(monkeypatch, folder, paths, settings=replace(made_up.SETTINGS, layers=3))
    with pytest.raises(InputError, match="another teacher: centres instead of deeds"):
        made_up.prepare(monkeypatch, folder, paths, teacher=Teacher("deeds", made_up.by_centres))
    new = {"settings": made_up.SETTINGS, "teacher": made_up.TEACHER}
    with pytest.raises(InputError, match="at least 2 scans to train with .* but 1 were given"):
        prepare_folder(tmp_path / "a", paths[0], paths[1:2], **new)
    with pytest.raises(InputError, match="the template is missing"):
        prepare_folder(tmp_path / "a", tmp_path / "none.nii.gz", paths[1:], **new)
    with pytest.raises(InputError, match="both for training and for validation"):
        prepare_folder(tmp_path / "a", paths[0], paths[1:], paths[1:2], **new)
    with pytest.raises(InputError, match="holds other things"):
        prepare_folder(tmp_path, paths[0], paths[1:], **new)
    with pytest.raises(InputError, match="three even numbers"):
        replace(made_up.SETTINGS, shape=(32, 31, 32))
    with pytest.raises(InputError, match="settings.json is missing"):
        scan_files(tmp_path / "train")
    (folder / "train" / "scan1.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="scan1.npz: can't be read"):
        read_scan(folder / "train" / "scan1.npz")


def test_names_lose_the_endings_of_images():
    assert [stem(name) for name in ("a/img1.nii.gz", "b.NRRD", "c.x.mha", "d")] == ["img1", "b", "c.x", "d"]
