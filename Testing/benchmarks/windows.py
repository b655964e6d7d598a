"""How long Slicer's windows stand still while large volumes are registered, in the test host.

The process answers at once, with a warped volume of the size of the fixed one and a field of 1.6 million
voxels, so that what is measured is the panel: reading the nodes, writing the request, reading the answer and
putting it into the scene. A timer of Qt notes the longest time between two of its ticks.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT)]
MODULE = ROOT / "DeepRegSlicer" / "DeepRegSlicer.py"
WORKER = """
import sys
sys.path.insert(0, {root!r})
import numpy as np
from RegCore import DisplacementField, Volume
from RegCore.cli import worker
def register(arguments, progress):
    fixed = arguments["fixed"]
    grid = fixed.geometry.resized((128, 128, 100))
    warped = Volume(arguments["moving"].array.astype(np.float32), fixed.geometry, "image")
    field = DisplacementField(grid, np.ones((*grid.shape, 3), np.float32))
    return dict(transform=field, warped=warped, warped_labels=None, metrics=dict(), seconds=1.0, device="cpu")
worker.COMMANDS["register"] = register
raise SystemExit(worker.main())
"""


def measure(shape: tuple[int, int, int]) -> tuple[str, float]:
    """What the panel says at the end, and the longest time between two ticks in seconds."""
    import SlicerHost

    host = SlicerHost.start()
    import slicer

    module = host.load_module(MODULE)
    from DeepRegSlicerLib import process

    process.worker_command = lambda: [sys.executable, "-c", WORKER.format(root=str(ROOT))]
    for name in ("fixed", "moving"):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        voxels = np.random.default_rng(0).integers(-1000, 1000, shape[::-1], dtype=np.int16)
        slicer.util.updateVolumeFromArray(node, voxels)
        node.CreateDefaultDisplayNodes()
        getattr(module.ui, f"{name}VolumeSelector").setCurrentNode(node)
    ticks = []
    timer = host.qt.QTimer()
    timer.setInterval(5)
    timer.timeout.connect(lambda: ticks.append(time.monotonic()))
    timer.start()
    host.spin(0.5)
    begun = len(ticks) - 1
    module.ui.registerButton.click()
    host.spin(600, until=lambda: module.widget.panel.run is None)
    host.spin(0.5)
    timer.stop()
    said = module.ui.statusLabel.text
    host.close_all()
    return said, float(np.diff(ticks[begun:]).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", nargs="*", type=int, default=[512, 512, 400], help="voxels of both volumes")
    arguments = parser.parse_args()
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        said, longest = measure(tuple(arguments.shape))
        tempfile.tempdir = None
    print(f"{said}\nThe windows stood still for at most {1000 * longest:.0f} ms.")


if __name__ == "__main__":
    main()
