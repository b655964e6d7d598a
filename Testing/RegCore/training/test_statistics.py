"""Batch normalisation's statistics in validation and in every file are those of the present weights."""

import numpy as np
import pytest
import torch
from torch import nn

from RegCore.networks.layers import BatchNorm3d
from RegCore.networks.model_file import read_model
from RegCore.progress import Cancelled
from RegCore.training import train
from RegCore.training.gradients import evaluate
from RegCore.training.objective import Objective
from RegCore.training.statistics import norms_of, renew_statistics
from Testing.RegCore.training.runs import configuration, write_pairs
from Testing.RegCore.training.test_gradients import batch, model
from Testing.RegCore.training.test_training import StopAt


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder)
    return folder


def moving_averages(path):
    return [(n.running_mean, n.running_var) for n in norms_of(read_model(path).network)]


class Normed(nn.Module):
    """A normalisation of the fixed image, then one of a single value, and a counter of its own."""

    def __init__(self):
        super().__init__()
        self.norm, self.last = BatchNorm3d(1), BatchNorm3d(1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch):
        self.calls += 1
        self.norm(batch["fixed_image"])
        self.last(batch["fixed_image"][:1, :, :1, :1, :1])


def test_they_are_the_means_over_the_batches_and_nothing_else_changes():
    """Against NumPy: mean of the batches' means and of their variances with n - 1 in the denominator."""
    images = torch.randn((5, 2, 1, 7, 8, 9), generator=torch.Generator().manual_seed(1)).numpy() * 3 + 2
    network = Normed().eval()
    network.norm.num_batches_tracked += 17
    renew_statistics(network, None, [{"fixed_image": torch.from_numpy(image)} for image in images])
    flat = images.reshape(5, -1).astype(np.float64)
    np.testing.assert_allclose(network.norm.running_mean, [flat.mean(1).mean()], rtol=1e-5)
    np.testing.assert_allclose(network.norm.running_var, [flat.var(1, ddof=1).mean()], rtol=1e-5)
    np.testing.assert_allclose(network.last.running_mean, [images[:, 0, 0, 0, 0, 0].mean()], rtol=1e-5)
    assert float(network.last.running_var) == 0
    assert int(network.norm.num_batches_tracked) == 17 and int(network.calls) == 0
    assert not network.training and network.norm.momentum == 0.01


@pytest.mark.parametrize("bf16", [False, True])
def test_they_and_validation_are_computed_in_the_precision_of_training(bf16):
    """A convolution rounds to bfloat16; what follows it sees that."""
    made, objective = model().train(), Objective.from_config({"image": {"name": "ssd"}}, labeled=False)
    given = batch()
    seen = []
    made.backbone.encode_convs[0][0].layer.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    renew_statistics(made, objective, [given], bf16=bf16)
    loss = evaluate(made.eval(), objective, given, bf16=bf16)["loss"]
    assert seen == [torch.bfloat16 if bf16 else torch.float32] * 2
    assert loss.dtype == torch.float32


def test_validation_no_longer_lags_behind_the_weights(pairs, tmp_path):
    """Six steps leave moving averages at 0.94 of their start, whatever the network sees."""
    lasts = {}
    for deepreg in (False, True):
        config = configuration(pairs, deepreg=deepreg, epochs=3)
        run = train(config, log_dir=tmp_path, exp_name=str(deepreg), device="cpu")
        lasts[deepreg] = moving_averages(run.folder / "save" / "last.pt")
    start = 0.99**6  # what is left of the variance 1 that a moving average begins with
    assert all(float(variance.min()) >= start for _, variance in lasts[True])
    assert any(float(variance.min()) < 0.8 * start for _, variance in lasts[False])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_stopped_within_an_epoch_also_leaves_a_model_with_its_own_statistics(pairs, tmp_path, steps):
    with pytest.raises(Cancelled):
        train(configuration(pairs), log_dir=tmp_path, exp_name="run", progress=StopAt(steps), device="cpu")
    found = moving_averages(tmp_path / "run" / "save" / "last.pt")
    assert any(float(variance.min()) < 0.8 * 0.99**steps for _, variance in found)


def test_a_run_of_fewer_batches_than_needed_takes_them_from_several_epochs(pairs, tmp_path):
    """All five pairs are one batch, so that four epochs with other augmentations are looked at."""
    preprocess = {"batch_size": 5, "shuffle_buffer_num_batch": 1, "data_augmentation": {"name": "affine"}}
    seen = []

    def watched(network, objective, batches, *, bf16):
        assert not bf16
        seen.extend(batch["fixed_image"].sum().item() for batch in batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("RegCore.training.loop.renew_statistics", watched)
        train(configuration(pairs, preprocess=preprocess, epochs=2), log_dir=tmp_path, exp_name="run")
    assert len(set(seen[:4])) == 4 and seen[:4] == seen[4:]
