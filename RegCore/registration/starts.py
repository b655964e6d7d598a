"""Where a linear registration may begin: the given position, centres, principal axes, structures, boxes."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from RegCore.registration.affine_level import AffineLevel, header_position, translation
from RegCore.registration.fits import fit_rigid
from RegCore.registration.pair import GridTensor, LabelEncoding, PairSide
from RegCore.resampler.pyramid import foreground
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume

TURN = 60.0  # degrees from which on a turn is held against a matrix in full
STRETCH = 2.0  # factor, likewise
HELD = 0.1  # share of the gain that a matrix loses which turns or stretches as much as that
SHIFTED = 0.02  # share that one loses which moves the centre by an eighth of the diagonal
MANY = 10  # voxels of foreground from which on its axes mean anything
MOST = 4000  # voxels of a structure that are looked at, about
APART = 0.05  # share of a structure that meets its counterpart below which the two hardly overlap
FLAT = 1e-2  # the second singular value of centroids, in shares of the first, below which they are in line


def stretched(fixed: Geometry, moving: Geometry) -> np.ndarray:
    """The map that lays the fixed grid's box over the moving grid's box, corner voxel on corner voxel."""
    ratio = [(m - 1) / max(f - 1, 1) for f, m in zip(fixed.shape, moving.shape, strict=True)]
    return moving.affine @ np.diag([*ratio, 1.0]) @ np.linalg.inv(fixed.affine)


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """The proper rotation nearest to the linear part of a 4x4 matrix, ``(3, 3)``."""
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    return u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt


def rigid_part(matrix: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The rotation nearest to a 4x4 matrix that moves a point (mm) to where the matrix moves it."""
    rigid = np.eye(4)
    rigid[:3, :3] = nearest_rotation(matrix)
    rigid[:3, 3] = matrix[:3, :3] @ centre + matrix[:3, 3] - rigid[:3, :3] @ centre
    return rigid


def turn(matrix: np.ndarray, given: np.ndarray) -> float:
    """The angle, in degrees, by which a matrix turns more than a given one does."""
    return float(
        np.degrees(Rotation.from_matrix(nearest_rotation(np.linalg.inv(given) @ matrix)).magnitude())
    )


def handicap(matrix: np.ndarray, given: np.ndarray, grid: Geometry) -> float:
    """The share of its gain that is held against a matrix for being far from the given position, 0 to 1.

    Positions in headers are mostly right but for a few degrees and millimetres, and descriptors tell little
    of unlike images: a turn, a stretch or a shift must be worth it. Small ones cost next to nothing.

    Args:
        matrix: 4x4, fixed -> moving, RAS mm.
        given: the same of the given position.
        grid: of the fixed image, whose size says what is far.
    """
    apart, angle = np.linalg.inv(given) @ matrix, turn(matrix, given)
    stretch = np.abs(np.log(np.linalg.svd(apart[:3, :3], compute_uv=False))).max() / np.log(STRETCH)
    shift = np.linalg.norm(apart[:3, :3] @ grid.centre + apart[:3, 3] - grid.centre)
    far = shift / (np.linalg.norm(np.array(grid.shape) * grid.spacing) / 8)
    turned, pulled, moved = (min(share, 1.0) ** 2 for share in (angle / TURN, stretch, far))
    return float(HELD * (turned + pulled) + SHIFTED * moved)


# ---- moments -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Moments:
    centre: np.ndarray  # (3,) mm
    axes: np.ndarray  # columns by falling variance


def _moments(points: np.ndarray, otherwise: np.ndarray) -> _Moments:
    """Centre and principal axes of points ``(N, 3)`` mm; another centre and the axes of space for too few."""
    if len(points) < MANY:
        return _Moments(otherwise, np.eye(3))
    centre = points.mean(0)
    return _Moments(centre, np.linalg.eigh(np.cov((points - centre).T))[1][:, ::-1])


def _turned(fixed: _Moments, moving: _Moments) -> list[np.ndarray]:
    """The four proper rigid maps that lay principal axes on principal axes, their signs being unknown."""
    found = []
    for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)):
        flip = np.linalg.det(moving.axes @ fixed.axes.T)
        rotation = moving.axes @ np.diag(np.array(signs) * [1, 1, flip]) @ fixed.axes.T
        matrix = np.eye(4)
        matrix[:3, :3] = rotation
        matrix[:3, 3] = moving.centre - rotation @ fixed.centre
        found.append(matrix)
    return found


def _body(image: GridTensor) -> _Moments:
    """Moments of the foreground of an image of one channel."""
    inside = np.argwhere(foreground(image.values[0, 0].cpu().numpy()))
    return _moments(image.grid.to_world(inside.astype(float)), image.grid.centre)


# ---- structures --------------------------------------------------------------------------------------------


