"""A preparation is kept scan by scan: other lists, bad scans, a full disk; all scans are checked first."""

import json

import numpy as np
import pytest

import RegCore
import RegCore.slicreg.folder
from RegCore.io import save
from RegCore.slicreg import folder_making
from RegCore.slicreg.folder import read_settings, scan_files
from RegCore.slicreg.folder_making import Propagator, prepare_folder, write_arrays
from RegCore.space.geometry import InputError
from RegCore.space.volume import Volume
from Testing.RegCore.slicreg import synthetic


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "scans").mkdir()
    return synthetic.files(tmp_path / "scans", save, count=6)


def counting(made: list):
    def propagate(path, scan, template, progress):
        made.append(path.name)
        return synthetic.by_centres(path, scan, template, progress)

    return Propagator("centres", propagate)


def prepared(monkeypatch, folder, template, train, valid, made, settings=synthetic.SETTINGS):
    monkeypatch.setattr("RegCore.slicreg.folder_making.oversegment", synthetic.octants)
    return prepare_folder(folder, template, train, valid, settings=settings, propagator=counting(made))


def test_another_list_of_scans_makes_only_what_is_new(tmp_path, monkeypatch, paths):
    folder, made = tmp_path / "prepared", []
    prepared(monkeypatch, folder, paths[0], paths[1:4], [], made)
    assert made == ["scan1.nii.gz", "scan2.nii.gz", "scan3.nii.gz"]
    made.clear()
    prepared(monkeypatch, folder, paths[0], paths[1:3] + paths[4:5], paths[3:4], made)
    assert made == ["scan4.nii.gz"]  # scan3 was moved from the one part to the other
    assert [p.stem for p in scan_files(folder / "train")] == ["scan0", "scan1", "scan2", "scan4"]
    assert [p.stem for p in scan_files(folder / "valid")] == ["scan3"]
    assert not (folder / "train" / "scan3.npz").exists()
    save(synthetic.ball((0.0, 3.0, 0.0), 77), paths[2])  # another scan under the same name
    made.clear()
    prepared(monkeypatch, folder, paths[0], paths[1:3], [], made)
    assert made == ["scan2.nii.gz"]
    made.clear()
    prepared(monkeypatch, folder, paths[0], paths[1:3], [], made)
    assert made == []


def replaced(path, image) -> None:
    """Another image in a file of the same name and size."""
    size = path.stat().st_size
    save(image, path)
    assert path.stat().st_size == size


def test_another_scan_of_the_same_name_and_size_is_made_anew(tmp_path, monkeypatch, paths):
    paths = [path.with_name(f"{path.name.split('.')[0]}.nii") for path in paths[:4]]
    for number, path in enumerate(paths):
        save(synthetic.ball((7.0 * number, 0.0, 0.0), number), path)
    folder, made = tmp_path / "prepared", []
    prepared(monkeypatch, folder, paths[0], paths[1:3], paths[3:], made)
    before = {path: path.read_bytes() for path in folder.glob("*/*.npz")}
    made.clear()
    replaced(paths[2], synthetic.ball((0.0, 9.0, 0.0), 77))
    replaced(paths[3], synthetic.ball((0.0, -9.0, 0.0), 78))
    paths[1].touch()  # and one that is the same as ever
    prepared(monkeypatch, folder, paths[0], paths[1:3], paths[3:], made)
    assert made == ["scan2.nii", "scan3.nii"]
    changed = {path.stem for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"scan2", "scan3"}
    replaced(paths[0], synthetic.ball(noise=9))
    with pytest.raises(InputError, match=r"scan0.nii: this is not the template that .*prepared was"):
        prepared(monkeypatch, folder, paths[0], paths[1:3], paths[3:], made)


def test_a_folder_of_an_earlier_version_is_gone_on_with(tmp_path, monkeypatch, paths):
    """It knows names and sizes alone; what it holds is kept, and from then on known by its contents."""
    folder, made = tmp_path / "prepared", []
    prepared(monkeypatch, folder, paths[0], paths[1:3], [], made)
    record = json.loads((folder / "settings.json").read_text())
    for state in (record["template"], *record["train"].values()):
        del state["sha256"]
    (folder / "settings.json").write_text(json.dumps(record))
    made.clear()
    prepared(monkeypatch, folder, paths[0], paths[1:4], [], made)
    assert made == ["scan3.nii.gz"]
    known = read_settings(folder)["train"]
    assert all(len(state["sha256"]) == 64 for state in known.values()) and len(known) == 4


def test_what_was_propagated_with_other_files_is_made_anew(tmp_path, monkeypatch, paths):
    """Of deeds, say, those of the one scan, or a model that all of them are made with."""
    monkeypatch.setattr("RegCore.slicreg.folder_making.oversegment", synthetic.octants)
    found, made = {path: tmp_path / f"{path.name}.txt" for path in paths[:3]}, []
    propagator = Propagator("deeds", counting(made).propagate, files=lambda path: (found[path],))
    options = {"settings": synthetic.SETTINGS, "propagator": propagator}
    for path in paths[1:3]:
        found[path].write_text("1 2 3")
    for text, again in (("1 2 3", 2), ("1 2 3", 0), ("3 2 1", 1)):
        made.clear()
        found[paths[2]].write_text(text)
        prepare_folder(tmp_path / "prepared", paths[0], paths[1:3], **options)
        assert len(made) == again
    made.clear()
    for path in paths[1:3]:
        found[path].unlink()  # no longer needed
    prepare_folder(tmp_path / "prepared", paths[0], paths[1:3], **options)
    assert made == []


