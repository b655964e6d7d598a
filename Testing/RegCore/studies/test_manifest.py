"""What a study consists of: manifests, folders, BIDS data sets, and what is wrong with them in a sentence."""

from pathlib import Path

import pytest

from RegCore.registration import METHODS
from RegCore.space.geometry import InputError
from RegCore.studies.bids import bids_names
from RegCore.studies.manifest import all_pairs, all_to_one, bids_rows, images_in, read_manifest, settings_from
from RegCore.studies.rows import Row, inputs_of, settings_of
from Testing.RegCore.studies.data import write_manifest

COMMON = Row("", {}, method="rigid", settings={"levels": 2}, seed=4)
NAMES = ("a.nii.gz", "b.nii", "sub/c.nrrd", "model.pt", "one.csv", "two.csv", "start.h5")


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def read(folder, text):
    (folder / "manifest.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(folder / "manifest.csv", COMMON, METHODS)


def test_rows_have_paths_beside_the_manifest_and_say_what_differs(folder, monkeypatch):
    monkeypatch.chdir("/")
    rows = read(
        folder,
        "moving,id,fixed,method,settings,landmarks,initial,fixed_mask\n"
        "b.nii,first,a.nii.gz,,,,,\n"
        "\n"
        'sub/c.nrrd,"zwei, ü<",a.nii.gz,affine,levels=3 quality=fast,one.csv|two.csv,centres,b.nii\n'
        f"b.nii,3,{folder}/a.nii.gz,./model.pt,refine=true,one.csv,start.h5,\n",
    )
    first, second, third = rows
    assert first == Row(
        "first", {"fixed": folder / "a.nii.gz", "moving": folder / "b.nii"}, "rigid", {"levels": 2}, 4
    )
    assert (
        second.id == "zwei, ü<" and second.method == "affine" and second.files["initial"] == Path("centres")
    )
    assert (
        second.settings == {"levels": 3, "quality": "fast"} and second.files["fixed_mask"] == folder / "b.nii"
    )
    assert second.files["landmarks"] == [folder / "one.csv", folder / "two.csv"]
    assert Path(third.method) == folder / "model.pt" and third.settings == {"levels": 2, "refine": True}
    inputs = inputs_of(second)
    assert set(inputs) == {"fixed", "moving", "landmarks", "landmarks 2", "fixed_mask"}
    assert settings_of(second)["initial"] == "centres" and settings_of(third)["initial"] == ""
    assert inputs_of(third)["method"] == folder / "model.pt" and settings_of(third)["method"] == "model"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_other_separators_and_a_mark_at_the_beginning_are_read(folder, separator):
    text = (
        separator.join(("id", "fixed", "moving"))
        + "\r\n"
        + separator.join(("x", "a.nii.gz", "b.nii"))
        + "\r\n"
    )
    assert [row.id for row in read(folder, b"\xef\xbb\xbf" + text.encode())] == ["x"]


HEAD = "id,fixed,moving,method,settings,landmarks\n"
GOOD = "x,a.nii.gz,b.nii,,,\n"
BAD = {
    "": "row 1: the column id is missing",
    "id,fixed\nx,a.nii.gz\n": "row 1: the column moving is missing; there are id, fixed",
    "id,fixed,moving,movingseg\n": "row 1: the column 'movingseg' is none of .*did you mean moving_seg",
    "id,fixed,moving,id\n": "row 1: the column id is there twice",
    HEAD: "has no rows",
    HEAD + "x,a.nii.gz\n": "row 2: 6 cells were expected, not 2",
    HEAD + GOOD + "y,,b.nii,,,\n": "row 3, column fixed: is empty",
    HEAD + GOOD + ",a.nii.gz,b.nii,,,\n": "row 3, column id: is empty",
    HEAD + GOOD + "y,a.nii.gz,gone.nii,,,\n": "row 3, column moving: there is no file .*gone.nii",
    HEAD + GOOD + "X,a.nii.gz,b.nii,,,\n": "row 3, column id: 'X' is there already, in row 2",
    HEAD + "../x,a.nii.gz,b.nii,,,\n": "row 2, column id: '../x' can't be the name of a folder",
    HEAD + "x" * 400 + ",a.nii.gz,b.nii,,,\n": "row 2, column id: 'x{59}…' can't be the name of a folder$",
    "id,fixed,moving,moving_seg\nx,a.nii.gz,b.nii,b.nii\n": "row 2, column fixed_seg: is empty, but",
    "id,fixed,moving,fixed_seg,moving_seg\nx,a.nii.gz,b.nii,b.nii,\n": "column moving_seg: is empty, but",
    "\0" * 3000: "row 1: the column id is missing; there are .{200}$",
    HEAD + ".x,a.nii.gz,b.nii,,,\n": "row 2, column id: '.x' can't be",
    HEAD + "x,a.nii.gz,b.nii,rigit,,\n": "row 2, column method: the method is 'rigit', .*did you mean rigid",
    HEAD + "x,a.nii.gz,b.nii,gone.pt,,\n": "row 2, column method: there is no file .*gone.pt",
    HEAD + "x,a.nii.gz,b.nii,,levels,\n": "row 2, column settings: KEY=VALUE was expected, not 'levels'",
    HEAD + "x,a.nii.gz,b.nii,,a=NaN,\n": "row 2, column settings: a finite number was expected for a",
    HEAD + "x,a.nii.gz,b.nii,,a=1e999,\n": "row 2, column settings: a finite number was expected",
    HEAD
    + "x,a.nii.gz,b.nii,,,one.csv|two.csv|one.csv\n": "row 2, column landmarks: one file or two .* not 3",
    HEAD + 'x,"a.nii.gz,b.nii\n': "can't be read",
    b"id,fixed,moving\n\xff\xfe,a,b\n": "can't be read",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_manifest_gets_a_sentence_with_row_and_column(folder, text):
    with pytest.raises(InputError, match=BAD[text]) as caught:
        read(folder, text)
    assert str(caught.value).startswith(f"{folder}/manifest.csv") and "\n" not in str(caught.value)


def test_an_absent_manifest_is_named(tmp_path):
    with pytest.raises(InputError, match="gone.csv: this manifest can't be read .No such file"):
        read_manifest(tmp_path / "gone.csv", COMMON, METHODS)


def test_quotes_and_line_breaks_in_cells_count_as_a_spreadsheet_counts(folder):
    path = write_manifest(folder, [("id", "fixed", "moving"), ('a"b', "a.nii.gz", "b.nii")])
    assert read_manifest(path, COMMON, METHODS)[0].id == 'a"b'


def test_settings_are_numbers_words_and_switches():
    assert settings_from(["a=1", "b=2.5", "c=x=y", "d=true", "e=null"]) == {
        "a": 1, "b": 2.5, "c": "x=y", "d": True, "e": None,
    }  # fmt: skip


# ---- folders -----------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    names = ("b.nii.gz", "a.nii.gz", "a_seg.nii.gz", "b.seg.nrrd", "b_mask.nii", "deep/c.mha", "notes.txt")
    for name in (*names, ".hidden.nii", ".git/d.nii", "lone_seg.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_images_of_a_folder_come_with_the_files_beside_them(images):
    assert images_in(images) == {
        "a": {"image": images / "a.nii.gz", "seg": images / "a_seg.nii.gz"},
        "b": {"image": images / "b.nii.gz", "seg": images / "b.seg.nrrd", "mask": images / "b_mask.nii"},
        "deep_c": {"image": images / "deep" / "c.mha"},
        "lone_seg": {"image": images / "lone_seg.nii"},
    }
    (images / "a.mha").write_text("")
    with pytest.raises(InputError, match="a.nii.gz: has the same name as .*a.mha"):
        images_in(images)


def test_every_two_images_are_a_pair_once(images):
    rows = all_pairs(images, COMMON)
    names = ["a", "b", "deep_c", "lone_seg"]
    assert [row.id for row in rows] == [f"{m}-to-{f}" for i, f in enumerate(names) for m in names[i + 1 :]]
    first = rows[0]
    assert first.files == {
        "fixed": images / "a.nii.gz",
        "moving": images / "b.nii.gz",
        "fixed_seg": images / "a_seg.nii.gz",
        "moving_seg": images / "b.seg.nrrd",
        "moving_mask": images / "b_mask.nii",
    }
    assert first.method == "rigid" and first.seed == 4 and set(rows[1].files) == {"fixed", "moving"}


def test_all_but_the_fixed_image_are_moved(images):
    rows = all_to_one(images / "a.nii.gz", images, COMMON)
    assert [row.id for row in rows] == ["b", "deep_c", "lone_seg"]
    assert {row.files["fixed"] for row in rows} == {images / "a.nii.gz"} and "moving_seg" not in rows[0].files
    segmented = Row("", {"fixed_seg": images / "a_seg.nii.gz"})
    assert all_to_one(images / "a.nii.gz", images, segmented)[0].files["moving_seg"] == images / "b.seg.nrrd"


@pytest.mark.parametrize("ask", [images_in, lambda folder: all_pairs(folder, COMMON)])
def test_folders_without_images_are_named(tmp_path, ask):
    with pytest.raises(InputError, match="gone: there is no such folder"):
        ask(tmp_path / "gone")
    with pytest.raises(InputError, match="there is no image in this folder"):
        ask(tmp_path)
    (tmp_path / "a.nii").write_text("")
    with pytest.raises(InputError, match="no image besides the fixed one"):
        all_to_one(tmp_path / "a.nii", tmp_path, COMMON)


@pytest.fixture
def dataset(tmp_path):
    for name in (
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_run-1_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_run-2_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T2w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/anat/notes_T1w.nii.gz",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_a_bids_data_set_is_registered_within_subjects_or_to_one_image(dataset):
    within = bids_rows(dataset, "T1w", None, COMMON)
    assert [row.id for row in within] == ["sub-01_ses-2_run-1_T1w", "sub-01_ses-2_run-2_T1w"]
    assert {row.files["fixed"] for row in within} == {dataset / "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"}
    template = dataset.parent / "MNI 152.nii"
    to_one = bids_rows(dataset, "T1w", template, COMMON)
    assert [row.id for row in to_one][-1] == "sub-02_T1w" and len(to_one) == 4
    names = bids_names(to_one[-1])
    assert names["transform.h5"] == "sub-02/anat/sub-02_from-T1w_to-MNI152_mode-image_xfm.h5"
    assert names["inverse.h5"] == "sub-02/anat/sub-02_from-MNI152_to-T1w_mode-image_xfm.h5"
    assert names["warped.nii.gz"] == "sub-02/anat/sub-02_space-MNI152_T1w.nii.gz"
    with pytest.raises(InputError, match="no image sub-…_bold.nii.gz"):
        bids_rows(dataset, "bold", None, COMMON)
    with pytest.raises(InputError, match="no subject has two images T2w; name one with --fixed"):
        bids_rows(dataset, "T2w", None, COMMON)
