"""A trained network as one file: `save_model` writes it, `read_model` gives it back ready to predict.

The file is what ``torch.save`` makes of a dict of plain values and tensors::

    format      "DeepRegSlicer model"
    version     1
    config      the configuration that it was trained with, as plain dicts, lists, texts and numbers
    fixed_size  3 voxel counts: what the network gets the images at
    moving_size
    labeled     whether labels took part in the training
    state       weights and moving averages by name
    seen        optional: for "fixed" and "moving" the range of intensities, see `RegCore.loaders.intensity`
    axes        optional: where the voxel axes of fixed and moving images ran in the training, as "RAS"
    spacing     optional: for "fixed" and "moving" the size of the network's voxels in the training, mm
    structures  optional: the names of the structures whose label maps took part
    bf16        optional: whether the training computed in bfloat16
    training    of a checkpoint: what a training needs to go on
    figures     optional: those of the best epoch, in words
    notes       optional: a text on what it was trained on, for whom, under which licence

It is read with ``weights_only``, so that nothing in it can run code.
"""

import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

import RegCore
from RegCore.io.files import atomic_write
from RegCore.networks.models import build_model
from RegCore.progress import Progress, silent
from RegCore.space.geometry import InputError
from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume

FORMAT, VERSION = "DeepRegSlicer model", 1
KINDS = {"config": dict, "fixed_size": list, "moving_size": list, "labeled": bool, "state": dict}
# what the readers of archives and pickles raise for a damaged file
BROKEN = (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError)
BROKEN += (LookupError, TypeError, AttributeError, struct.error)


@dataclass(frozen=True)
class Model:
    """A network and what it needs to be told to do its work.

    Args:
        config: the configuration of the training as plain values.
        fixed_size, moving_size: voxels (I, J, K) that the images are resized to before the network sees them.
        labeled: whether labels took part in the training.
        network: as `RegCore.networks.models.build_model` makes it.
        axes: where the voxel axes of the fixed and the moving images of the training ran
            (`Geometry.axis_codes`), if it is known and was the same for all.
        seen: the intensities of the fixed and of the moving images of the training, as the loaders measure
            them.
        spacing: the size in mm, for "fixed" and "moving", that the network's voxels had in the training, see
            `RegCore.loaders.Loader.spacing`.
        structures: the names of the structures whose label maps took part in the training.
        bf16: whether the training computed in bfloat16, so that predictions may, if that is known.
    """

    config: dict
    fixed_size: tuple[int, int, int]
    moving_size: tuple[int, int, int]
    labeled: bool
    network: nn.Module
    axes: tuple[str, str] | None = None
    seen: dict[str, list[list[float]]] | None = None
    spacing: dict[str, list[float]] | None = None
    structures: list[str] | None = None
    bf16: bool | None = None

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
    ) -> "RegCore.Registration":
        """Register the moving volume to the fixed one; images of any shape, spacing and orientation.

        Short for ``RegCore.register(fixed, moving, model, …)``, whose arguments, result and errors these are;
        segmentations, masks and landmarks measure only, unless ``settings={"refine": True}`` lets the
        method auto go on from what the network found.
        """
        return RegCore.register(
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


def build(config: Mapping, fixed_size, moving_size, labeled: bool, axes=None) -> Model:
    """The model that the section ``train`` of a configuration describes, not yet trained.

    The other arguments are those of `Model`; `RegCore.loaders.Loader` knows the axes of its images.

    Raises:
        InputError: it is not a configuration, or `RegCore.networks.models.build_model` refuses it.
    """
    train = config.get("train")
    if not isinstance(train, Mapping):
        raise InputError("the configuration lacks the section train, which describes the network")
    sizes: list[tuple[int, int, int]] = []
    for name, size in (("fixed", fixed_size), ("moving", moving_size)):
        whole = [n for n in size if isinstance(n, int) and not isinstance(n, bool) and n > 0]
        if len(size) != 3 or len(whole) != 3:
            raise InputError(f"the size of {name} images must be 3 positive whole numbers, but it is {size}")
        sizes.append((whole[0], whole[1], whole[2]))
    network = build_model(train, sizes[0], sizes[1], labeled=labeled)
    return Model(plain(config, "the configuration"), sizes[0], sizes[1], labeled, network, axes)


def save_model(path, trained: Model, training: Mapping | None = None) -> None:
    """Write a model to a file, under another name first, so that the file is there whole or not at all.

    Args:
        path: of the file.
        trained: the model.
        training: for a checkpoint, what the training needs to go on: plain values and tensors.

    Raises:
        InputError: the file can't be written.
        TypeError: the configuration holds other things than dicts, lists, texts, numbers and None.
    """
    path = Path(path)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": plain(trained.config, "the configuration"),
        "fixed_size": list(trained.fixed_size),
        "moving_size": list(trained.moving_size),
        "labeled": trained.labeled,
        "state": {name: tensor.cpu() for name, tensor in trained.network.state_dict().items()},
    }
    if trained.axes is not None:
        content["axes"] = list(trained.axes)
    if trained.seen is not None:
        content["seen"] = plain(trained.seen, "the intensities")
    if trained.spacing is not None:
        content["spacing"] = plain(trained.spacing, "the spacing")
    if trained.structures is not None:
        content["structures"] = [str(name) for name in trained.structures]
    if trained.bf16 is not None:
        content["bf16"] = trained.bf16
    if training is not None:
        content["training"] = training
    write_content(path, content)


