"""What the tests of ``regcore slicreg`` share: a prepared folder and a model, made by the commands."""

import numpy as np
import pytest

import RegCore
from RegCore.cli import main
from RegCore.space.volume import Segment, Volume
from Testing.RegCore.slicreg import synthetic

SEGMENTS = (Segment(1, "Back", colour=(0.2, 0.4, 0.6)), Segment(2, "Front", colour=(0.9, 0.5, 0.1)))
SHIFT = np.array([7.0, -5.0, 3.0])  # mm from one scan to the next


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A prepared folder and a model, made by the commands; SLIC and the registration are stand-ins."""
    folder = tmp_path_factory.mktemp("slicreg")
    (folder / "scans").mkdir()
    synthetic.files(folder / "scans", RegCore.save)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("RegCore.slicreg.folder_making.oversegment", synthetic.octants)
        patch.setattr(
            "RegCore.slicreg.label_propagation.image_propagator", lambda device: synthetic.PROPAGATOR
        )
        assert main(prepare(folder)) == 0
    command = ["slicreg", "train", str(folder / "prepared"), "--out", str(folder / "run"), "--small"]
    options = ["--steps", "110", "--batch-size", "2", "--seed", "0", "--device", "cpu", "--quiet"]
    assert main(command + options) == 0
    return folder


def prepare(folder) -> list[str]:
    scans, grid = folder / "scans", ["--shape", "32", "32", "32", "--spacing", "8", "--margin", "0"]
    command = ["slicreg", "prepare", "--template", scans / "scan0.nii.gz", "--scans", scans, "--quiet"]
    command += ["--valid", scans / "scan3.nii.gz", "--out", folder / "prepared", "--layers", "2"]
    return [str(part) for part in [*command, "--supervoxels", "8", *grid]]


def image(work, n: int) -> str:
    return str(work / "scans" / f"scan{n}.nii.gz")


def segmentation(work, n: int, ending: str = ".nii.gz") -> str:
    """Halves of the body in front and behind."""
    path = work / f"seg{n}{ending}"
    if not path.exists():
        volume = synthetic.ball(n * SHIFT, n)
        front = volume.geometry.world_grid()[..., 1] > n * SHIFT[1]
        array = np.where(volume.array > -300, 1 + front, 0).astype(np.uint8)
        RegCore.save(Volume(array, volume.geometry, "labels", SEGMENTS), path)
    return str(path)
