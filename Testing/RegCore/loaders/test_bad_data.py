"""Data that can't be used: one sentence for each kind, which names the file; one bad file may be skipped."""

import gzip
import logging
import re
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from RegCore.loaders import batches, make_loader
from RegCore.space.geometry import InputError
from Testing.RegCore.loaders import data


def remove(*parts):
    return lambda folder: folder.joinpath(*parts).unlink()


def replace(top: str, name: str, array) -> callable:
    return lambda folder: data.put(folder, "nifti", top, name, array)


def without_key(file: str, key: str):
    def damage(folder):
        with h5py.File(folder / file, "a") as opened:
            del opened[key]

    return damage


def with_key(file: str, key: str, value):
    def damage(folder):
        with h5py.File(folder / file, "a") as opened:
            if key in opened:
                del opened[key]
            opened[key] = value

    return damage


def with_group(file: str, key: str):
    def damage(folder):
        with h5py.File(folder / file, "a") as opened:
            del opened[key]
            opened.create_group(key)

    return damage


def cut(*parts, keep: float = 0.6):
    def damage(folder):
        path = folder.joinpath(*parts)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])

    return damage


def flip_a_bit(*parts):
    def damage(folder):
        path = folder.joinpath(*parts)
        content = bytearray(path.read_bytes())
        content[-6] ^= 8  # in the checksum
        path.write_bytes(content)

    return damage


def as_text(*parts):
    return lambda folder: folder.joinpath(*parts).write_text("no image")


def as_folder(*parts):
    def damage(folder):
        folder.joinpath(*parts).unlink()
        folder.joinpath(*parts).mkdir()

    return damage


def uncompressed_and_cut(folder):
    path = folder / "images" / "obs1.nii.gz"
    whole = gzip.decompress(path.read_bytes())
    path.with_suffix("").write_bytes(whole[:-10])
    path.unlink()


def emptied(*parts):
    def damage(folder):
        shutil.rmtree(folder.joinpath(*parts))
        folder.joinpath(*parts).mkdir()

    return damage


def in_place(old: str, new: str):
    """A file or a folder that stands in place of the other kind."""

    def damage(folder):
        if (folder / old).is_dir():
            shutil.rmtree(folder / old)
            (folder / new).touch()
        else:
            (folder / old).unlink()
            (folder / new).mkdir()

    return damage


