"""From cells to voxels and back: where the answers lie, the half voxel of the published variant, storage."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from RegCore.slicreg.matching import MatchSettings, match
from RegCore.slicreg.network import NetworkSettings, SlicNet
from RegCore.slicreg.prediction import predict_supervoxels, supervoxels_of, targets
from RegCore.slicreg.preparation import PreparedScan
from RegCore.slicreg.supervoxels import Supervoxels
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume
from Testing.RegCore.slicreg.voronoi import voronoi

CUBE = Geometry((32, 32, 32), np.diag([5.0, 5.0, 5.0, 1.0]))


def cells(radius: float = 60.0, shift: float = 0.0) -> Supervoxels:
    return voronoi(CUBE, lambda points: points + shift, CUBE.centre, radius, layers=4)


def scores_of(supervoxels: Supervoxels, as_published: bool) -> torch.Tensor:
    """What a network says that has learnt its targets perfectly; noise decides between equal neighbours."""
    target = targets(torch.from_numpy(supervoxels.labels.astype(np.int64)), as_published=as_published)
    hot = F.one_hot(target, supervoxels.count + 1).permute(0, 4, 1, 2, 3)[None].float()
    return 9 * hot + torch.randn(hot.shape, generator=torch.Generator().manual_seed(0))


def test_targets_are_the_voxels_on_which_cells_are_centred():
    labels = torch.arange(7 * 8 * 9).reshape(1, 7, 8, 9)
    assert torch.equal(targets(labels), labels[:, ::2, ::2, ::2])
    as_published = targets(labels, as_published=True)
    assert as_published.shape == (1, 4, 4, 5)
    assert torch.equal(as_published[:, :3, :, :4], labels[:, 1::2, 1::2, 1::2])
    assert torch.equal(as_published[:, 3, :, :4], labels[:, 6, 1::2, 1::2])


@pytest.mark.parametrize("shape", [(10, 12, 14), (7, 8, 9)])
def test_scores_are_read_at_half_the_index(shape):
    """Scores that are linear in space cross where the formula says, to the voxel."""
    half = [-(-n // 2) for n in shape]
    index = torch.stack(torch.meshgrid(*(torch.arange(n) * 2.0 for n in half), indexing="ij"))
    scores = torch.stack([torch.zeros(*half), index[0] - 4.5, index[1] - 5.3]).unsqueeze(0).unsqueeze(0)
    geometry = Geometry(shape, np.eye(4))
    found = supervoxels_of(scores, geometry)
    i, j, _ = np.indices(shape)
    i, j = (
        np.minimum(x, 2 * (n - 1)) for x, n in zip((i, j), half, strict=False)
    )  # beyond the last cell: as there
    best = np.where(np.maximum(i - 4.5, j - 5.3) < 0, 0, np.where(i - 4.5 >= j - 5.3, 1, 2))
    np.testing.assert_array_equal(found.labels[0], best)
    assert found.labels.dtype == np.uint8 and found.count == 2 and found.geometry == geometry


def test_the_literal_way_is_the_half_pixel_interpolation_of_torch():
    scores = torch.randn((1, 2, 4, 5, 6, 7), generator=torch.Generator().manual_seed(0))
    geometry = Geometry((10, 12, 14), np.eye(4))
    expected = [
        F.interpolate(layer, scale_factor=2, mode="trilinear").argmax(1)[0] for layer in scores.unbind(1)
    ]
    found = supervoxels_of(scores, geometry, as_published=True)
    agree = (found.labels == torch.stack(expected).numpy()).mean()
    assert agree > 0.999  # ties in single precision aside


def test_a_perfect_network_gives_back_its_supervoxels_and_the_literal_one_displaces_them():
    truth = cells()
    exact, as_published = (
        supervoxels_of(scores_of(truth, flag), CUBE, as_published=flag) for flag in (False, True)
    )
    agreement = [(found.labels == truth.labels).mean() for found in (exact, as_published)]
    assert agreement[0] > 0.93 and agreement[1] < agreement[0] - 0.01
    settings = MatchSettings(keypoints=500)
    shifts = [
        match(truth, found, settings=settings).mm[8:-8, 8:-8, 8:-8].mean((0, 1, 2))
        for found in (exact, as_published)
    ]
    assert np.abs(shifts[0]).max() < 0.4
    np.testing.assert_allclose(shifts[1], [-2.5] * 3, atol=1.0)  # half a voxel of 5 mm along every axis


def test_many_classes_are_kept_in_two_bytes():
    scores = torch.zeros((1, 1, 301, 2, 2, 2))
    scores[0, 0, 300] = 1
    found = supervoxels_of(scores, Geometry((4, 4, 4), np.eye(4)))
    assert found.labels.dtype == np.uint16 and (found.labels == 300).all()


def trained_scan() -> tuple[SlicNet, PreparedScan]:
    """A network of random weights, and a scan of noise."""
    torch.manual_seed(0)
    network = SlicNet(NetworkSettings(layers=2, classes=5, width=0.5, context=16, hidden=4, norm="batch"))
    array = np.random.default_rng(0).normal(0, 200, (12, 13, 14)).astype(np.float32)
    geometry = Geometry(array.shape, np.eye(4))
    return network, PreparedScan(Volume(array, geometry), np.ones(array.shape, bool), geometry, "ct")


def test_scores_that_are_not_finite_are_no_supervoxels(caplog):
    """Too large for half precision, they are computed in float32; not finite there either, refused."""
    network, scan = trained_scan()
    weight = next(parameter for parameter in network.parameters() if parameter.ndim == 5)
    with torch.no_grad():
        weight.mul_(1e6)
    wanted = predict_supervoxels(network, scan).labels
    with torch.autocast("cpu", torch.float16):
        found = [predict_supervoxels(network, scan).labels for _ in range(2)]
    assert all((labels == wanted).all() for labels in found) and len(np.unique(wanted)) > 2
    assert caplog.text.count("too large for torch.float16") == 1
    with torch.no_grad():
        weight[0] = np.nan
    with pytest.raises(InputError, match="says about a scan holds values that are NaN or infinite"):
        predict_supervoxels(network, scan)


def test_prediction_uses_evaluation_mode_and_leaves_the_network_as_it_was():
    network, scan = trained_scan()
    array, geometry = scan.image.array, scan.image.geometry
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    told = []
    found = predict_supervoxels(network, scan, progress=lambda *event: told.append(event))
    assert network.training and len(told) == 2 and told[-1][0] == 1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    np.testing.assert_array_equal(predict_supervoxels(network, scan).labels, found.labels)
    with torch.no_grad():
        scores = network.eval()(torch.from_numpy(array)[None, None] / 500)
    np.testing.assert_array_equal(supervoxels_of(scores, geometry).labels, found.labels)
