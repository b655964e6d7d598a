"""Sampling, warping and composing on voxel grids: the one place that knows how coordinates become values.

Tensors are ``(B, C, I, J, K)``; coordinates and displacements are ``(B, 3, i, j, k)`` in voxels of the grid
that is sampled, channel order i, j, k.
"""

from RegCore.resampler.fields import (
    compose,
    folding_fraction,
    integrate,
    resample_ddf,
    resize3d,
    resize_ddf,
    voxel_jacobian,
    warp_image_ddf,
)
from RegCore.resampler.grids import (
    affine_coordinates,
    affine_ddf,
    deconv_output_padding,
    get_n_bits_combinations,
    get_reference_grid,
    index_map,
    reference_grid,
    warp_grid,
)
from RegCore.resampler.sampling import BORDERS, pyramid_combination, resample, sample
from RegCore.resampler.smoothing import (
    box_mean,
    box_sum,
    gaussian_filter_3d,
    gaussian_smooth,
    replicate_pad_transposed,
)
from RegCore.resampler.splines import bspline_field, control_point_field, onto_control_points
from RegCore.resampler.volumes import field_of, inverted, tensor_of, warp

__all__ = [
    "BORDERS",
    "affine_coordinates",
    "affine_ddf",
    "box_mean",
    "box_sum",
    "bspline_field",
    "compose",
    "control_point_field",
    "deconv_output_padding",
    "field_of",
    "folding_fraction",
    "replicate_pad_transposed",
    "gaussian_filter_3d",
    "gaussian_smooth",
    "get_n_bits_combinations",
    "get_reference_grid",
    "index_map",
    "integrate",
    "inverted",
    "onto_control_points",
    "pyramid_combination",
    "reference_grid",
    "resample",
    "resample_ddf",
    "resize3d",
    "resize_ddf",
    "sample",
    "tensor_of",
    "voxel_jacobian",
    "warp",
    "warp_grid",
    "warp_image_ddf",
]
