"""DeepReg's own configurations and data, unchanged, through its commands, from inside its folder.

Every data file is met once with each kind of labels and each method at least once; `pytest --all-merges` runs
every combination.
"""

import csv
import shutil
from pathlib import Path

import pytest

from RegCore.cli import deepreg
from Testing.paths import DEEPREG

DATA = [f"{kind}_{form}" for kind in ("paired", "unpaired", "grouped") for form in ("h5", "nifti")]
DATA += ["unpaired_nifti_multi_dirs", "unpaired_nifti_no_valid"]
METHODS = (("ddf",), ("ddf", "dvf"), ("affine",), ("ddf", "conditional"))
SOME = [(data, METHODS[i % 4], "labeled") for i, data in enumerate(DATA)]
SOME += [(data, METHODS[(i + 1) % 3], "unlabeled") for i, data in enumerate(DATA)]
ALL = [(d, m, k) for d in DATA for m in METHODS for k in ("labeled", "unlabeled")]


def pytest_generate_tests(metafunc):
    if "merge" in metafunc.fixturenames:
        merges = ALL if metafunc.config.getoption("--all-merges") else SOME
        allowed = [
            merge for merge in merges if not (merge[1][-1] == "conditional" and merge[2] == "unlabeled")
        ]
        metafunc.parametrize("merge", allowed, ids=["-".join([d, *m, k]) for d, m, k in allowed])


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """DeepReg's folder as the working directory, and where the logs go."""
    monkeypatch.chdir(DEEPREG)
    return tmp_path / "logs"


def train(logs: Path, *files: str) -> int:
    paths = [f"config/{name}.yaml" for name in files]
    return deepreg.train(
        ["--gpu", "", "--config_path", *paths, "--log_dir", str(logs), "--exp_name", "t", "--max_epochs", "2"]
    )


def predict(logs: Path) -> int:
    where = ["--log_dir", str(logs), "--exp_name", "p"]
    return deepreg.predict(
        ["--gpu", "", "--ckpt_path", str(logs / "t/save/ckpt-2"), "--split", "test", *where]
    )


def test_a_merge_of_configurations_trains_and_predicts(logs, merge):
    data, method, labels = merge
    assert train(logs, *(f"test/{name}" for name in (data, *method, labels))) == 0
    assert len((logs / "t" / "metrics.csv").read_text().splitlines()) == 3
    assert predict(logs) == 0
    rows = list(csv.DictReader((logs / "p" / "test" / "metrics.csv").open()))
    assert rows and all((row["label_index"] == "-1") is (labels == "unlabeled") for row in rows)
    pair = next((logs / "p" / "test").glob("pair_*"))
    assert (pair / "transform.h5").exists() is (method[-1] != "conditional")
    assert (pair / "affine.txt").exists() is (method == ("affine",))
    assert (pair / "dvf.nii.gz").exists() is (method[-1] == "dvf")
    assert (pair / "label_0" / "pred_fixed_label.nii.gz").exists() is (labels == "labeled")


def test_the_first_configuration_of_the_manual_trains_and_predicts(logs):
    assert train(logs, "unpaired_labeled_ddf") == 0
    assert predict(logs) == 0
    shutil.rmtree(logs / "p")
    assert predict(logs) == 0


def test_conditional_without_labels_is_refused_in_one_sentence(logs, capsys):
    assert train(logs, "test/unpaired_nifti", "test/ddf", "test/conditional", "test/unlabeled") == 2
    said = capsys.readouterr().err.strip()
    assert "unlabeled.yaml, line 3: dataset.train.labeled is false, but the method conditional" in said
    assert len(said.splitlines()) == 1 and not logs.exists()