NAN = data.image(0)
NAN[1, 2, 3] = np.nan
BOX = np.ones(data.SHAPE, np.uint8)
TWO = np.stack([BOX, BOX], -1)
AT_START, AT_READING = "when the loader is made", "when the file is read"
TABLE = {
    "missing label": ("unpaired", "nifti", remove("labels", "obs2.nii.gz"), AT_START,
                      r"images/obs2.nii.gz: has no counterpart among the labels \(4 images, 3 labels\)"),
    "label without image": ("unpaired", "nifti", remove("images", "obs2.nii.gz"), AT_START,
                            r"labels/obs2.nii.gz: has no counterpart among the images"),
    "missing label of a group": ("grouped", "nifti", remove("labels", "2", "1.nii.gz"), AT_START,
                                 r"images/2/1.nii.gz: has no counterpart among the labels"),
    "different counts": ("paired", "nifti", remove("moving_images", "obs1.nii.gz"), AT_START,
                         r"fixed_images/obs1.nii.gz: has no counterpart among the moving images "
                         r"\(. fixed images, . moving images\)"),
    "missing key": ("paired", "h5", without_key("moving_labels.h5", "obs1"), AT_START,
                    r"fixed_images.h5: the key 'obs1': has no counterpart among the moving labels"),
    "wrong key": ("grouped", "h5", with_key("images.h5", "patient1", BOX), AT_START,
                  r"images.h5: the keys of groups must be 'group-<number>-<number>', not 'patient1'"),
    "h5 group in place of a volume": ("unpaired", "h5", with_group("images.h5", "obs1"), AT_START,
                                      r"images.h5: the key 'obs1' can't be read .*, but it is a group"),
    "text in h5": ("unpaired", "h5", with_key("images.h5", "obs1", "text"), AT_START,
                   r"images.h5: the key 'obs1' must hold real numbers"),
    "2-D image in h5": ("unpaired", "h5", with_key("images.h5", "obs1", BOX[0]), AT_START,
                        r"images.h5: the key 'obs1' must hold a 3-D volume, not \(8, 9\)"),
    "missing h5 file": ("unpaired", "h5", remove("labels.h5"), AT_START, r"labels.h5: there is no such file"),
    "truncated h5": ("unpaired", "h5", cut("images.h5"), AT_START,
                     r"images.h5: not an HDF5 file, or a damaged one \(.*truncated"),
    "text in place of h5": ("unpaired", "h5", as_text("images.h5"), AT_START, r"images.h5: not an HDF5 file"),
    "folder in place of h5": ("unpaired", "h5", as_folder("images.h5"), AT_START, r"images.h5: .*folder"),
    "label above 1": ("unpaired", "nifti", replace("labels", "obs1", TWO * 3), AT_READING,
                      r"labels/obs1.nii.gz: a label must have values from 0 to 1, one channel for each "
                      r"structure, but they go from 3 to 3"),
    "label below 0": ("paired", "nifti", replace("moving_labels", "obs1", TWO * -0.5), AT_READING,
                      r"moving_labels/obs1.nii.gz: .*from -0.5 to -0.5"),
    "label not finite": ("unpaired", "nifti", replace("labels", "obs1", TWO * np.nan), AT_READING,
                         r"labels/obs1.nii.gz: .*from nan to nan"),
    "image not finite": ("unpaired", "nifti", replace("images", "obs1", NAN), AT_READING,
                         r"images/obs1.nii.gz: all voxels must be finite"),
    "empty folder": ("unpaired", "nifti", emptied("images"), AT_START, r"images: there is no file .nii.gz"),
    "missing folder": ("paired", "nifti", lambda f: shutil.rmtree(f / "fixed_labels"), AT_START,
                       r"fixed_labels: the folder is missing, which should hold the fixed labels"),
    "h5 files as nifti": ("unpaired", "nifti", in_place("images", "images.h5"), AT_START,
                          r"images: the folder is missing, .*but images.h5 is there: is the format h5\?"),
    "folders as h5": ("unpaired", "h5", in_place("images.h5", "images"), AT_START,
                      r"images.h5: there is no such file, but a folder images: is the format nifti\?"),
    "groups without folders": ("grouped", "nifti", replace("images", "obs", BOX), AT_START,
                               r"images/obs.nii.gz: grouped images must lie in a folder for each group"),
    "image with channels": ("unpaired", "nifti", replace("images", "obs1", TWO), AT_START,
                            r"obs1.nii.gz: one 3-D image was expected, but its shape is \(7, 8, 9, 2\)"),
    "2-D image": ("unpaired", "nifti", replace("images", "obs1", BOX[0]), AT_START,
                  r"images/obs1.nii.gz: .*2-D "),
    "2-D label": ("unpaired", "nifti", replace("labels", "obs1", BOX[0]), AT_START,
                  r"labels/obs1.nii.gz: .*2-D"),
    "numbers of labels of a pair": ("paired", "nifti", replace("moving_labels", "obs1", BOX), AT_START,
                                    r"fixed_labels/obs1.nii.gz has 2 and .*moving_labels/obs1.nii.gz has 1"),
    "numbers of labels": ("unpaired", "nifti", replace("labels", "obs1", BOX), AT_START,
                          r"labels/obs0.nii.gz has 2 and .*labels/obs1.nii.gz has 1"),
    "corrupt gzip": ("unpaired", "nifti", flip_a_bit("images", "obs1.nii.gz"), AT_READING,
                     r"images/obs1.nii.gz: the compressed data are damaged"),
    "truncated gzip": ("unpaired", "nifti", cut("images", "obs1.nii.gz"), AT_START,
                       r"images/obs1.nii.gz: the file is cut short"),
    "truncated nifti": ("unpaired", "nifti", uncompressed_and_cut, AT_START, r"images/obs1.nii: .*cut short"),
    "empty file": ("unpaired", "nifti", lambda f: (f / "images/obs1.nii.gz").write_bytes(b""), AT_START,
                   r"images/obs1.nii.gz: the file is empty"),
    "text": ("unpaired", "nifti", as_text("images", "obs1.nii.gz"), AT_START,
             r"images/obs1.nii.gz: not an image"),
    "two files of one name": ("unpaired", "nifti", lambda f: shutil.copy(
        f / "images/obs1.nii.gz", f / "images/obs1.nii"), AT_START,
        r"obs1.nii.gz: has the same name as obs1.nii"),
}  # fmt: skip