def test_without_a_shape_the_one_of_the_folder_stays(tmp_path, monkeypatch, paths):
    settings = RegCore.slicreg.folder.FolderSettings(spacing=8.0, layers=2, count=8, margin=0.0)
    folder, made = tmp_path / "prepared", []
    prepared(monkeypatch, folder, paths[0], paths[1:3], [], made, settings)
    shape = read_settings(folder)["settings"]["shape"]
    large = synthetic.ball()
    grid = large.geometry.resized_box((64, 64, 64))
    wide = RegCore.Geometry(grid.shape, large.geometry.affine)
    for path in paths[3:]:
        save(Volume(np.pad(large.array, ((0, 32),) * 3, mode="edge"), wide), path)
    prepared(monkeypatch, folder, paths[0], paths[1:], [], made, settings)
    assert read_settings(folder)["settings"]["shape"] == shape and len(made) == 5


def test_every_scan_is_looked_at_before_the_first_is_registered(tmp_path, monkeypatch, paths):
    folder, made = tmp_path / "prepared", []
    grid = synthetic.ball().geometry
    for path in paths[2:4]:  # values of a magnetic resonance image
        save(Volume(np.abs(synthetic.ball().array), grid), path)
    with pytest.raises(InputError) as error:
        prepared(monkeypatch, folder, paths[0], paths[1:], [], made)
    text = str(error.value)
    assert text.startswith("2 of 6 scans can't be used: ") and made == [] and not folder.exists()
    assert "scan2.nii.gz: Hounsfield units were expected" in text and "scan3.nii.gz: Hounsfield" in text
    # neither the wrong template nor the bad scans stand in the way of the right ones
    with pytest.raises(InputError, match="scan2.nii.gz: Hounsfield"):
        prepared(monkeypatch, folder, paths[2], [paths[1], *paths[4:]], [], made)
    prepared(monkeypatch, folder, paths[0], [paths[1], *paths[4:]], [], made)
    assert len(made) == 3
    save(synthetic.ball(noise=9), paths[3])
    made.clear()
    with pytest.raises(InputError, match="scan2.nii.gz: Hounsfield"):
        prepared(monkeypatch, folder, paths[0], paths[1:], [], made)
    assert made == [] and len(scan_files(folder / "train")) == 4  # as before
    prepared(monkeypatch, folder, paths[0], [paths[1], *paths[3:]], [], made)
    assert made == ["scan3.nii.gz"]


def test_what_a_propagator_lacks_is_told_first(tmp_path, monkeypatch, paths):
    made = []

    def check(path, settings):
        if path == paths[3]:
            raise InputError(f"{path.name}: no matrix")

    monkeypatch.setattr("RegCore.slicreg.folder_making.oversegment", synthetic.octants)
    propagator = Propagator("centres", counting(made).propagate, check)
    with pytest.raises(InputError, match="^scan3.nii.gz: no matrix$"):
        options = {"settings": synthetic.SETTINGS, "propagator": propagator}
        prepare_folder(tmp_path / "prepared", paths[0], paths[1:], **options)
    assert made == []


def test_settings_of_slic_reach_it_and_older_folders_have_their_defaults(tmp_path, monkeypatch, paths):
    given = {}

    def slic(image, mask, *, layers, count, progress, **rest):
        given.update(rest)
        return synthetic.octants(image, mask, layers=layers, count=count, progress=progress)

    monkeypatch.setattr("RegCore.slicreg.folder_making.oversegment", slic)
    own = {"compactness": 0.7, "iterations": 3, "spread": 0.1}
    settings = RegCore.slicreg.folder.FolderSettings(
        spacing=8.0, shape=synthetic.SHAPE, layers=2, count=8, margin=0.0, **own
    )
    folder = tmp_path / "prepared"
    options = {"settings": settings, "propagator": synthetic.PROPAGATOR}
    prepare_folder(folder, paths[0], paths[1:3], **options)
    assert given == {**own, "seed": 0}
    path = folder / "settings.json"
    record = json.loads(path.read_text())
    assert record["settings"].items() >= own.items()
    for name in own:
        del record["settings"][name]
    path.write_text(json.dumps(record))
    assert read_settings(folder)["settings"]["compactness"] == 1.5


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    path = tmp_path / "scan.npz"
    write_arrays(path, {"a": np.arange(5)})
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_making.np, "savez_compressed", full)
    with pytest.raises(InputError, match="scan.npz: can't be written"):
        write_arrays(path, {"a": np.arange(6)})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["scan.npz"]
