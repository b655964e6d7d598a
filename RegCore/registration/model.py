"""A trained network ready for use from Python: ``RegCore.load_model("model.pt").register(fixed, moving)``."""

from dataclasses import fields

import numpy as np

from RegCore.networks.model_file import TrainedModel
from RegCore.progress import Progress, silent
from RegCore.registration.checks import choose_device
from RegCore.registration.learned import find_model
from RegCore.registration.register import Registration, register
from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume


class Model(TrainedModel):
    """A `TrainedModel` that registers volumes."""

    def register(
        self,
        fixed: Volume,
        moving: Volume,
        *,
        fixed_labels: Volume | None = None,
        moving_labels: Volume | None = None,
        fixed_mask: Volume | None = None,
        moving_mask: Volume | None = None,
        landmarks: np.ndarray | None = None,
        initial: Transform | str | None = None,
        settings: dict | None = None,
        device: str = "auto",
        seed: int = 0,
        progress: Progress = silent,
    ) -> Registration:
        """Register the moving volume to the fixed one; images of any shape, spacing and orientation.

        Arguments, result and errors are those of `RegCore.register`; segmentations, masks and landmarks
        measure only, unless ``settings={"refine": True}`` lets the deformable method go on from what the
        network found.
        """
        return register(
            fixed,
            moving,
            self,
            fixed_labels=fixed_labels,
            moving_labels=moving_labels,
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            landmarks=landmarks,
            initial=initial,
            settings=settings,
            device=device,
            seed=seed,
            progress=progress,
        )


def load_model(path, config=None, device: str = "auto") -> Model:
    """The trained network of a file.

    Args:
        path: a model file, or a checkpoint ``save/ckpt-2``, ours or DeepReg's.
        config: for a checkpoint of DeepReg, where its ``../config.yaml`` is missing or wrong.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises InputError, which names the file.
    """
    found = find_model(path, config, choose_device(device))
    return Model(*(getattr(found, field.name) for field in fields(found)))
