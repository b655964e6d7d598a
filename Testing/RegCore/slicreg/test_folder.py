"""The prepared folder: what it holds, how an interrupted preparation goes on, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from RegCore.io import load, save
from RegCore.progress import Cancelled
from RegCore.slicreg.folder import read_scan, read_template, scan_files
from RegCore.slicreg.folder_making import Propagator, prepare_folder, stem
from RegCore.slicreg.picture import GAP, LEFT, TOP, colours
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume, reoriented
from Testing.RegCore.slicreg import synthetic


def test_a_scan_has_the_supervoxels_and_places_of_the_template(tmp_path, monkeypatch):
    paths = synthetic.files(tmp_path, save)
    folder = synthetic.prepare(monkeypatch, tmp_path / "prepared", paths)
    template = read_template(folder)
    assert [path.stem for path in scan_files(folder / "train")] == ["scan0", "scan1", "scan2"]
    assert [path.stem for path in scan_files(folder / "valid")] == ["scan3"]
    scan = read_scan(folder / "train" / "scan2.npz")
    assert scan.image.shape == (16, 16, 16) == template.image.geometry.shape
    assert np.array_equal(scan.supervoxels, template.supervoxels.labels)
    # every second voxel, in half extents of the grid from its middle
    expected = (2 * np.indices((8, 8, 8)) + 0.5) / 8 - 1
    np.testing.assert_allclose(scan.places, expected, atol=2e-3)
    own = read_scan(folder / "train" / "scan0.npz")  # the template itself
    assert np.array_equal(own.supervoxels, template.supervoxels.labels)
    assert np.array_equal(own.image, template.image.array)
    np.testing.assert_allclose(own.places, expected, atol=2e-3)


def _saved_anew(image, how: str, rng):
    """The same image in space: in another type, voxel order or frame, or with rounded numbers."""
    grid, array = image.geometry, image.array
    if how == "rounded":
        return Volume(np.rint(array).astype(np.int16), grid)
    if how == "double":
        return Volume(array.astype(np.float64), grid)
    if how == "turned":
        return reoriented(image, "SLA")
    if how == "noisy header":
        noisy = grid.affine.copy()
        noisy[:3] += rng.normal(0, 1e-5, (3, 4))
        return Volume(array, Geometry(grid.shape, noisy))
    return Volume(array[1:, :, :-1], grid.cropped((1, 0, 0), (32, 32, 31)))


@pytest.mark.parametrize("how", ["rounded", "double", "turned", "noisy header", "cropped"])
@pytest.mark.parametrize("ending", [".nii", ".nrrd"])
def test_a_template_that_was_saved_anew_is_known_again(tmp_path, monkeypatch, how, ending):
    paths = synthetic.files(tmp_path, save)
    folder = synthetic.prepare(monkeypatch, tmp_path / "prepared", paths)
    kept = {path: path.read_bytes() for path in (folder / "template.npz", folder / "train" / "scan1.npz")}
    (tmp_path / "anew").mkdir()
    anew = tmp_path / "anew" / f"scan0{ending}"
    save(_saved_anew(load(paths[0]), how, np.random.default_rng(2)), anew)
    further = tmp_path / "scan9.nii.gz"
    save(synthetic.ball((4.0, 6.0, -2.0), 1), further)
    synthetic.prepare(monkeypatch, folder, [anew, *paths[1:3], further, paths[3]])
    assert [path.stem for path in scan_files(folder / "train")] == ["scan0", "scan1", "scan2", "scan9"]
    assert all(path.read_bytes() == content for path, content in kept.items())
    found, known = read_scan(folder / "train" / "scan9.npz").supervoxels, read_template(folder).supervoxels
    assert (found == known.labels).mean() > 0.97


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_another_image_under_the_name_of_the_template_is_not_taken_for_it(tmp_path, monkeypatch, ending):
    paths = synthetic.files(tmp_path, save)
    paths[0] = paths[0].with_name(f"scan0{ending}")
    save(synthetic.ball(), paths[0])
    folder = synthetic.prepare(monkeypatch, tmp_path / "prepared", paths)
    held = {path: path.read_bytes() for path in folder.rglob("*.*")}
    for other in (synthetic.ball(noise=2), synthetic.ball((60.0, 0.0, 0.0))):
        save(other, paths[0])  # of the same size in bytes where it is not compressed
        further = tmp_path / "scan9.nii.gz"
        save(synthetic.ball((4.0, 6.0, -2.0), 1), further)
        with pytest.raises(InputError, match=rf"scan0{ending}: this is not the template that .*prepared was"):
            synthetic.prepare(monkeypatch, folder, [*paths[:3], further, paths[3]])
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == held


def test_voxels_without_a_value_are_taken_for_air(tmp_path, monkeypatch):
    paths = synthetic.files(tmp_path, save)
    volume = load(paths[1])
    array = volume.array.copy()
    array[:2], array[2] = np.nan, np.inf
    save(replace(volume, array=array), paths[1])
    folder = synthetic.prepare(monkeypatch, tmp_path / "prepared", paths)
    scan = read_scan(folder / "train" / "scan1.npz")
    assert np.isfinite(scan.image).all()
    assert np.array_equal(scan.supervoxels, read_template(folder).supervoxels.labels)


def test_the_picture_shows_the_template_and_scans_in_the_colours_of_their_supervoxels(tmp_path, monkeypatch):
    folder = synthetic.prepare(monkeypatch, tmp_path / "prepared", synthetic.files(tmp_path, save))
    with Image.open(folder / "supervoxels.png") as file:
        picture = np.asarray(file.convert("RGB")).astype(int)
    columns, rows = 3, synthetic.LAYERS + 1
    width, height = (picture.shape[1] - LEFT) // columns, (picture.shape[0] - TOP) // rows
    panels = [
        [picture[TOP + r * height :, LEFT + c * width :][: height - GAP, : width - GAP] for r in range(rows)]
        for c in range(columns)
    ]
    for image, *layers in panels:
        assert np.ptp(image, axis=-1).max() < 3  # grey
        assert all(len(np.unique(layer.reshape(-1, 3) // 16, axis=0)) > 8 for layer in layers)
        assert np.ptp(layers[0], axis=-1).max() > 60
    # all bodies are alike but for the grey of their organ, so the colours over it are too
    first, last = (panel[1] - panel[1].mean(-1, keepdims=True) for panel in (panels[0], panels[2]))
    assert np.abs(first - last).mean() < 3 < np.abs(first - panels[2][2]).mean()


def test_colours_of_supervoxels_differ():
    assert len(np.unique(colours(127), axis=0)) == 128


def test_an_interrupted_preparation_says_so_and_goes_on(tmp_path, monkeypatch):
    paths = synthetic.files(tmp_path, save)

    def stopped(path, scan, template, progress):
        if path == paths[2]:
            raise Cancelled
        return synthetic.by_centres(path, scan, template, progress)

    folder = tmp_path / "prepared"
    with pytest.raises(Cancelled):
        synthetic.prepare(monkeypatch, folder, paths, propagator=Propagator("centres", stopped))
    assert not list(folder.rglob("*.part"))
    with pytest.raises(InputError, match="interrupted, 2 of 3 scans of train are there"):
        scan_files(folder / "train")
    before = (folder / "train" / "scan1.npz").stat().st_mtime_ns
    synthetic.prepare(monkeypatch, folder, paths)
    assert len(scan_files(folder / "train")) == 3
    assert (folder / "train" / "scan1.npz").stat().st_mtime_ns == before


def test_bad_input_has_its_sentence(tmp_path, monkeypatch):
    paths = synthetic.files(tmp_path, save)
    folder = synthetic.prepare(monkeypatch, tmp_path / "prepared", paths)
    with pytest.raises(InputError, match="another settings"):
        synthetic.prepare(monkeypatch, folder, paths, settings=replace(synthetic.SETTINGS, layers=3))
    with pytest.raises(InputError, match="another propagator: centres instead of deeds"):
        synthetic.prepare(monkeypatch, folder, paths, propagator=Propagator("deeds", synthetic.by_centres))
    new = {"settings": synthetic.SETTINGS, "propagator": synthetic.PROPAGATOR}
    with pytest.raises(InputError, match="at least 2 scans to train with .* but 1 was given"):
        prepare_folder(tmp_path / "a", paths[0], paths[1:2], **new)
    with pytest.raises(InputError, match="the template is missing"):
        prepare_folder(tmp_path / "a", tmp_path / "none.nii.gz", paths[1:], **new)
    with pytest.raises(InputError, match="both for training and for validation"):
        prepare_folder(tmp_path / "a", paths[0], paths[1:], paths[1:2], **new)
    with pytest.raises(InputError, match="holds other things"):
        prepare_folder(tmp_path, paths[0], paths[1:], **new)
    with pytest.raises(InputError, match="three even numbers"):
        replace(synthetic.SETTINGS, shape=(32, 31, 32))
    with pytest.raises(InputError, match="settings.json is missing"):
        scan_files(tmp_path / "train")
    (folder / "train" / "scan1.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="scan1.npz: can't be read"):
        read_scan(folder / "train" / "scan1.npz")


def test_names_lose_the_endings_of_images():
    assert [stem(name) for name in ("a/img1.nii.gz", "b.NRRD", "c.x.mha", "d")] == ["img1", "b", "c.x", "d"]
