"""Registers a pair with a program of others; run by a Python that has them, never by the product's own.

    PEERS_PYTHON peers.py --list            names and versions of those that are installed, as JSON
    PEERS_PYTHON peers.py greedy [--nmi]    registers fixed.nii.gz and moving.nii.gz of the working folder

The whole process counts, so each function imports what it needs and nothing more. It leaves the displacement
of every fixed voxel: field.nii.gz (LPS mm, as ITK has it) or field.npz (``ddf``, RAS mm). Settings are those
that a program has by itself; where it has none, they stand here.
"""

import argparse
import importlib.metadata
import json
import os
from pathlib import Path

FIXED, MOVING = "fixed.nii.gz", "moving.nii.gz"
LPS = (-1.0, -1.0, 1.0)


def greedy(nmi: bool) -> None:
    """Affine, then greedy diffeomorphic registration; local correlation, or mutual information."""
    from picsl_greedy import Greedy3D

    program, metric = Greedy3D(), "NMI" if nmi else "NCC 2x2x2"
    common = f"-threads 2 -m {metric} -i {FIXED} {MOVING} -n 100x50x10"
    program.execute(f"-a -dof 12 -ia-image-centers {common} -o affine.mat")
    program.execute(f"{common} -it affine.mat -o warp.nii.gz")
    program.execute(f"-rf {FIXED} -r warp.nii.gz affine.mat -rc field.nii.gz")


def ants(nmi: bool) -> None:
    """SyN as it is by default: affine, then symmetric normalisation by mutual information."""
    import ants

    fixed, moving = ants.image_read(FIXED), ants.image_read(MOVING)
    found = ants.registration(fixed, moving, type_of_transform="SyN", outprefix="ants_")
    path = ants.apply_transforms(fixed, moving, found["fwdtransforms"], compose="composed_")
    Path(path).rename("field.nii.gz")


def _elastix(stages):
    """The field of elastix's default stages: fixed image, moving image, LPS mm in the order k, j, i."""
    import itk

    fixed, moving = itk.imread(FIXED, itk.F), itk.imread(MOVING, itk.F)
    parameters = itk.ParameterObject.New()
    for stage in stages:
        parameters.AddParameterMap(parameters.GetDefaultParameterMap(stage))
    _, found = itk.elastix_registration_method(fixed, moving, parameter_object=parameters)
    return fixed, moving, itk.array_from_image(itk.transformix_deformation_field(moving, found))


def _save(lps) -> None:
    """An LPS field in the order k, j, i as field.npz."""
    import numpy as np

    np.savez("field.npz", ddf=(lps.transpose(2, 1, 0, 3) * LPS).astype(np.float32))


def elastix(nmi: bool) -> None:
    """Affine, then B-splines, both with the default parameter maps."""
    _save(_elastix(["affine", "bspline"])[2])


def _affine():
    """The fixed image, the moving one resampled by elastix's affine transform, and that; of SimpleITK."""
    import numpy as np
    import SimpleITK as sitk

    field = _elastix(["affine"])[2]
    fixed, moving = (sitk.ReadImage(path, sitk.sitkFloat32) for path in (FIXED, MOVING))
    last = np.array(fixed.GetSize()) - 1
    corners = [tuple(int(n) for n in last * bits) for bits in np.ndindex(2, 2, 2)]
    at = np.array([fixed.TransformIndexToPhysicalPoint(corner) for corner in corners])
    to = at + np.array([field[corner[::-1]] for corner in corners])
    solved = np.linalg.lstsq(np.hstack([at, np.ones((8, 1))]), to, rcond=None)[0]
    affine = sitk.AffineTransform(solved[:3].T.ravel().tolist(), solved[3].tolist())
    air = float(sitk.GetArrayViewFromImage(moving).min())
    return fixed, sitk.Resample(moving, fixed, affine, sitk.sitkLinear, air), affine


def _points(image):
    """LPS mm of every voxel, in the order k, j, i."""
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(
        sitk.PhysicalPointSource(
            sitk.sitkVectorFloat64,
            image.GetSize(),
            image.GetOrigin(),
            image.GetSpacing(),
            image.GetDirection(),
        )
    )


def _save_after(fixed, affine, lps) -> None:
    """The field of first a displacement ``lps``, k, j, i, and then the affine transform."""
    import numpy as np

    points = _points(fixed)
    matrix = np.array(affine.GetMatrix()).reshape(3, 3)
    _save((points + lps) @ matrix.T + affine.GetTranslation() - points)