ONE_FILE = [case for case, (_, form, _, _, text) in TABLE.items() if form == "nifti" and "obs1" in text]
ONE_FILE = [case for case in ONE_FILE if not case.startswith(("numbers", "two files"))]


def read_all(loader):
    return [loader.load(sample) for sample in loader.samples()]


@pytest.mark.parametrize("case", TABLE)
def test_each_kind_of_bad_data_has_its_sentence(case, tmp_path):
    kind, form, damage, when, sentence = TABLE[case]
    data.write(tmp_path, kind, form, channels=2)
    damage(tmp_path)
    section = data.dataset(kind, form, tmp_path, labeled=True, sample_label="all", seed=0)
    if when == AT_READING:
        loader = make_loader(section, "train")
        with pytest.raises(InputError) as caught:
            list(batches(loader, batch_size=2))
    else:
        with pytest.raises(InputError) as caught:
            make_loader(section, "train")
    text = str(caught.value)
    assert text.startswith(str(tmp_path)) or text.startswith("images that meet must have the same number")
    assert text.count("\n") == 0 and len(text) < 400
    assert re.search(sentence, text), text


@pytest.mark.parametrize("case", ONE_FILE)
def test_one_bad_file_can_be_skipped_and_is_named(case, tmp_path, caplog):
    kind, form, damage, _, sentence = TABLE[case]
    data.write(tmp_path, kind, form, channels=2, count=5)
    damage(tmp_path)
    section = data.dataset(kind, form, tmp_path, labeled=True, seed=0, skip_bad_files=True)
    with caplog.at_level(logging.WARNING):
        loader = make_loader(section, "train")
    assert "obs1" not in {name[-1] for name in loader.fixed.images.names}
    assert len(loader.fixed) == len(loader.moving) == 4
    assert any(re.search(sentence, record.getMessage()) for record in caplog.records)
    assert len(read_all(loader)) == len(loader)


def test_one_unreadable_file_among_a_thousand(tmp_path, caplog):
    (tmp_path / "images").mkdir()
    nibabel.save(
        nibabel.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4)), tmp_path / "a.nii"
    )
    content = (tmp_path / "a.nii").read_bytes()
    for number in range(1000):
        (tmp_path / "images" / f"obs{number:04}.nii").write_bytes(content)
    (tmp_path / "images" / "obs0777.nii").write_bytes(b"\0" * 500)
    section = data.dataset("unpaired", "nifti", tmp_path, labeled=False)
    with pytest.raises(InputError, match="obs0777.nii: not an image"):
        make_loader(section, "train")
    with caplog.at_level(logging.WARNING):
        loader = make_loader(section | {"skip_bad_files": True}, "train")
    assert len(loader.fixed) == 999 and [
        r.getMessage() for r in caplog.records if "obs0777.nii" in r.getMessage()
    ]
    assert len(caplog.records) == 1


def test_a_damaged_h5_file_among_several_folders_can_be_skipped(tmp_path, caplog):
    for name in ("a", "b"):
        data.write(tmp_path / name, "unpaired", "h5", channels=1)
    cut("images.h5")(tmp_path / "b")
    folders = [tmp_path / "a", tmp_path / "b"]
    section = data.dataset("unpaired", "h5", folders, labeled=True)
    with pytest.raises(InputError, match="b/images.h5: not an HDF5"):
        make_loader(section, "train")
    with caplog.at_level(logging.WARNING):
        loader = make_loader(section | {"skip_bad_files": True}, "train")
    assert {name[0] for name in loader.fixed.images.names} == {str(tmp_path / "a")}
    assert any("b/images.h5" in record.getMessage() for record in caplog.records)


def test_if_nothing_is_left_that_is_said(tmp_path):
    data.write(tmp_path, "unpaired", "nifti", count=2)
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"bad")
    section = data.dataset("unpaired", "nifti", tmp_path, labeled=False, skip_bad_files=True)
    with pytest.raises(InputError, match="none of the images can be used"):
        make_loader(section, "train")