def _structures(volume: Volume, labels: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Centroids ``(N, 3)`` mm and volumes ``(N,)`` mm^3 of structures, each of which the volume holds."""
    array = volume.array
    if array.ndim == 4:
        sizes = np.array([np.count_nonzero(array[..., label]) for label in labels], float)
        places = [ndimage.center_of_mass(array[..., label] != 0) for label in labels]
    else:
        here = np.isin(array, labels)
        sizes = ndimage.sum_labels(here, array, labels)
        places = ndimage.center_of_mass(here, array, labels)
    return volume.geometry.to_world(places), sizes * abs(float(np.linalg.det(volume.geometry.affine)))


def _voxels(volume: Volume, label: int) -> np.ndarray:
    """Where a structure of a segmentation is, bool ``(I, J, K)``."""
    return volume.array[..., label] != 0 if volume.array.ndim == 4 else volume.array == label


def structures_apart(
    fixed: Volume, moving: Volume, labels: tuple[int, ...], mapping: Transform
) -> np.ndarray | None:
    """Centroids of the structures that hardly overlap, ``(N, 6)`` RAS mm, fixed and moving; None if all do.

    Args:
        fixed, moving: segmentations.
        labels: structures that both hold.
        mapping: fixed -> moving, RAS mm, under which they are compared.
    """
    found = []
    for label in labels:
        points = fixed.geometry.to_world(np.argwhere(_voxels(fixed, label)).astype(float))
        step = max(1, len(points) // MOST)
        index = np.rint(moving.geometry.to_index(mapping.map(points[::step]))).astype(int)
        index = index[((index >= 0) & (index < np.array(moving.geometry.shape))).all(1)]
        there = _voxels(moving, label)
        if np.count_nonzero(there[tuple(index.T)]) < APART * len(points) / step:
            centre = moving.geometry.to_world(np.argwhere(there).astype(float)).mean(0)
            found.append(np.concatenate([points.mean(0), centre]))
    return np.array(found) if found else None


def _union(volume: Volume, labels: tuple[int, ...]) -> _Moments:
    """Moments of all structures together."""
    array = volume.array
    here = array[..., list(labels)].any(-1) if array.ndim == 4 else np.isin(array, labels)
    points = volume.geometry.to_world(np.argwhere(here).astype(float))
    return _moments(points, points.mean(0))


def rigid_from_centroids(points: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The rigid map of centroids onto centroids (Kabsch), by the least turn where they are in line.

    Args:
        points: ``(N, 3)`` mm.
        targets: ``(N, 3)`` mm.
        weights: ``(N,)``.
    """
    centre, target = (np.average(x, axis=0, weights=weights) for x in (points, targets))
    sizes = np.linalg.svd(points - centre, compute_uv=False)
    if len(points) > 2 and sizes[1] > FLAT * sizes[0]:
        return fit_rigid(points, targets, weights)
    matrix = np.eye(4)
    line, target_line = points[-1] - points[0], targets[-1] - targets[0]
    if np.linalg.norm(line) > 0 and np.linalg.norm(target_line) > 0:
        matrix[:3, :3] = Rotation.align_vectors(target_line, line)[0].as_matrix()
    matrix[:3, 3] = target - matrix[:3, :3] @ centre
    return matrix


def from_structures(fixed: Volume, moving: Volume, labels: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Named starts from structures that both segmentations hold, each weighed by the root of its volume.

    Three and more tell the turn by their centroids; one or two by the principal axes of their union as well.
    """
    points, sizes = _structures(fixed, labels)
    targets, target_sizes = _structures(moving, labels)
    weights = np.sqrt(sizes + target_sizes)
    shift = np.average(targets - points, axis=0, weights=weights)
    found = {"centres of the segmentations": translation(shift)}
    if len(labels) > 1:
        found["centroids of the structures"] = rigid_from_centroids(points, targets, weights)
    if len(labels) < 3:
        for n, matrix in enumerate(_turned(_union(fixed, labels), _union(moving, labels))):
            found[f"principal axes of the segmentations {n + 1}"] = matrix
    return found


# ---- the whole ---------------------------------------------------------------------------------------------


def starts(
    level: AffineLevel,
    fixed: PairSide,
    moving: PairSide,
    encoding: LabelEncoding | None = None,
    *,
    stretch: bool = True,
) -> dict[str, np.ndarray]:
    """Named 4x4 matrices worth trying, fixed -> moving, RAS mm; none of them a reflection.

    Args:
        level: the pair at a coarse resolution.
        fixed: image, and segmentation if there is one.
        moving: the same of the moving volume.
        encoding: of the structures that both segmentations hold; None leaves these out.
        stretch: whether the boxes of the two grids may be laid upon each other, which is not rigid.

    Returns:
        The given position comes first: that of the headers, or centre on centre where by the headers the
        images do not overlap.
    """
    here, there = fixed.image.geometry, moving.image.geometry
    body, moving_body = _body(level.fixed.image), _body(level.moving.image)
    found = {"header": header_position(here, there)} if here.overlaps(there) else {}
    found["grid centres"] = translation(there.centre - here.centre)
    found["centres of mass"] = translation(moving_body.centre - body.centre)
    for n, matrix in enumerate(_turned(body, moving_body)):
        found[f"principal axes {n + 1}"] = matrix
    if encoding is not None and fixed.labels is not None and moving.labels is not None:
        found |= from_structures(fixed.labels, moving.labels, encoding.labels)
    box = stretched(here, there)
    if stretch and np.linalg.det(box[:3, :3]) > 0:
        found["stretched grids"] = box
    return found