def demons(nmi: bool) -> None:
    """SimpleITK's diffeomorphic demons on three grids, after elastix's affine transform.

    Histograms matched, 100, 100 and 50 steps, the field smoothed by a Gaussian of 1.5 voxels.
    """
    import SimpleITK as sitk

    fixed, moved, affine = _affine()
    moved = sitk.HistogramMatching(moved, fixed, 1024, 7, True)
    field = None
    for shrink, steps in ((4, 100), (2, 100), (1, 50)):
        factors = [min(shrink, max(1, n // 16)) for n in fixed.GetSize()]
        pair = [fixed, moved]
        if shrink > 1:
            pair = [sitk.Shrink(sitk.SmoothingRecursiveGaussian(i, shrink / 2), factors) for i in pair]
        program = sitk.DiffeomorphicDemonsRegistrationFilter()
        program.SetNumberOfIterations(steps)
        program.SetStandardDeviations(1.5)
        if field is not None:
            field = sitk.Resample(field, pair[0], sitk.Transform(), sitk.sitkLinear)
            field = program.Execute(*pair, field)
        else:
            field = program.Execute(*pair)
    _save_after(fixed, affine, sitk.GetArrayFromImage(field))


def convexadam(nmi: bool) -> None:
    """Coupled convex optimisation of MIND-SSC and Adam, after elastix's affine transform."""
    import numpy as np
    import SimpleITK as sitk
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    torch.set_num_threads(2)
    fixed, moved, affine = _affine()
    arrays = [sitk.GetArrayFromImage(image).transpose(2, 1, 0).copy() for image in (fixed, moved)]
    voxels = convex_adam_pt(*arrays, device=torch.device("cpu"), dtype=torch.float32)
    steps = np.array(fixed.GetDirection()).reshape(3, 3) * fixed.GetSpacing()
    _save_after(fixed, affine, (voxels @ steps.T).transpose(2, 1, 0, 3))


def fireants(nmi: bool) -> None:
    """Moments, affine and greedy registration, steps and smoothing as its examples of brains have them.

    Local correlation, or, where contrasts differ, mutual information. Without its CUDA kernels.
    """
    import torch
    from fireants.io.image import BatchedImages, Image
    from fireants.registration.affine import AffineRegistration
    from fireants.registration.greedy import GreedyRegistration

    torch.set_num_threads(2)
    pair = [BatchedImages([Image.load_file(path, device="cpu")]) for path in (FIXED, MOVING)]
    loss = {"loss_type": "mi" if nmi else "cc", "cc_kernel_size": 5}
    more = {"optimizer": "Adam", "optimizer_lr": 3e-4, "init_rigid": "cof"}
    first = AffineRegistration([8, 4, 2, 1], [200, 100, 50, 20], *pair, **loss, **more)
    first.optimize()
    matrix = first.get_affine_matrix().detach()
    more = {"optimizer": "Adam", "optimizer_lr": 0.5, "smooth_grad_sigma": 1.0, "init_affine": matrix}
    program = GreedyRegistration([4, 2, 1], [200, 100, 25], *pair, **loss, **more)
    program.optimize()
    program.save_as_ants_transforms("field.nii.gz")


def syntx(nmi: bool) -> None:
    """Affine and SyN in PyTorch as they are by default; mutual information where contrasts differ."""
    import sys
    import types

    # it imports a package that it doesn't declare and that can't be installed; registration goes without
    sys.modules["antstorch"] = types.ModuleType("antstorch")
    import ants
    import torch
    from syntx import registration

    torch.set_num_threads(2)
    fixed, moving = ants.image_read(FIXED), ants.image_read(MOVING)
    more = {"syn_metric": "mattes_mi"} if nmi else {}
    found = registration(fixed, moving, **more)
    path = ants.apply_transforms(fixed, moving, found["fwdtransforms"], compose="composed_")
    Path(path).rename("field.nii.gz")


PEERS = {
    "greedy": (greedy, ["picsl_greedy"]),
    "ants": (ants, ["antspyx"]),
    "elastix": (elastix, ["itk-elastix"]),
    "demons": (demons, ["SimpleITK", "itk-elastix"]),
    "convexadam": (convexadam, ["convexadam", "itk-elastix"]),
    "fireants": (fireants, ["fireants"]),
    "syntx": (syntx, ["syntx"]),
}
"""Name -> function, and the packages that it needs; the first one gives the version."""


def installed() -> dict[str, str]:
    """Versions of the programs whose packages are all there."""
    found = {}
    for name, (_, packages) in PEERS.items():
        try:
            found[name] = [f"{package} {importlib.metadata.version(package)}" for package in packages][0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print versions of those that are there")
    parser.add_argument("--nmi", action="store_true", help="the images have different contrasts")
    parser.add_argument("program", nargs="?", choices=list(PEERS))
    arguments = parser.parse_args()
    if arguments.list:
        print(json.dumps(installed()))
    else:
        PEERS[arguments.program][0](arguments.nmi)
        os._exit(0)  # some of their libraries crash while they are unloaded, when all is done


if __name__ == "__main__":
    main()
