"""Layers: DeepReg's blocks in torch, by their newer and older names, and the wrappers that torch.nn lacks."""

from torch.nn import MaxPool3d

from RegCore.networks.layers.blocks import (
    AdditiveUpSampling,
    Conv3dBlock,
    Conv3dWithResize,
    Deconv3dBlock,
    DownSampleResnetBlock,
    LocalNetResidual3dBlock,
    LocalNetUpSampleResnetBlock,
    ResidualConv3dBlock,
    UpSampleResnetBlock,
)
from RegCore.networks.layers.convolution import (
    ACTIVATIONS,
    INITIALISERS,
    NORMS,
    BatchNorm3d,
    Conv3d,
    Deconv3d,
    LayerNorm,
    Norm,
    down_sampled,
    max_pool3d_same,
)
from RegCore.networks.layers.heads import AffineHead, Extraction, IntDVF, KeypointHead, Warping, fit_theta
from RegCore.networks.layers.memory_efficient import ConvStage, recomputed

Residual3dBlock = ResidualConv3dBlock
AdditiveUpsampling = AdditiveUpSampling

__all__ = [
    "ACTIVATIONS",
    "INITIALISERS",
    "NORMS",
    "AdditiveUpSampling",
    "AdditiveUpsampling",
    "AffineHead",
    "BatchNorm3d",
    "Conv3d",
    "Conv3dBlock",
    "Conv3dWithResize",
    "ConvStage",
    "Deconv3d",
    "Deconv3dBlock",
    "DownSampleResnetBlock",
    "Extraction",
    "IntDVF",
    "KeypointHead",
    "LayerNorm",
    "LocalNetResidual3dBlock",
    "LocalNetUpSampleResnetBlock",
    "MaxPool3d",
    "Norm",
    "Residual3dBlock",
    "ResidualConv3dBlock",
    "UpSampleResnetBlock",
    "Warping",
    "down_sampled",
    "fit_theta",
    "max_pool3d_same",
    "recomputed",
]