def test_a_single_unpaired_image_is_refused(tmp_path):
    data.write(tmp_path, "unpaired", "nifti", count=1)
    with pytest.raises(InputError, match="obs0.nii.gz: unpaired images need at least two images"):
        make_loader(data.dataset("unpaired", "nifti", tmp_path, labeled=False), "train")


def test_labels_on_another_grid_are_told_once(tmp_path, caplog):
    data.write(tmp_path, "unpaired", "nifti", channels=1)
    for number in (1, 3):
        data.put(tmp_path, "nifti", "labels", f"obs{number}", data.label(0, 1), np.eye(4) * 1.5)
    with caplog.at_level(logging.WARNING):
        make_loader(data.dataset("unpaired", "nifti", tmp_path, labeled=True), "train")
    (record,) = caplog.records
    assert "are made to fill: 2 (" in record.getMessage() and "obs1.nii.gz" in record.getMessage()


def section(tmp_path: Path, **changes) -> dict:
    part = {"dir": str(tmp_path), "format": "nifti", "labeled": False} | changes.pop("train", {})
    made = {"type": "unpaired", "image_shape": [4, 4, 4], "train": part} | changes
    return {key: value for key, value in made.items() if value is not ...}


CONFIGURATIONS = {
    "folder": ({"train": {"dir": "no/such"}}, r"dataset.train.dir: there is no folder 'no/such'"),
    "folder twice": ({"train": {"dir": ["@", "@"]}}, r"dataset.train.dir: the folder '.*' is named twice"),
    "folder no text": ({"train": {"dir": 3}}, r"dataset.train.dir: a folder or a list of folders .*it is 3"),
    "split no mapping": ({"train": "@"}, r"dataset.train: the keys dir, format and labeled were expected"),
    "format": ({"train": {"format": "nifty"}}, r"dataset.train: the format is 'nifty', .* mean nifti"),
    "no format": ({"train": {"format": None}}, r"dataset.train: the format is missing, .* one of nifti"),
    "labeled": ({"train": {"labeled": None}}, r"dataset.train.labeled: true or false was expected.* None"),
    "labeled text": ({"train": {"labeled": "yes"}}, r"dataset.train.labeled: true or false .* 'yes'"),
    "type": ({"type": "pared"}, r"dataset: the type is 'pared', .* did you mean paired"),
    "no type": ({"type": ...}, r"dataset: the type is missing, expected one of paired, unpaired, grouped"),
    "unknown key": ({"image_shap": 1}, r"no argument 'image_shap', .* mean image_shape"),
    "key of another type": ({"type": "paired"}, r"dataset: the type paired has no argument 'image_shape'"),
    "missing key": ({"image_shape": ...}, r"dataset.image_shape: the key is missing, which unpaired"),
    "shape of two": ({"image_shape": [8, 8]}, r"image_shape must be three positive whole numbers .*\[8, 8\]"),
    "shape of fractions": ({"image_shape": [8, 8, 0.5]}, r"image_shape must be three positive whole numbers"),
    "shape of nothing": ({"image_shape": [8, 0, 8]}, r"image_shape must be three positive whole numbers"),
    "sample_label": ({"sample_label": "some"}, r"sample_label must be 'sample' or 'all', but it is 'some'"),
    "seed": ({"seed": 1.5}, r"seed must be a whole number or null, but it is 1.5"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_each_mistake_of_a_configuration_has_its_sentence(case, tmp_path):
    changes, sentence = CONFIGURATIONS[case]
    data.write(tmp_path, "unpaired", "nifti", count=2)
    given = section(tmp_path, **{k: v for k, v in changes.items() if not isinstance(v, str) or k != "train"})
    if isinstance(changes.get("train"), str):
        given["train"] = str(tmp_path)
    if given["train"] and isinstance(given["train"], dict) and given["train"]["dir"] == ["@", "@"]:
        given["train"]["dir"] = [str(tmp_path)] * 2
    with pytest.raises(InputError, match=sentence):
        make_loader(given, "train")


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(InputError, match="the split is 'val', .* train, valid, test, did you mean valid"):
        make_loader(section(tmp_path), "val")
