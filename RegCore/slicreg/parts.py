"""Enters what SLIC-Reg adds into the tables that a configuration looks names up in."""

from RegCore.loaders import FILE_LOADERS, LOADERS
from RegCore.loaders.augmentation import AUGMENTATIONS
from RegCore.networks.architectures import NETWORKS
from RegCore.networks.models import METHODS
from RegCore.slicreg.loading import ScanFiles, supervoxels, together
from RegCore.slicreg.methods import DeepLab, SlicReg, SlicRegression

METHODS |= {"slicreg": SlicReg, "slicreg-regression": SlicRegression}
NETWORKS |= {"deeplab": DeepLab}
LOADERS |= {"supervoxels": supervoxels}
FILE_LOADERS |= {"slicreg": ScanFiles}
AUGMENTATIONS |= {"affine-together": together}
