"""B-splines and thin-plate splines of ITK as displacements on a grid; transforms one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

from RegCore.io.files import FLIP
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import DisplacementField, Transform

if TYPE_CHECKING:
    import SimpleITK as sitk

log = logging.getLogger(__name__)
EDGE = 1e-6  # share of a grid of control points by which samples keep away from its border
MOST_VOXELS = 20_000_000  # of displacements that stand for a spline
MOST_LANDMARKS = 1000  # of a thin-plate spline
REACH = 1.0  # how far the grid of a thin-plate spline goes beyond its landmarks, in sizes of their box
SIGNS = np.diag(FLIP)[:3]
Mapping = Callable[[np.ndarray], np.ndarray]
"""Points (N, 3) LPS mm to points (N, 3) LPS mm."""


def composed(outer: Transform, inner: Transform) -> Transform:
    """x -> outer(inner(x)); of two fields on the grid of the inner one, in steps like the outer one's.

    Else what the outer one does between the nodes of a coarse inner one would be lost.
    """
    if not (isinstance(outer, DisplacementField) and isinstance(inner, DisplacementField)):
        return outer.compose(inner)
    grid = inner.geometry
    crossed = np.abs(np.linalg.inv(outer.geometry.affine) @ grid.affine)[:3, :3].max(0)  # voxels in one step
    parts = np.maximum(1, np.ceil(crossed - 0.01)).astype(int)
    while np.prod((np.array(grid.shape) - 1.0) * parts + 1) > MOST_VOXELS and parts.max() > 1:
        parts = np.maximum(1, parts - 1)
    i, j, k = (int((n - 1) * part + 1) for n, part in zip(grid.shape, parts, strict=True))
    return outer.compose(inner, grid.resized((i, j, k)))


# ---- B-splines ---------------------------------------------------------------------------------------------


def b_spline(parameters: np.ndarray, fixed: np.ndarray, order: int = 3) -> DisplacementField:
    """The displacements of a B-spline that ITK tells of by its parameters and fixed parameters (LPS mm).

    Raises:
        InputError: its numbers make no sense, or it is too large.
    """
    import SimpleITK as sitk

    if order not in (1, 2, 3):
        raise InputError(f"B-splines of order 1, 2 or 3 were expected, not of order {order}")
    if len(fixed) != 18 or min(fixed[:3]) < order + 1 or len(parameters) != 3 * np.prod(fixed[:3]):
        text = f"{len(parameters)} parameters and {len(fixed)} fixed ones do not fit"
        raise InputError(f"the control points of the B-spline make no grid: {text}")
    spline = sitk.BSplineTransform(3, order)
    spline.SetFixedParameters(fixed.tolist())
    spline.SetParameters(parameters.tolist())
    return of_b_spline(spline)


def of_b_spline(spline: sitk.BSplineTransform) -> DisplacementField:
    """A B-spline as displacements, on a grid so fine that linear interpolation tells them from it nowhere.

    The grid is refined until the two differ, at places between its nodes, by no more than 0.01 mm and 1/2000
    of the distance of the control points, or until it is as large as it may be. Around it lies a layer of
    zeros: beyond its grid a B-spline of ITK moves nothing.
    """
    mesh = np.array(spline.GetTransformDomainMeshSize())
    extent = np.array(spline.GetTransformDomainPhysicalDimensions())
    axes = np.array(spline.GetTransformDomainDirection()).reshape(3, 3)
    start = np.array(spline.GetTransformDomainOrigin()) + axes @ (EDGE * extent)
    if np.prod(mesh * 4.0 + 3) > 2 * MOST_VOXELS:
        points = " × ".join(str(n + spline.GetOrder()) for n in mesh)
        raise InputError(f"the B-spline has {points} control points, more than can become displacements")
    wanted = min(0.01, float((extent / mesh).min()) / 2000)
    box = axes * extent * (1 - 2 * EDGE)
    return _refined(
        lambda places: np.array([spline.TransformPoint(place) for place in places]),
        lambda cells: _sampled(spline, cells, start, box / cells),
        mesh,
        start,
        box,
        wanted,
    )


def _refined(
    mapping: Mapping,
    sampled: Callable[[np.ndarray], DisplacementField],
    cells: np.ndarray,
    start: np.ndarray,
    box: np.ndarray,
    wanted: float,
) -> DisplacementField:
    """Displacements on a grid of more and more cells, until they differ nowhere by more than is wanted.

    Args:
        mapping: what they stand for.
        sampled: the displacements for a number of cells (3,).
        cells: the coarsest; they are parted in 4 at least.
        start: LPS mm, the corner of the box.
        box: 3×3, its edges as columns, LPS mm.
        wanted: mm.
    """
    places = np.random.default_rng(0).random((2000, 3)) @ box.T * (1 - 2 * EDGE) + start
    expected = mapping(places)
    for parts in (4, 8, 16, 32):
        field = sampled(cells * parts)
        error = np.abs(field.map(places * SIGNS) * SIGNS - expected).max()
        if error <= wanted or 8 * field.geometry.voxels > MOST_VOXELS:
            break
    if error > 5 * wanted:
        log.warning("the displacements that stand for a spline differ from it by up to %.2g mm", error)
    return field


def _sampled(
    spline: sitk.BSplineTransform, cells: np.ndarray, start: np.ndarray, steps: np.ndarray
) -> DisplacementField:
    """Displacements at the corners of cells, and in a layer around them; `start` and `steps` in LPS mm."""
    import SimpleITK as sitk

    spacing = np.linalg.norm(steps, axis=0)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps, start - steps.sum(1)
    i, j, k = (int(n) + 3 for n in cells)
    image = sitk.TransformToDisplacementField(
        spline, sitk.sitkVectorFloat64, (i, j, k), affine[:3, 3], spacing, (steps / spacing).ravel()
    )
    mm = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0, 3) * SIGNS
    return DisplacementField(Geometry((i, j, k), FLIP @ affine), mm)


# ---- thin-plate splines ------------------------------------------------------------------------------------


def thin_plate(sources: np.ndarray, targets: np.ndarray) -> DisplacementField:
    """The thin-plate spline that takes landmarks to others, by the distance as its kernel, as displacements.

    It has no border; its displacements reach beyond the box of the landmarks by its size on each side.

    Args:
        sources: (3 N,) LPS mm.
        targets: (3 N,) LPS mm.

    Raises:
        InputError: these are no landmarks of a thin-plate spline.
    """
    if len(sources) != len(targets) or len(sources) % 3 or not 4 <= len(sources) // 3 <= MOST_LANDMARKS:
        text = f"{len(sources)} and {len(targets)} numbers were given"
        raise InputError(f"landmarks of a thin-plate spline were expected, three numbers each, but {text}")
    source, target = sources.reshape(-1, 3), targets.reshape(-1, 3)
    columns = np.concatenate([np.ones((len(source), 1)), source], 1)
    system = np.block([[cdist(source, source), columns], [columns.T, np.zeros((4, 4))]])
    try:
        weights = np.linalg.solve(system, np.concatenate([target - source, np.zeros((4, 3))]))
    except np.linalg.LinAlgError:
        raise InputError(
            "the landmarks of the thin-plate spline lie in one plane, or two in one place"
        ) from None

    def mapping(places: np.ndarray) -> np.ndarray:
        bent = cdist(places, source) @ weights[:-4]
        return places + bent + weights[-4] + places @ weights[-3:]

    size = np.maximum(np.ptp(source, axis=0), 1.0)
    start, box = source.min(0) - REACH * size, np.diag((1 + 2 * REACH) * size)
    cells = np.maximum(2, np.rint(8 * size / size.max())).astype(int)
    field = _refined(mapping, lambda n: _on_box(mapping, n, start, box), cells, start, box, 0.02)
    log.warning(
        "a thin-plate spline has no border; its displacements are known up to %.3g mm beyond its landmarks",
        REACH * size.min(),
    )
    return field


def _on_box(mapping: Mapping, cells: np.ndarray, start: np.ndarray, box: np.ndarray) -> DisplacementField:
    """The displacements of a map at the corners of cells."""
    i, j, k = (int(n) + 1 for n in cells)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = box / cells, start
    grid = Geometry((i, j, k), FLIP @ affine)
    mm = np.empty((i, j, k, 3), np.float32)
    for row in range(i):
        index = np.stack(np.meshgrid([row], np.arange(j), np.arange(k), indexing="ij"), -1).reshape(-1, 3)
        places = grid.to_world(index)
        mm[row] = (mapping(places * SIGNS) * SIGNS - places).reshape(j, k, 3)
    return DisplacementField(grid, mm)
