"""``regcore template`` and ``propagate``: the files they write, and what they say of bad input."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import RegCore
from RegCore.cli import main
from RegCore.io import load_voxels
from RegCore.samples.phantom import LABELS
from RegCore.space.geometry import InputError
from RegCore.space.volume import Segment
from RegCore.studies.group_outputs import names_of
from Testing.RegCore.studies.patients import make_patients

NAMED = tuple(Segment(label, name) for label, name in LABELS.items())


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with three patients, their segmentations with names and without."""
    folder = tmp_path_factory.mktemp("patients")
    patients = make_patients(3, (15, 14, 13))
    for number, (image, labels) in enumerate(zip(patients.scans, patients.labels, strict=True)):
        RegCore.save(image, folder / f"p{number}.nii.gz")
        RegCore.save(labels, folder / f"p{number}_seg.nii.gz")
        RegCore.save(replace(labels, segments=NAMED), folder / f"p{number}.seg.nrrd")
    return folder


def run(*arguments) -> int:
    return main([*(str(argument) for argument in arguments), "--device", "cpu"])


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_template_with_its_atlas(given, tmp_path, capsys):
    scans = [given / f"p{n}.nii.gz" for n in range(3)]
    segs = [given / f"p{n}.seg.nrrd" for n in range(3)]
    assert run("template", "--scans", *scans, "--segs", *segs, "--method", "affine", "--out", tmp_path) == 0
    made = RegCore.build_template([RegCore.load(path) for path in scans], method="affine", device="cpu")
    np.testing.assert_allclose(RegCore.load(tmp_path / "template.nii.gz").array, made.image.array, rtol=1e-5)
    for number in range(3):
        name = f"p{number}.h5"
        forth = RegCore.load(tmp_path / "transforms" / name, "transform")
        back = RegCore.load(tmp_path / "inverses" / name, "transform")
        np.testing.assert_allclose(forth.matrix, made.transforms[number].matrix, atol=1e-9)
        np.testing.assert_allclose(forth.matrix @ back.matrix, np.eye(4), atol=1e-9)
    labels = RegCore.load(tmp_path / "template_seg.seg.nrrd", "labels")
    assert {segment.name for segment in labels.segments} == set(LABELS.values())
    about = json.loads((tmp_path / "template.json").read_text(encoding="utf-8"))
    shares, grid = load_voxels(tmp_path / "probabilities.nii.gz")
    assert shares.shape == (*grid.shape, len(about["channels"])) and grid.is_close(labels.geometry)
    assert np.unique(np.round(shares * 3)).tolist() == [0, 1, 2, 3]
    table = rows_of(tmp_path / "scans.csv")
    assert [row["scan"] for row in table] == ["p0", "p1", "p2"]
    assert all(float(row["dice"]) > 0.5 and float(row["fold_percent"]) == 0 for row in table)
    assert rows_of(tmp_path / "rounds.csv")[0]["round"] == "0"
    with Image.open(tmp_path / "template.png") as picture:
        assert len(np.unique(np.asarray(picture))) > 50
    assert "affine" in capsys.readouterr().out


def test_labels_of_atlases(given, tmp_path, capsys):
    atlases, segs = ([given / f"p{n}{end}" for n in (1, 2)] for end in (".nii.gz", ".seg.nrrd"))
    command = ["propagate", "--scan", given / "p0.nii.gz", "--atlases", *atlases, "--atlas-segs", *segs]
    command += ["--seg", given / "p0_seg.nii.gz", "--method", "affine", "--out", tmp_path]
    assert run(*command) == 0
    said = capsys.readouterr().out
    found = RegCore.load(tmp_path / "propagated_seg.seg.nrrd", "labels")
    assert {s.label: s.name for s in found.segments} == LABELS
    about = json.loads((tmp_path / "propagate.json").read_text(encoding="utf-8"))
    assert set(about["dice"]) <= set(LABELS.values()) and 0.5 < about["dice_mean"] <= 1
    assert f"Dice {about['dice_mean']:.3f}" in said and "right lung" in said
    table = rows_of(tmp_path / "atlases.csv")
    assert [row["atlas"] for row in table] == ["p1", "p2"]
    assert sum(float(row["weight"]) for row in table) == pytest.approx(1, abs=1e-4)
    share = RegCore.load(tmp_path / "agreement.nii.gz")
    assert share.array.min() > 0.49 and share.array.max() == 1
    for name in ("p1", "p2"):
        RegCore.load(tmp_path / "transforms" / f"{name}.h5", "transform")


