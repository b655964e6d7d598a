"""``regcore import-checkpoint``: writes a model file, says what it is, refuses in one sentence."""

import pytest
import yaml

from RegCore.cli import main
from RegCore.deepreg.keras_weights import from_state
from RegCore.networks.model_file import read_model
from RegCore.networks.models import build_model
from Testing.RegCore.deepreg.bundles import write_checkpoint

CONFIG = {
    "dataset": {"fixed_image_shape": [7, 8, 9], "moving_image_shape": [6, 5, 4], "train": {"labeled": True}},
    "train": {"method": "ddf", "backbone": {"name": "unet", "num_channel_initial": 1, "depth": 1}},
}


@pytest.fixture
def prefix(tmp_path):
    network = build_model(CONFIG["train"], (7, 8, 9), (6, 5, 4), labeled=True)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return write_checkpoint(tmp_path / "save" / "ckpt-2", from_state(network.backbone))


def test_a_model_file_is_written_and_described(tmp_path, prefix, capsys):
    out = tmp_path / "model.pt"
    assert main(["import-checkpoint", str(prefix), "--out", str(out)]) == 0
    said = capsys.readouterr()
    what = "unet network for the method ddf, fixed images 7×8×9, moving images 6×5×4 voxels"
    assert (said.out, said.err) == (f"{out}: {what}\n", "")
    assert read_model(out).moving_size == (6, 5, 4)


def test_the_configuration_may_lie_elsewhere(tmp_path, prefix, capsys):
    (tmp_path / "config.yaml").rename(tmp_path / "mine.yaml")
    command = ["import-checkpoint", f"{prefix}.index", "--out", str(tmp_path / "model.pt")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("regcore: error: ") and "--config" in said and said.count("\n") == 1
    assert main([*command, "--config", str(tmp_path / "mine.yaml")]) == 0
    assert read_model(tmp_path / "model.pt").fixed_size == (7, 8, 9)


@pytest.mark.parametrize(
    "arguments", [[], ["ckpt-1"], ["--out", "model.pt"], ["ckpt-1", "--out", "m.pt", "--x"]]
)
def test_arguments_that_are_missing_or_unknown(arguments, capsys):
    assert main(["import-checkpoint", *arguments]) == 2
    assert capsys.readouterr().err.startswith("regcore: error: ")


def test_nothing_is_written_if_the_checkpoint_is_damaged(tmp_path, prefix, capsys):
    data = prefix.with_name("ckpt-2.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:-100])
    assert main(["import-checkpoint", str(prefix), "--out", str(tmp_path / "model.pt")]) == 2
    assert "can't be read" in capsys.readouterr().err
    assert not list(tmp_path.glob("model.pt*"))
