"""Series of soft balls that move as a test says."""

import numpy as np
from scipy.spatial.transform import Rotation

from RegCore.space.geometry import Geometry
from RegCore.space.series import Series
from RegCore.space.transforms import AffineTransform
from Testing.RegCore.registration.blobs import centred, density

OBLIQUE = centred((26, 24, 22), (0.1, -0.2, 0.15), (5.6, 6.0, 6.4))
MIRRORED = centred((23, 21, 17), (0.3, 0.2, -0.4), (6.5, 7.0, -8.5))  # left-handed, thick slices


def rigid_motion(t: float) -> AffineTransform:
    """About 2 mm and 1.5 degrees a frame, in another direction from frame to frame."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", np.array([1.0, -1.5, 0.8]) * t, degrees=True).as_matrix()
    matrix[:3, 3] = np.array([1.5, -2.0, 1.0 + 0.3 * t]) * t
    return AffineTransform(matrix)


def series_of(grid: Geometry, motions: list, noise: float = 0.01) -> Series:
    """Soft balls that move: the frame at T(x) is what the balls are at x."""
    rng = np.random.default_rng(0)
    frames = []
    for motion in motions:
        values = density(motion.inverse().map(grid.world_grid()))
        frames.append(500 * values + rng.normal(size=grid.shape) * 500 * noise * np.ptp(values))
    times = [str(2 * t) for t in range(len(motions))]
    return Series(np.stack(frames, -1).astype(np.int16), grid, times, "time", "s")
