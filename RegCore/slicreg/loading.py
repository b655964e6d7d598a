"""Prepared scans for the training loop: the loader ``supervoxels``, its files, and their augmentation."""

from pathlib import Path
from random import Random

import numpy as np
import torch

from RegCore.loaders import Sample, Source
from RegCore.loaders.augmentation import random_ddf
from RegCore.resampler import affine_coordinates, gaussian_smooth, sample
from RegCore.slicreg.folder import Template, read_scan, read_template, scan_files
from RegCore.slicreg.network import STRIDE
from RegCore.slicreg.supervoxels import index_matrix
from RegCore.space.geometry import Geometry, InputError

MOST_KEPT = 2**30  # bytes of scans that are not read again
COARSE = 6  # points along each axis between which a random deformation is smooth


class ScanFiles(Source):
    """The scans of ``prepared/train`` or ``prepared/valid``.

    Raises:
        InputError: the preparation is not finished; see `RegCore.slicreg.folder`.
    """

    def __init__(self, folders: list[str], name: str, grouped: bool = False):
        if len(folders) != 1:
            raise InputError(f"{', '.join(folders)}: prepared scans come from one folder, with one template")
        self.folder = Path(folders[0])
        paths = scan_files(self.folder)
        super().__init__({(folders[0], path.stem): path for path in paths}, grouped, name)

    def read(self, index: int) -> tuple[np.ndarray, Geometry]:
        """The image (I, J, K) of a prepared scan, in the network's units; its grid is the unit grid."""
        image = read_scan(self.places[index]).image
        return image, Geometry(image.shape, np.eye(4))

    @property
    def template(self) -> Template:
        """The template that the scans were prepared with."""
        return read_template(self.folder.parent)


class Scans:
    """The loader of ``dataset.type: supervoxels``: each scan by itself, `repeats` times in an epoch.

    Attributes:
        template: what the scans' supervoxels come from.
    """

    num_indices = 1
    labeled = False
    axes = None
    sides = ()

    def __init__(self, source: ScanFiles, *, repeats: int = 1, seed: int | None = None):
        if repeats < 1:
            raise InputError(f"dataset.repeats must be at least 1, but it is {repeats}")
        self.source, self.repeats, self.seed = source, repeats, seed
        self.template = source.template
        self._kept: dict[int, dict] = {}

    @property
    def fixed_image_shape(self) -> tuple[int, int, int]:
        """The network's grid."""
        return self.template.image.geometry.shape

    moving_image_shape = fixed_image_shape

    @property
    def names(self) -> list[str]:
        """What the scans are called."""
        return [path.stem for path in self.source.places]

    def __len__(self) -> int:
        return len(self.source) * self.repeats

    def samples(self, epoch: int = 0, seed: int = 0) -> list[Sample]:
        """All scans in a new order, then all again, as often as is asked for."""
        rng = Random(self.seed if self.seed is not None else f"order/{seed}/{epoch}")
        found = []
        for _ in range(self.repeats):
            order = list(range(len(self.source)))
            rng.shuffle(order)
            found += [Sample(n, n, (n,), -1) for n in order]
        return found

    def load(self, sample: Sample, part=None) -> dict:
        """One scan: ``image`` (1, I, J, K) float32, ``supervoxels`` (L, I, J, K) whole numbers, ``places``
        (3, i, j, k) as in `RegCore.slicreg.folder.TrainingScan`, ``indices`` and ``name``.

        Args:
            part: as other loaders have it; not used.

        Raises:
            InputError: the file can't be used; the message names it.
        """
        if sample.fixed not in self._kept:
            loaded = self._read(sample)
            size = sum(x.nbytes for x in loaded.values() if isinstance(x, torch.Tensor))
            if size * (len(self._kept) + 1) > MOST_KEPT:
                return loaded
            self._kept[sample.fixed] = loaded
        return dict(self._kept[sample.fixed])

    def _read(self, sample: Sample) -> dict:
        path = self.source.places[sample.fixed]
        scan, wanted = read_scan(path), self.template.supervoxels
        if scan.image.shape != self.fixed_image_shape or scan.supervoxels.shape != wanted.labels.shape:
            raise InputError(f"{path}: does not belong to the template beside it; prepare the scans again")
        labels = scan.supervoxels if wanted.count < 256 else scan.supervoxels.astype(np.int32)
        return {
            "image": torch.from_numpy(scan.image)[None],
            "supervoxels": torch.from_numpy(labels),
            "places": torch.from_numpy(scan.places),
            "indices": list(sample.indices),
            "name": path.stem,
        }

    def close(self) -> None:
        """Forget what was read."""
        self._kept.clear()


def supervoxels(
    open_files, *, labeled: bool, sample_label: str, seed: int | None, skip_bad_files: bool, repeats: int = 1
) -> Scans:
    """Prepared scans; `repeats` of them make an epoch, whose end is noted, validated and saved each time."""
    source = open_files("scans")
    if not isinstance(source, ScanFiles):
        raise InputError("dataset: the type supervoxels goes with the format slicreg")
    return Scans(source, repeats=repeats, seed=seed)


# ---- augmentation ------------------------------------------------------------------------------------------


def together(spread: float = 0.07, bending: float = 0.0, contrast: float = 0.0):
    """Scans, their supervoxels and places seen through one random map.

    Args:
        spread: standard deviation of the twelve entries of an affine matrix about the identity, in units of
            the grid's half extents.
        bending: standard deviation of smooth random displacements besides, in the mean half extent.
        contrast: largest part by which intensities are multiplied up or down.

    Raises:
        InputError: a negative number.
    """
    for name, value in (("spread", spread), ("bending", bending), ("contrast", contrast)):
        if not value >= 0:
            raise InputError(f"{name} must not be negative, but it is {value}")

    def augmented(batch: dict, generator: torch.Generator) -> dict:
        one = [_one(batch, n, (spread, bending, contrast), generator) for n in range(len(batch["image"]))]
        return batch | {key: torch.cat([sample[key] for sample in one]) for key in one[0]}

    return augmented


def _one(batch: dict, number: int, strengths: tuple, generator: torch.Generator) -> dict:
    """One sample of a batch, pulled: image linear with its edges repeated, supervoxels nearest."""
    spread, bending, contrast = strengths
    image, labels, places = (batch[key][number : number + 1] for key in ("image", "supervoxels", "places"))
    shape = image.shape[2:]
    entries = spread * torch.randn((3, 4), generator=generator, dtype=torch.float64).numpy()
    at = affine_coordinates(index_matrix(shape, entries), shape, device=image.device)
    if bending:
        at = at + _bend(shape, bending, generator, image.device)
    cells = at[:, :, ::STRIDE, ::STRIDE, ::STRIDE] / STRIDE
    gain = 1 + contrast * (2 * torch.rand((), generator=generator).item() - 1)
    return {
        "image": sample(image, at) * gain,
        "supervoxels": sample(labels, at, nearest=True, border="constant"),
        "places": sample(places, cells),
    }


def _bend(shape, bending: float, generator: torch.Generator, device) -> torch.Tensor:
    """Smooth displacements ``(1, 3, I, J, K)`` in voxels, of the given standard deviation in half extents."""
    field = random_ddf(1, shape, 1.0, COARSE, generator, device=device)
    field = gaussian_smooth(field, np.array(shape) / COARSE / 2)
    return field * (bending * float(np.mean(shape)) / 2 / field.std().clamp_min(1e-6))
