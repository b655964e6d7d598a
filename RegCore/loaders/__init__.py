"""Data for training and prediction: files or volumes in memory, paired, unpaired or grouped, in batches.

`LOADERS` and `FILE_LOADERS` are what a configuration can name; a user adds to them by assignment.
"""

import inspect
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from RegCore.loaders.batches import Batches, batches
from RegCore.loaders.intensity import intensity_of
from RegCore.loaders.loader import Loader, Sample
from RegCore.loaders.pairings import Grouped, Paired, Unpaired, grouped, paired, unpaired
from RegCore.loaders.sources import H5Files, NiftiFiles, Source, Volumes
from RegCore.loaders.structures import Structures
from RegCore.loaders.volumes import images_from_volumes, pairs_from_volumes
from RegCore.space.geometry import InputError
from RegCore.space.names import Lazy, LazyTable, check_name, select

__all__ = [
    "FILE_LOADERS",
    "LOADERS",
    "Batches",
    "Grouped",
    "Loader",
    "Paired",
    "Sample",
    "Source",
    "Unpaired",
    "Volumes",
    "batches",
    "images_from_volumes",
    "loader_keys",
    "make_loader",
    "pairs_from_volumes",
]

log = logging.getLogger(__name__)
LOADERS = LazyTable(
    {
        "paired": paired,
        "unpaired": unpaired,
        "grouped": grouped,
        "supervoxels": Lazy("RegCore.slicreg.loading", "supervoxels"),
    }
)
"""Each is called as ``(open_files, *, labeled, sample_label, seed, skip_bad_files, …)``, see
`RegCore.loaders.pairings.paired`; what else it takes are keys of the ``dataset`` section. `open_files` is
called as (name, grouped=False)."""
FILE_LOADERS = LazyTable(
    {"nifti": NiftiFiles, "h5": H5Files, "slicreg": Lazy("RegCore.slicreg.loading", "ScanFiles")}
)
"""Each is called as ``(folders, name, grouped=False)`` and gives a `Source`."""
SPLITS = ("train", "valid", "test")
READING = ("cache", "workers", "space", "spacing", "intensity", "labels")  # keys that hold for every loader
COMMON = ("labeled", "sample_label", "seed", "skip_bad_files")  # what every loader takes


def make_loader(
    dataset: Mapping,
    split: str,
    *,
    deepreg: bool = False,
    axes: tuple[str, str] | None = None,
    unknown_is_background: bool = False,
) -> Loader | None:
    """The loader of one split of a configuration's ``dataset`` section; None where the split names no folder.

    Args:
        dataset: keys ``train``, ``valid``, ``test`` (each ``dir``, ``format``, ``labeled``), ``type``, those
            of the type, and optionally ``sample_label`` (default "sample" for training, else "all"),
            ``seed`` (default null for training, else 0) and ``skip_bad_files`` (default false). Values of
            the last three hold for all splits. ``space`` and ``spacing`` as in `Loader.place`,
            ``intensity`` a dict as in `RegCore.loaders.intensity`, ``labels`` as in
            `RegCore.loaders.structures.Structures`.
        split: "train", "valid" or "test".
        deepreg: count groups of h5 files as DeepReg does, by the text of their numbers, take voxels in the
            order of their files unless ``space`` says otherwise, and no label map unless ``labels`` does.
        axes: how the voxel axes of fixed and moving images ran in the training, see `Geometry.axis_codes`.
        unknown_is_background: take voxels of images that are NaN or infinite as `Source` says.

    Raises:
        InputError: one sentence that names the key or the file.
    """
    check_name(split, SPLITS, "the split")
    part = dataset.get(split) or {}
    if not isinstance(part, Mapping):
        raise InputError(f"dataset.{split}: the keys dir, format and labeled were expected, not {part!r}")
    if not part.get("dir"):
        return None
    folders = _folders(part["dir"], f"dataset.{split}.dir")
    files = select(FILE_LOADERS, part.get("format"), (), f"dataset.{split}: the format")
    if deepreg and files is H5Files:
        files = partial(H5Files, deepreg=True)
    wanted = dataset.get("labels")
    structures = None if deepreg and wanted is None else Structures(wanted, f"dataset.{split}")
    make, options = _loader(dataset)
    training = split == "train"
    sample_label = dataset.get("sample_label") or ("sample" if training else "all")
    skip_bad_files = bool(dataset.get("skip_bad_files", False))
    files = partial(_usable, files) if skip_bad_files else files
    made = make(
        partial(_opened, files, folders, structures, unknown_is_background),
        labeled=_true_or_false(part, "labeled", f"dataset.{split}"),
        sample_label=sample_label,
        seed=dataset.get("seed", None if training else 0),
        skip_bad_files=skip_bad_files,
        **options,
    )
    if isinstance(made, Loader):
        for side in made.sides:
            side.intensity = intensity_of(dataset)
        made.place(dataset.get("space") or ("file" if deepreg else "axes"), axes, dataset.get("spacing"))
        if structures is not None and made.structures:
            _tell_structures(structures, split)
    return made


