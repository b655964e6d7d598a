"""Predictions of networks that DeepReg trained: its tables, trees, tensors, slices from its checkpoints."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from RegCore.training.predict import Predicted, predict
from Testing.paths import DATA, DEEPREG
from Testing.RegCore.training.sets import figures

RECORDED = json.loads((DATA / "golden" / "prediction.json").read_text(encoding="utf-8"))
CASES = ("paired_affine", "unpaired_ddf")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Predictions of the checkpoints, made where the paths in their configurations begin."""
    made: dict[str, Predicted] = {}

    def predicted(case: str) -> tuple[Path, Path]:
        if case not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(DEEPREG)
                made[case] = predict(
                    DEEPREG / "trained" / case / "train" / "save" / "ckpt-2",
                    split="test",
                    log_dir=tmp_path_factory.mktemp("logs"),
                    exp_name=case,
                    save_png=case == "paired_affine",
                    device="cpu",
                )
        return made[case].folder, DEEPREG / "trained" / case / "predicted" / "test"

    return predicted


@pytest.mark.parametrize("case", CASES)
def test_every_file_of_deepreg_is_there(done, case):
    folder, theirs = done(case)
    assert {name for name in RECORDED[case]["files"] if not (folder / name).is_file()} == set()
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    more = {name.rpartition("/")[2] for name in found - set(RECORDED[case]["files"])}
    assert more == {"metrics_mm.csv", "transform.h5", "warped.nii.gz", "warped_label.nii.gz"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("table", ["metrics", "metrics_stats_per_label", "metrics_stats_overall"])
def test_tables_are_those_of_deepreg(done, case, table):
    """The same header, lines and indices; figures to a ten-thousandth."""
    folder, theirs = done(case)
    ours, wanted = (figures(place / f"{table}.csv") for place in (folder, theirs))
    assert [list(line) for line in ours] == [list(line) for line in wanted]
    for line, recorded in zip(ours, wanted, strict=True):
        for name, text in recorded.items():
            if name in ("", "pair_index", "label_index") or not text:
                assert line[name] == text
            else:
                assert float(line[name]) == pytest.approx(float(text), rel=1e-4, abs=1e-9), name
    first = [(place / f"{table}.csv").read_bytes().split(b"\n")[0] for place in (folder, theirs)]
    assert first[0] == first[1]


@pytest.mark.parametrize("case", CASES)
def test_tensors_are_those_of_deepreg(done, case):
    folder, theirs = done(case)
    paths = [path.relative_to(theirs) for path in theirs.rglob("*.nii.gz")]
    assert len(paths) >= 13
    for path in paths:
        ours, wanted = (nibabel.load(place / path) for place in (folder, theirs))
        assert ours.get_data_dtype() == wanted.get_data_dtype() == np.float32
        np.testing.assert_allclose(ours.get_fdata(), wanted.get_fdata(), atol=2e-6, err_msg=str(path))
    for path in theirs.rglob("affine.txt"):
        ours, wanted = ((place / path.relative_to(theirs)).read_text() for place in (folder, theirs))
        assert [len(line.split(",")) for line in ours.splitlines()] == 4 * [3]
        found, recorded = (
            np.array([line.split(",") for line in text.splitlines()], float) for text in (ours, wanted)
        )
        np.testing.assert_allclose(found, recorded, atol=1e-7)


def test_slices_are_those_of_deepreg(done):
    """To one of 256 shades: Matplotlib's grey map rounds some of them down."""
    folder, theirs = done("paired_affine")
    paths = [path.relative_to(theirs) for path in theirs.rglob("*.png")]
    assert len(paths) == 272
    for path in paths:
        ours, wanted = (np.asarray(Image.open(place / path)).astype(int) for place in (folder, theirs))
        assert ours.shape == wanted.shape
        assert np.abs(ours - wanted).max() <= 1, path
        if "ddf" in path.name:
            np.testing.assert_array_equal(ours, wanted)
