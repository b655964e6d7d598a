"""DeepReg's command ``deepreg_warp``, with files in and out."""

import tempfile
from pathlib import Path

import nibabel
import numpy as np

from RegCore.cli import deepreg


def _warp(case, arrays):
    with tempfile.TemporaryDirectory() as folder:
        image, ddf, out = (Path(folder) / f"{name}.nii.gz" for name in ("image", "ddf", "out"))
        for name, path in (("image", image), ("ddf", ddf)):
            nibabel.save(
                nibabel.Nifti1Image(arrays[name], np.array(case.get("input_affine", np.eye(4)))), path
            )
        code = deepreg.warp(["--deepreg", "-i", str(image), "-d", str(ddf), "-o", str(out)])
        assert code == 0
        return {"out": nibabel.load(out).get_fdata().astype(np.float32)}


FUNCTIONS = {"deepreg_warp": _warp}
