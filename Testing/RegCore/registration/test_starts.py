"""Starts from structures: centroids, lines, principal axes, where there are few structures or many."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from RegCore.registration.affine import align
from RegCore.registration.pair import LabelEncoding, PairSide
from RegCore.registration.starts import from_structures, rigid_from_centroids
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume
from Testing.RegCore.registration.blobs import centred, corner_error

FIXED = centred((27, 25, 23), (0.1, -0.2, 0.15), (4.1, 4.6, -5.0))
MOVING = centred((26, 24, 28), (-0.2, 0.1, 0.3), (-4.5, 4.2, 4.4), (3.0, -2.0, 4.0))
PLACES = np.array([[0.0, 0, 0], [28, 5, -8], [-12, 25, 6], [5, -20, 22]])
RADII = (14.0, 8.0, 7.0, 6.0)


def away(degrees: float = 50.0) -> AffineTransform:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.array([0.6, -0.48, 0.64])).as_matrix()
    matrix[:3, 3] = 6.0, -8.0, 5.0
    return AffineTransform(matrix)


def structures(geometry: Geometry, truth: AffineTransform, count: int, channels: bool = False) -> Volume:
    """Balls, label 1 and on, of which the last is a long one; the grid sees them moved by the truth."""
    points = truth.inverse().map(geometry.world_grid())
    array = np.zeros(geometry.shape, np.int16)
    stretch = np.array([2.0, 1.2, 0.7])
    for label in range(count):
        size = stretch if label == 0 else 1.0
        array[(((points - PLACES[label]) / size) ** 2).sum(-1) < RADII[label] ** 2] = label + 1
    if channels:
        array = np.stack([array == label + 1 for label in range(count)], -1).astype(np.uint8)
    return Volume(array, geometry, "labels")


@pytest.mark.parametrize("channels", [False, True], ids=["label map", "channels"])
def test_three_structures_tell_the_turn(channels):
    truth = away()
    maps = [structures(g, t, 4, channels) for g, t in ((FIXED, AffineTransform.identity()), (MOVING, truth))]
    labels = tuple(range(4)) if channels else (1, 2, 3, 4)
    found = from_structures(*maps, labels)
    assert corner_error(AffineTransform(found["centroids of the structures"]), truth, FIXED) < 0.6
    assert not any(name.startswith("principal") for name in found)
    shift = found["centres of the segmentations"]
    np.testing.assert_array_equal(shift[:3, :3], np.eye(3))


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_structures_are_turned_by_their_axes(count):
    truth = away()
    maps = [structures(g, t, count) for g, t in ((FIXED, AffineTransform.identity()), (MOVING, truth))]
    found = from_structures(*maps, tuple(range(1, count + 1)))
    axes = [matrix for name, matrix in found.items() if name.startswith("principal axes")]
    assert len(axes) == 4 and all(np.linalg.det(matrix[:3, :3]) > 0 for matrix in axes)
    assert min(corner_error(AffineTransform(matrix), truth, FIXED) for matrix in axes) < 1.0
    assert ("centroids of the structures" in found) == (count == 2)


def test_centroids_in_line_are_turned_no_more_than_need_be():
    line = np.array([[0.0, 0, 0], [10, 0, 0], [25, 0, 0]])
    turn = Rotation.from_rotvec([0, 0, 0.5]).as_matrix()
    found = rigid_from_centroids(line, line @ turn.T + [1, 2, 3], np.ones(3))
    np.testing.assert_allclose(found[:3, :3], turn, atol=1e-9)
    np.testing.assert_allclose(found[:3, 3], [1, 2, 3], atol=1e-9)
    np.testing.assert_allclose(
        rigid_from_centroids(line, -line, np.ones(3)) @ [25, 0, 0, 1], [-25, 0, 0, 1], atol=1e-9
    )


def test_heavier_structures_count_more():
    points = np.array([[0.0, 0, 0], [30, 0, 0], [0, 20, 0], [0, 0, 10]])
    targets = points + [[1.0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    near, far = (rigid_from_centroids(points, targets, np.array([w, 1.0, 1, 1])) for w in (100.0, 1.0))
    errors = [np.linalg.norm(AffineTransform(m).map(points[0]) - targets[0]) for m in (near, far)]
    assert errors[0] < 0.2 * errors[1]


def test_structures_lead_through_a_large_turn_where_the_images_say_nothing():
    truth, random = away(110.0), np.random.default_rng(0)
    maps = [structures(g, t, 4) for g, t in ((FIXED, AffineTransform.identity()), (MOVING, truth))]
    sides = [
        PairSide(Volume(random.normal(size=m.array.shape).astype(np.float32), m.geometry), m) for m in maps
    ]
    led, alone = (align(*sides, rigid=True, encoding=e) for e in (LabelEncoding.of(*maps, 20.0, 0), None))
    assert corner_error(led, truth, FIXED) < 3.0  # the noise of the images pulls as well
    assert corner_error(alone, truth, FIXED) > 10.0
