"""A child process that answers like RegCore's at once, or misbehaves on demand, for the tests of the module.

The setting "play" of a request says what to do: "shift" (an affine transform), "bend" (a displacement field),
"crash", "exit", "deaf", "input", "memory", "missing", "spoilt". "steps" and "seconds" say how long it takes,
"hold" in which stage it stays for ever, "say" what it prints.
A training plays what the name of its folder says, up to "-". Called with --launcher, this file starts itself
again and waits, as Slicer's PythonSlicer does.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__" and "--launcher" in sys.argv:
    raise SystemExit(subprocess.call([sys.executable, __file__]))

import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scipy.ndimage import map_coordinates  # noqa: E402

from RegCore.cli import extras, worker  # noqa: E402
from RegCore.progress import Cancelled  # noqa: E402
from RegCore.space.geometry import InputError  # noqa: E402
from RegCore.space.transforms import AffineTransform, DisplacementField  # noqa: E402
from RegCore.space.volume import Volume, check_image, check_labels, extent  # noqa: E402

TURN = 0.08  # radians about the S axis
SHIFT = np.array([2.0, -3.0, 1.5])  # mm


def shift() -> AffineTransform:
    """A small rotation and a shift."""
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]]
    matrix[:3, 3] = SHIFT
    return AffineTransform(matrix)


def bend(fixed: Volume) -> DisplacementField:
    """A smooth field on the fixed grid, different along each axis."""
    x = fixed.geometry.world_grid() / 20
    waves = [2 * np.sin(x[..., 1]) + 1, 1.5 * np.cos(x[..., 2]), np.sin(x[..., 0] + x[..., 1]) - 1]
    return DisplacementField(fixed.geometry, np.stack(waves, -1))


ORDERS = {"nearest": 0, "linear": 1, "cubic": 3}


def warped(volume: Volume, transform, fixed: Volume, interpolation="linear", fill=None) -> Volume:
    """The moving volume pulled onto the fixed grid, by SciPy alone."""
    index = volume.geometry.to_index(transform.map(fixed.geometry.world_grid()))
    order = 0 if volume.kind == "labels" else ORDERS[interpolation]
    values = volume.array if volume.kind == "labels" else volume.array.astype(np.float32)
    channels = values if values.ndim == 4 else values[..., None]
    pulled = [
        map_coordinates(channel, np.moveaxis(index, -1, 0), order=order, cval=fill or 0)
        for channel in np.moveaxis(channels, -1, 0)
    ]
    array = np.stack(pulled, -1) if volume.array.ndim == 4 else pulled[0]
    return Volume(array, fixed.geometry, volume.kind)


def misbehave(play: str) -> None:
    """Fail in the way asked for, if one is."""
    if play == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if play == "exit":
        os._exit(3)
    if play == "deaf":
        time.sleep(60)
    if play == "input":
        raise InputError("moving: the image is constant (every voxel is 0), there is nothing to align")
    if play == "memory":
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    if play == "missing":
        raise ModuleNotFoundError("No module named 'torch'", name="torch")


def measured(settings: dict, points) -> dict:
    """What `RegCore.cli.tasks.checked` gives, made up."""
    figures = {"dice": {"before": 0.41, "after": 0.93}, "hd95_mm": {"before": 7.5, "after": 1.5}}
    figures["centroid_mm"] = {"before": 0.5, "after": 0.25}
    errors = None
    if points is not None:
        numbers = range(len(points))
        errors = {"before": [n + 2.0 for n in numbers], "after": [n / 2 for n in numbers]}
    structures = {1: figures, 2: figures}
    return {"structures": structures, "landmark_errors": errors, "outside": settings.get("outside", 3.0)}


def check(arguments: dict) -> None:
    """Refuse what `RegCore.registration.checks.check_pair`, which needs torch, refuses."""
    for side in ("fixed", "moving"):
        image = extras.as_image(arguments[side])
        check_image(image, f"the {side} volume")
        for part, what in (("labels", "segmentation"), ("mask", "mask")):
            volume = arguments.get(f"{side}_{part}")
            if volume is None:
                continue
            if part == "labels":
                check_labels(volume, f"the {side} segmentation")
            marked = extent(volume)
            if marked is None or not marked.overlaps(image.geometry):
                raise InputError(f"the {side} {what} marks nothing of the {side} volume")


def register(arguments: dict, progress) -> dict:
    """What `RegCore.cli.worker.register_command` gives, made up."""
    settings, wanted = arguments["settings"] or {}, arguments.get("wanted") or {}
    play, steps = settings.get("play", "shift"), settings.get("steps", 3)
    progress(0.0, "starting on cpu", {"device": "cpu"})
    if "say" in settings:
        print(settings["say"], file=sys.stderr, flush=True)
    for step in range(steps):
        stage = "stage one" if 2 * step < steps else "stage two"
        progress(step / steps, stage, {"iteration": step, "loss": 0.5})
        if settings.get("hold") == stage:
            time.sleep(600)  # longer than anybody waits
        time.sleep(settings.get("seconds", 0.01))
    misbehave(play)
    fixed, moving = arguments["fixed"], arguments["moving"]
    transform = bend(fixed) if play == "bend" else shift()
    labels = arguments.get("moving_labels")
    result = {
        "transform": transform,
        "warped": warped(moving, transform, fixed, wanted.get("interpolation", "linear"), wanted.get("fill")),
        "warped_labels": None if labels is None else warped(labels, transform, fixed),
        "metrics": {
            "dice": {"before": {1: 0.41, 2: 0.35}, "after": {1: 0.93, 2: 0.88}},
            "dice_mean": {"before": 0.38, "after": 0.905},
            "ncc": {"before": 0.61, "after": 0.97},
            "fold_percent": 0.0,
        },
        "seconds": 1.25,
        "device": "cpu",
    }
    if wanted.get("inverse"):
        result["inverse"] = transform.inverse() if play == "shift" else transform  # a field has no exact one
    maps = extras.maps_command({"transform": transform, "fixed": fixed}, progress)
    result |= {kind: maps[kind] for kind in maps if wanted.get(kind)}
    if settings.get("check"):
        result |= measured(settings, arguments.get("landmarks"))
    if play == "spoilt":
        result["warped"] = Volume(
            result["warped"].array[1:], fixed.geometry.cropped((1, 0, 0), fixed.array.shape)
        )
    return result


def train(arguments: dict, progress) -> dict:
    """What `RegCore.cli.worker.train_command` gives, made up: epochs of three steps, empty files."""
    folder, history = Path(arguments["folder"]), []
    epochs = arguments["max_epochs"] or 4
    (folder / "save").mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("made: up")
    for epoch in range(1, epochs + 1):
        known = {"epoch": epoch, "epochs": epochs, "seconds_left": 0.1 * (epochs - epoch)}
        try:
            for step in range(3):
                told = {**known, "loss": 1 / (epoch + step / 3)}
                progress((epoch - 1 + step / 3) / epochs, f"epoch {epoch} of {epochs}: training", told)
                time.sleep(0.02)
            row = {"epoch": epoch, "learning_rate": 0.1, "loss": 1 / epoch, "val_loss": 1 / epoch + 0.1}
            history.append(row)
            (folder / "save" / "best.pt").touch()
            progress(epoch / epochs, f"epoch {epoch} of {epochs}: validated", {**known, **row})
        except Cancelled:
            (folder / "save" / "last.pt").touch()
            raise
        if epoch == 2:
            misbehave(folder.name.split("-")[0])
    found = {"folder": str(folder), "model": str(folder / "save" / "best.pt"), "method": "ddf"}
    return {**found, "history": history, "ended": "finished"}


if __name__ == "__main__":
    worker.COMMANDS |= {"register": lambda *given: check(given[0]) or register(*given), "train": train}
    raise SystemExit(worker.main())
