"""A prepared folder without any registration or SLIC: boxes for supervoxels, shifts for anatomy."""

import numpy as np

from RegCore.progress import silent
from RegCore.slicreg.folder import FolderSettings
from RegCore.slicreg.folder_making import Propagator, prepare_folder
from RegCore.slicreg.prediction import predict_supervoxels
from RegCore.slicreg.preparation import body_mask, downsample2
from RegCore.slicreg.registration import prepare_for_model
from RegCore.slicreg.supervoxels import Supervoxels
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume

SHAPE, SPACING = (32, 32, 32), 8.0
LAYERS, COUNT = 2, 8
CONTRASTS = (80.0, -60.0, -140.0, -100.0)  # of the organ: no other body is taken for the template, noise 0


def ball(shift=(0.0, 0.0, 0.0), noise: int = 0) -> Volume:
    """A body of soft tissue with an organ, as CT, moved by some mm; the noise tells the patient as well."""
    affine = np.diag([SPACING] * 3 + [1.0])
    affine[:3, 3] = np.asarray(shift) - SPACING * (np.array(SHAPE) - 1) / 2
    grid = Geometry(SHAPE, affine)
    points = grid.world_grid() - np.asarray(shift)
    body = (points**2).sum(-1) < 100**2
    organ = ((points - (30, 10, -20)) ** 2).sum(-1) < 40**2
    image = np.where(body, 100.0, -1000.0) + CONTRASTS[noise % len(CONTRASTS)] * organ
    image += np.random.default_rng(noise).normal(0, 5, SHAPE)
    return Volume(image.astype(np.float32), grid)


def octants(image: Volume, mask: np.ndarray, *, layers, count, progress, **of_slic) -> Supervoxels:
    """In place of SLIC: the octants of the mask about the middle, the layers a voxel apart."""
    index = np.indices(mask.shape)
    found = []
    for layer in range(layers):
        middle = np.array(mask.shape).reshape(3, 1, 1, 1) / 2 + layer
        octant = ((index >= middle) * np.array([1, 2, 4]).reshape(3, 1, 1, 1)).sum(0)
        found.append(np.where(mask, 1 + octant, 0).astype(np.uint8))
    return Supervoxels(np.stack(found), image.geometry, count)


def by_centres(path, scan, template, progress) -> DisplacementField:
    """The true map: all bodies are equal but for their place."""
    matrix = template.image.geometry.affine @ np.linalg.inv(scan.image.geometry.affine)
    return DisplacementField.from_affine(AffineTransform(matrix), scan.image.geometry)


PROPAGATOR = Propagator("centres", by_centres)
SETTINGS = FolderSettings(spacing=SPACING, shape=SHAPE, layers=LAYERS, count=COUNT, margin=0.0)


def files(folder, save, count: int = 4) -> list:
    """Scans 0..count-1 as files; 0 is the template."""
    paths = []
    for n in range(count):
        paths.append(folder / f"scan{n}.nii.gz")
        save(ball((7.0 * n, -5.0 * n, 3.0 * n), n), paths[-1])
    return paths


def prepare(monkeypatch, folder, paths, **options):
    """`prepare_folder` with the stand-ins above; the last scan watches."""
    monkeypatch.setattr("RegCore.slicreg.folder_making.oversegment", octants)
    options = {"settings": SETTINGS, "propagator": PROPAGATOR} | options
    return prepare_folder(folder, paths[0], paths[1:-1], paths[-1:], **options)


def share_right(method, scan: Volume) -> float:
    """Part of a body's voxels whose octant a model tells: about one eighth for one that learnt nothing.

    Where the bodies lie is found without the network, so that registering them does not tell as much.
    """
    small = downsample2(prepare_for_model(method, scan))
    mask = body_mask(small)
    true = octants(small.image, mask, layers=LAYERS, count=COUNT, progress=silent)
    return float((predict_supervoxels(method.network, small).labels == true.labels)[:, mask].mean())
