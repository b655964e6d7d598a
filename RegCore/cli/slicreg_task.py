"""SLIC-Reg's preparation and the configuration of its training, as Slicer's Train panel asks for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from RegCore.cli.slicreg_labels import files_of
from RegCore.progress import Progress


def other_than(template: Path, scans: list[Path], valid: list[Path]) -> list[Path]:
    """The scans to learn from without those that are the template or watch the training."""
    taken = {template.resolve(), *(path.resolve() for path in valid)}
    return [path for path in scans if path.resolve() not in taken]


def prepared_config(asked: Mapping[str, Any], device: str, progress: Progress) -> dict[str, Any]:
    """Prepare a template and scans, or go on with it, and say how to train on that.

    Args:
        asked: ``template``, a file; ``scans`` and ``valid``, folders, the latter may be ""; ``folder``, where
            the preparation is kept; ``modality``, ``small`` and ``steps``; optionally ``settings`` of
            `FolderSettings`.
        device: where to register the template to the scans.
        progress: told of each scan.

    Returns:
        What a YAML file would say.

    Raises:
        InputError: what can't be used.
    """
    from RegCore.networks.device import choose_device
    from RegCore.slicreg.folder import FolderSettings
    from RegCore.slicreg.folder_making import prepare_folder
    from RegCore.slicreg.label_propagation import image_propagator
    from RegCore.slicreg.presets import training_config

    template, scans = Path(asked["template"]), files_of([Path(asked["scans"])])
    valid = files_of([Path(asked["valid"])]) if asked.get("valid") else []
    settings = FolderSettings(modality=asked["modality"], **asked.get("settings", {}))
    folder = prepare_folder(
        Path(asked["folder"]),
        template,
        other_than(template, scans, valid),
        valid,
        settings=settings,
        propagator=image_propagator(choose_device(device)),
        progress=progress,
    )
    return training_config(folder, small=asked["small"], steps=asked["steps"])
