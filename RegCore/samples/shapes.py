"""Pairs of random shapes without any anatomy: what is learnt from them is bound to no part of the body.

A body with random regions is seen twice, each time through a map of its own, so that labels fit exactly. The
idea, to learn registration from shapes and contrasts made at random, is that of SynthMorph (Hoffmann et al.,
IEEE TMI 41(3), 2022).
"""

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from RegCore.samples.datasets import DatasetCase
from RegCore.samples.phantom import Noise
from RegCore.space.geometry import Geometry
from RegCore.space.volume import Volume

EXTENT_MM = 192.0  # edge of the cube that is seen
REGIONS = 12
SAME_CONTRAST = 0.7  # share of the pairs whose regions rank alike in both images
FAR_MM = (1.0, 9.0)  # root mean square of the bend of each of the two maps, along each axis
NAMES = ("fixed_images", "fixed_labels", "moving_images", "moving_labels")


def make_shapes(count: int, *, first: int = 0, seed: int = 0, size: int = 64) -> Iterator[DatasetCase]:
    """Cases of a paired data set for `RegCore.samples.datasets.write_dataset`, made one after another.

    Args:
        count: pairs, numbered from ``first`` on: splits with other numbers hold other pairs.
        seed: another one makes other pairs.
        size: voxels along each edge.
    """
    affine = np.diag([*(3 * [EXTENT_MM / size]), 1.0])
    affine[:3, 3] = (affine[0, 0] - EXTENT_MM) / 2
    grid = Geometry((size, size, size), affine)
    for number in range(first, first + count):
        volumes = _pair(np.random.default_rng([seed, number]), grid)
        name = f"case{number:06d}"
        yield DatasetCase(name, "", name, dict(zip(NAMES, volumes, strict=True)))


def _pair(random: np.random.Generator, grid: Geometry) -> list[Volume]:
    """Image and labels, fixed and moving."""
    body, ways, looks = Noise(random), Noise(random), Noise(random)
    radii, regions = random.uniform(55.0, 88.0, 3), random.uniform(35.0, 100.0)
    texture = random.uniform(0.0, 0.08), random.uniform(12.0, 30.0)
    values = [random.uniform(0.1, 1.0, REGIONS + 1)]
    alike = values[0] ** random.uniform(0.5, 2.0) + random.normal(0.0, 0.04, REGIONS + 1)
    values.append(alike if random.random() < SAME_CONTRAST else random.uniform(0.1, 1.0, REGIONS + 1))
    around, volumes = float(random.random() < 0.2), []
    for side in (0, 1):
        points = _mapped(random, grid.world_grid(), ways, 3 * side)
        labels = _labels(points, body, looks, radii, regions)
        value = np.concatenate([[around * values[side][0]], values[side][1:]])
        image = value[labels] + texture[0] * looks(points, texture[1], 4 + side * int(random.random() < 0.5))
        image = np.where((labels == 0) & (around == 0), 0.0, image)
        image = gaussian_filter(image, random.uniform(0.3, 1.1))
        image = image * np.exp(random.uniform(0.0, 0.3) * looks(points, random.uniform(150, 400), 6 + side))
        image = image + random.uniform(0.0, 0.05) * random.standard_normal(image.shape)
        volumes.append(Volume(np.rint(1000 * image).clip(-200, 4000).astype(np.int16), grid))
        volumes.append(Volume(labels, grid, "labels"))
    return volumes


def _mapped(random: np.random.Generator, points: np.ndarray, ways: Noise, channel: int) -> np.ndarray:
    """Where in the body each point of the image lies: a smooth bend and an affine map."""
    turn = Rotation.from_rotvec(random.uniform(-0.1, 0.1, 3)).as_matrix()
    matrix = turn @ np.diag(random.uniform(0.93, 1.07, 3))
    length, mean = random.uniform(70.0, 180.0), random.uniform(*FAR_MM)
    bend = [mean * ways(points, length, (channel + axis) % 8) for axis in range(3)]
    return (points @ matrix.T + random.uniform(-4.0, 4.0, 3) + np.stack(bend, -1)).astype(np.float32)


def _labels(points: np.ndarray, body: Noise, looks: Noise, radii: np.ndarray, length: float) -> np.ndarray:
    """The region at each point, 0 around the body: that of the largest of several random functions."""
    depth = 1 - np.sqrt(((points / radii.astype(np.float32)) ** 2).sum(-1)) + 0.12 * looks(points, 90.0, 0)
    shift = np.array([31.7, -57.3, 83.1], np.float32)  # so that a channel serves twice
    fields = [body(points + shift * (n // 8), length, n % 8) for n in range(REGIONS)]
    return np.where(depth > 0, 1 + np.argmax(fields, axis=0), 0).astype(np.uint8)
