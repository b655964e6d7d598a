"""RegCore's child process in which SLIC-Reg prepares small scans: boxes for SLIC, shifts for anatomy."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from RegCore.cli import slicreg_task, worker  # noqa: E402

SMALL = {"spacing": 8.0, "shape": (32, 32, 32), "layers": 2, "count": 8, "margin": 0.0}


def prepared_config(asked, device, progress):
    """As the real one, with a grid that suits the scans and the stand-ins of Testing/RegCore/slicreg."""
    from RegCore.slicreg import folder_making, label_propagation
    from Testing.RegCore.slicreg import synthetic

    folder_making.oversegment = synthetic.octants
    label_propagation.image_propagator = lambda device: synthetic.PROPAGATOR
    return slicreg_task.prepared_config({**asked, "settings": SMALL}, device, progress)


if __name__ == "__main__":
    worker.prepared_config = prepared_config
    raise SystemExit(worker.main())