def test_scans_and_atlases_that_fit_nothing_are_named(given, tmp_path, capsys):
    image = RegCore.load(given / "p2.nii.gz")
    noise = np.random.default_rng(0).normal(size=image.array.shape).astype(np.float32)
    RegCore.save(replace(image, array=noise), tmp_path / "noise.nii.gz")
    images = [given / "p1.nii.gz", tmp_path / "noise.nii.gz"]
    command = ["propagate", "--scan", given / "p0.nii.gz", "--atlases", *images, "--atlas-segs"]
    command += [given / "p1_seg.nii.gz", given / "p2_seg.nii.gz", "--method", "rigid", "--out", tmp_path]
    assert run(*command) == 0
    command = ["template", "--scans", given / "p0.nii.gz", *images, "--method", "rigid", "--out", tmp_path]
    said = capsys.readouterr().err
    assert said.count("WARNING") == 1 and "noise: the registration has probably failed" in said
    assert run(*command) == 0
    said = capsys.readouterr().err
    assert said.count("WARNING") == 1 and "noise: the registration has probably failed" in said
    for name in ("atlases.csv", "scans.csv"):
        *good, bad = rows_of(tmp_path / name)
        assert bad["verdict"] == "doubtful" and bad["notes"].startswith("the registration has probably")
        assert all(row["verdict"] != "doubtful" and row["notes"] == "" for row in good)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("template --scans p0.nii.gz", "at least two scans, but there are 1"),
        ("template --scans p0.nii.gz gone.nii.gz", "gone.nii.gz: there is no such file"),
        ("template --scans p0.nii.gz p0.nii.gz", "p0.nii.gz: the file is named twice"),
        (
            "template --scans p0.nii.gz p1.nii.gz --segs p0.seg.nrrd",
            "--segs: one segmentation for each",
        ),
        ("template --scans p0.nii.gz p1.nii.gz --sharpen nan", "--sharpen: a number was expected, not 'nan'"),
        ("template --scans p0.nii.gz p1.nii.gz --tolerance -1", "tolerance is -1.0, expected"),
        ("template --scans p0.nii.gz p1.nii.gz --grid gone.nii", "gone.nii: there is no such file"),
        (
            "propagate --scan p0.nii.gz --atlases p1.nii.gz --atlas-segs p1.nii.gz",
            "a label map must hold",
        ),
        (
            "propagate --scan p0.nii.gz --atlases p1.nii.gz --atlas-segs p1.seg.nrrd --fusion loca",
            "did you mean local?",
        ),
        (
            "propagate --scan p0.nii.gz --atlases p1.nii.gz p2.nii.gz --atlas-segs p1.seg.nrrd",
            "one segmentation for each of 2 images was expected",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(given, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(given)
    assert run(*arguments.split(), "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert words in said and said.startswith("regcore: error: ") and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_names_of_files_differ(tmp_path):
    a, b = tmp_path / "sub-01" / "T1w.nii.gz", tmp_path / "sub-02" / "T1w.nii.gz"
    assert names_of([a, b]) == ["sub-01_T1w", "sub-02_T1w"]
    assert names_of([a, tmp_path / "sub-02" / "T2w.nrrd"]) == ["T1w", "T2w"]
    deep = [tmp_path / x / "anat" / "T1w.nii" for x in ("one", "two")]
    assert names_of(deep) == ["one_anat_T1w", "two_anat_T1w"]
    with pytest.raises(InputError, match="the file is named twice"):
        names_of([a, a])


@pytest.mark.parametrize("place", ["template.nii.gz", "inverses/a.nii.gz"])
@pytest.mark.parametrize("role", ["--scans", "--grid"])
def test_no_template_takes_the_place_of_what_it_is_made_of(given, tmp_path, capsys, place, role):
    own = tmp_path / place
    own.parent.mkdir(exist_ok=True)
    own.write_bytes((given / "p0.nii.gz").read_bytes())
    scans = [given / "p1.nii.gz", own if role == "--scans" else given / "p2.nii.gz"]
    grid = ["--grid", own] if role == "--grid" else []
    assert run("template", "--scans", *scans, *grid, "--method", "rigid", "--out", tmp_path) == 2
    assert f"{own}: a result in {tmp_path} would take its place; choose another" in capsys.readouterr().err
    assert own.read_bytes() == (given / "p0.nii.gz").read_bytes()


@pytest.mark.parametrize("role", ["scan", "atlas", "segmentation"])
def test_no_labels_take_the_place_of_what_they_are_made_of(given, tmp_path, capsys, role):
    own = tmp_path / "propagated_seg.nii.gz"
    own.write_bytes((given / ("p0_seg.nii.gz" if role == "segmentation" else "p0.nii.gz")).read_bytes())
    before = own.read_bytes()
    files = {
        "scan": given / "p1.nii.gz",
        "atlas": given / "p0.nii.gz",
        "segmentation": given / "p0_seg.nii.gz",
    }
    files[role] = own
    command = ["propagate", "--scan", files["scan"], "--atlases", files["atlas"]]
    assert run(*command, "--atlas-segs", files["segmentation"], "--method", "rigid", "--out", tmp_path) == 2
    assert "would take its place; choose another" in capsys.readouterr().err
    assert own.read_bytes() == before