def _tell_structures(structures: Structures, split: str) -> None:
    for maps in structures.maps:
        text = "dataset.%s: structures of %d %s: %s"
        log.info(text, split, len(maps), maps.title, structures.counts(maps))


def loader_keys(make: Callable) -> dict[str, bool]:
    """The keys of the ``dataset`` section that a loader takes, and whether each must be there."""
    parameters = list(inspect.signature(make).parameters.values())[1:]
    named = (p for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in COMMON)
    return {p.name: p.default is p.empty for p in named}


def _opened(
    files: Callable[..., Source],
    folders: list[str],
    structures: Structures | None,
    unknown_is_background: bool,
    name: str,
    grouped: bool = False,
) -> Source:
    """The images or labels of a name in all folders; labels may be label maps."""
    source = files(folders, name, grouped)
    source.unknown_is_background = unknown_is_background
    return source if structures is None or not name.endswith("labels") else structures.opened(source)


def _usable(files: Callable[..., Source], folders: list[str], name: str, grouped: bool = False) -> Source:
    """The source without the folders that can't be opened, each of which is named in a warning."""
    usable = []
    for folder in folders:
        try:
            files([folder], name, grouped)
            usable.append(folder)
        except InputError as error:
            if len(folders) == 1:
                raise
            log.warning("left out: %s", error)
    return files(usable or folders, name, grouped)


def _loader(dataset: Mapping) -> tuple[Callable[..., Loader], dict[str, Any]]:
    """The loader of the section ``dataset`` and the keys of its own that are given. Raises InputError."""
    others = (*SPLITS, *COMMON, *READING, "type")
    given = {key: value for key, value in dataset.items() if key not in others and value is not None}
    kind = dataset.get("type")
    make = select(LOADERS, kind, given, "dataset: the type", takes=loader_keys)
    for key, needed in loader_keys(make).items():
        if needed and key not in given:
            raise InputError(f"dataset.{key}: the key is missing, which {kind} images need")
    return make, given


def _folders(value: object, key: str) -> list[str]:
    folders = [value] if isinstance(value, str) else value
    if not isinstance(folders, list | tuple) or not all(isinstance(folder, str) for folder in folders):
        raise InputError(f"{key}: a folder or a list of folders was expected, but it is {value!r}")
    folders = [str(Path(folder).expanduser()) for folder in folders]
    for folder in folders:
        if not Path(folder).is_dir():
            raise InputError(f"{key}: there is no folder {folder!r}")
        if folders.count(folder) > 1:
            raise InputError(f"{key}: the folder {folder!r} is named twice")
    return folders


def _true_or_false(section: Mapping, key: str, where: str) -> bool:
    value = section.get(key)
    if not isinstance(value, bool):
        raise InputError(f"{where}.{key}: true or false was expected, but it is {value!r}")
    return value
