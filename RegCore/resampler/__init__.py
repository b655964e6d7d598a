"""Sampling, warping and composing on voxel grids: the one place that knows how coordinates become values.

Tensors are ``(B, C, I, J, K)``; coordinates and displacements are ``(B, 3, i, j, k)`` in voxels of the grid
that is sampled, channel order i, j, k.
"""

from RegCore.resampler.fields import compose, integrate, resize3d, resize_ddf, warp_image_ddf
from RegCore.resampler.grids import affine_coordinates, index_map, reference_grid
from RegCore.resampler.sampling import BORDERS, sample
from RegCore.resampler.smoothing import box_mean, gaussian_smooth
from RegCore.resampler.volumes import field_of, inverted, tensor_of, warp

__all__ = [
    "BORDERS",
    "affine_coordinates",
    "box_mean",
    "compose",
    "field_of",
    "gaussian_smooth",
    "index_map",
    "integrate",
    "inverted",
    "reference_grid",
    "resize3d",
    "resize_ddf",
    "sample",
    "tensor_of",
    "warp",
    "warp_image_ddf",
]