def write_content(path: Path, content: Mapping) -> None:
    """Write what a model file holds, see `read_content`; whole or not at all.

    Raises:
        InputError: the file can't be written.
    """
    with atomic_write(path) as side, open(side, "wb") as file:
        try:
            torch.save(dict(content), file)
        except RuntimeError as error:  # torch hides behind it that the disk is full
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        file.flush()
        os.fsync(file.fileno())


def read_model(path, device="cpu") -> Model:
    """The model of a file, its network on the device and set to predict.

    Raises:
        InputError: there is no such file, it is not a model file, a newer or a damaged one, or it needs a
            network or method that is not known here; the message names the file.
    """
    path = Path(path)
    content = read_content(path)
    try:
        axes = tuple(content["axes"]) if "axes" in content else None
        sizes = content["fixed_size"], content["moving_size"]
        made = build(content["config"], *sizes, content["labeled"], axes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    try:
        made.network.load_state_dict(content["state"])
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: its weights do not fit the network it describes: {reason}") from None
    made.network.to(device).eval()
    seen, spacing, structures, bf16 = (content.get(key) for key in ("seen", "spacing", "structures", "bf16"))
    return replace(made, seen=seen, spacing=spacing, structures=structures, bf16=bf16)


def plain(value, what: str):
    """A copy of values that JSON or YAML can say, mappings as dicts and sequences as lists.

    Raises:
        TypeError: a value is anything else; the message names the place.
    """
    if isinstance(value, Mapping):
        return {key: plain(inner, f"{what}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, f"{what}[{i}]") for i, inner in enumerate(value)]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{what} is a {type(value).__name__}, which can't be kept in a model file")


def read_content(path: Path) -> dict:
    """What a model file holds, as listed above; tensors on the CPU.

    Raises:
        InputError: as `read_model`.
    """
    if not path.is_file():
        if _of_tensorflow(path):
            raise _tensorflow(path)
        raise InputError(f"{path}: there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            usual = all(map(_as_torch_writes, archive.infolist()))
            broken = archive.testzip() if usual else None
    except BROKEN:
        if _of_tensorflow(path):
            raise _tensorflow(path) from None
        raise InputError(f"{path}: this is not a model file, or it was cut off") from None
    if not usual:
        raise InputError(f"{path}: this is not a model file, but another archive")
    if broken is not None:
        raise InputError(f"{path}: this model file is damaged ({broken})")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except BROKEN:
        raise InputError(f"{path}: this is not a model file of DeepRegSlicer") from None
    return _checked(path, content)


def _as_torch_writes(entry: zipfile.ZipInfo) -> bool:
    """Not compressed, and without attributes: torch takes an entry with that of a folder for empty."""
    return entry.compress_type == zipfile.ZIP_STORED and entry.external_attr == 0


def _checked(path: Path, content) -> dict:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: this is not a model file of DeepRegSlicer")
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InputError(
            f"{path}: this model file has the version {version}, but this DeepRegSlicer reads those up to"
            f" {VERSION}; a newer DeepRegSlicer is needed"
        )
    for name, kind in KINDS.items():
        if not isinstance(content.get(name), kind):
            raise InputError(
                f"{path}: this model file is damaged: {name} is missing or not a {kind.__name__}"
            )
    axes = content.get("axes", ["RAS", "RAS"])
    if not isinstance(axes, list) or [type(codes) for codes in axes] != [str, str]:
        raise InputError(f"{path}: this model file is damaged: axes is {axes!r}")
    spacing = content.get("spacing", {"fixed": [1], "moving": [1]})
    if not isinstance(spacing, dict) or {type(spacing.get(side)) for side in ("fixed", "moving")} != {list}:
        raise InputError(f"{path}: this model file is damaged: spacing is {spacing!r}")
    names = content.get("structures", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: this model file is damaged: structures is {names!r}")
    if not isinstance(content.get("bf16", False), bool):
        raise InputError(f"{path}: this model file is damaged: bf16 is {content['bf16']!r}")
    return content


def _of_tensorflow(path: Path) -> bool:
    """Whether the path is one of the files of a TensorFlow checkpoint, or what their names begin with."""
    stem = path.name.removesuffix(".index").partition(".data-")[0]
    return bool(stem) and path.with_name(f"{stem}.index").is_file()


def _tensorflow(path: Path) -> InputError:
    return InputError(
        f"{path}: this is a checkpoint of TensorFlow; make a model file of it with:"
        f" regcore import-checkpoint {path} --out model.pt"
    )
