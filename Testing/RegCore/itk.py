"""SimpleITK as the reference for what lies where: volumes and transforms in RAS mm, in its LPS."""

import numpy as np
import SimpleITK as sitk

from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS <-> LPS


def itk_image(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    """An array (I, J, K) or (I, J, K, C) in space as an image of SimpleITK, which stores k slowest."""
    axes = (2, 1, 0, 3)[: array.ndim]
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(axes)), isVector=array.ndim == 4)
    affine = FLIP @ geometry.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def itk_transform(transform) -> sitk.Transform:
    """An affine transform or a displacement field as one of SimpleITK's."""
    if isinstance(transform, DisplacementField):
        lps = transform.mm.astype(np.float64) * [-1, -1, 1]
        return sitk.DisplacementFieldTransform(itk_image(lps, transform.geometry))
    matrix = FLIP @ transform.matrix @ FLIP
    out = sitk.AffineTransform(3)
    out.SetMatrix(matrix[:3, :3].ravel().tolist())
    out.SetTranslation(matrix[:3, 3].tolist())
    return out


def resampled(
    array: np.ndarray,
    source: Geometry,
    transform: AffineTransform | DisplacementField,
    onto: Geometry,
    *,
    nearest: bool = False,
    fill: float = 0.0,
) -> np.ndarray:
    """An array (I, J, K) on the grid `source` pulled onto a grid by SimpleITK, float64."""
    reference = itk_image(np.zeros(onto.shape, np.uint8), onto)
    out = sitk.Resample(
        itk_image(array.astype(np.float64), source),
        reference,
        itk_transform(transform),
        sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear,
        fill,
        sitk.sitkFloat64,
    )
    return sitk.GetArrayFromImage(out).transpose(2, 1, 0)
