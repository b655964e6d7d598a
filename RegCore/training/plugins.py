"""Parts of one's own: decorators that enter them into RegCore's tables, and the files that hold them.

A file given by ``--plugin my.py`` is ordinary Python::

    from RegCore.training.plugins import register_loss

    @register_loss("root_mean_square")
    def root_mean_square(fixed, warped):
        return ((fixed - warped) ** 2).flatten(1).mean(1).sqrt()

The tables are plain dicts beside what they name (`RegCore.networks.architectures.NETWORKS`, …): what is in
them is seen by ``name in table``, fetched by ``table[name]`` and made by calling it. An assignment does what
a decorator does, without its checks.
"""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

from torch import nn

from RegCore.loaders import COMMON, FILE_LOADERS, LOADERS
from RegCore.loaders.augmentation import AUGMENTATIONS
from RegCore.losses import DEFORMATION_LOSSES, IMAGE_LOSSES, LABEL_LOSSES
from RegCore.networks.architectures import NETWORKS
from RegCore.networks.models import MODELS
from RegCore.space.geometry import InputError

TABLES = (
    NETWORKS,
    MODELS,
    IMAGE_LOSSES,
    LABEL_LOSSES,
    DEFORMATION_LOSSES,
    LOADERS,
    FILE_LOADERS,
    AUGMENTATIONS,
)


@dataclass
class _Plugin:
    """A file that was carried out: its text, and its module."""

    text: bytes
    module: ModuleType


_plugins: dict[Path, _Plugin] = {}  # in the order in which they were loaded
_authors: dict[tuple[int, str], Path] = {}  # file that made an entry, by table and name
_running: list[Path] = []  # the file that is carried out just now


def register_backbone(name: str, network: Callable | None = None, *, force: bool = False):
    """Enter a network, under a name for ``train.backbone.name``; as a decorator, or called with the network.

    Args:
        name: for the configuration.
        network: an ``nn.Module`` class, or a function that makes one, called as ``network(image_size,
            in_channels=…, out_channels=…, out_kernel_initializer=…, out_activation=…, …)`` with those of
            these names that it knows, and with the other keys of the section ``backbone``. The module maps
            ``(B, in_channels, I, J, K)`` to ``(B, out_channels, I, J, K)``.
        force: replace what has the name.

    Returns:
        The network itself, or a decorator, likewise in all functions here.

    Raises:
        InputError: the name is taken or no name, or this is no network.
    """
    return _registered("network", (NETWORKS,), name, network, force, _check_network)


def register_model(name: str, method: Callable | None = None, *, force: bool = False):
    """Enter a method, under a name for ``train.method``.

    ``method(backbone, fixed_size, moving_size, *, labeled, deepreg)`` gives an ``nn.Module`` as
    `RegCore.networks.models.DDFModel` does. Else as `register_backbone`.
    """
    return _registered("method", (MODELS,), name, method, force, _check_method)


def register_loss(name: str, loss: Callable | None = None, *, force: bool = False):
    """Enter a loss, under a name for the section ``train.loss``.

    The function says by its arguments what it looks at: ``loss(fixed, warped, *, …)``, images or labels
    ``(B, C, I, J, K)``, goes with ``image`` and ``label``; ``loss(ddf, *, …)``, ``(B, 3, I, J, K)`` in
    voxels, with ``regularization``. It gives one value per sample ``(B,)``, the lower the better; the options
    behind the ``*`` are keys of its section. Else as `register_backbone`.
    """
    return _registered("loss", _loss_tables, name, loss, force, _check_loss)


def register_data_loader(name: str, loader: Callable | None = None, *, force: bool = False):
    """Enter a loader, under a name for ``dataset.type``.

    ``loader(open_files, *, labeled, sample_label, seed, skip_bad_files, …)`` gives a
    `RegCore.loaders.Loader`; the other arguments are keys of the section ``dataset``. Else as
    `register_backbone`.
    """
    return _registered("loader", (LOADERS,), name, loader, force, _check_loader)


def register_file_loader(name: str, source: Callable | None = None, *, force: bool = False):
    """Enter a file loader, under a name for ``dataset.train.format``.

    ``source(folders, name, grouped=False)`` gives a `RegCore.loaders.Source`. Else as `register_backbone`.
    """
    return _registered("file loader", (FILE_LOADERS,), name, source, force, _check_source)


def register_data_augmentation(name: str, augmentation: Callable | None = None, *, force: bool = False):
    """Enter an augmentation, under a name for ``train.preprocess.data_augmentation``.

    ``augmentation(**options)`` gives a function (batch, generator) -> batch, see
    `RegCore.loaders.augmentation`. Else as `register_backbone`.
    """
    return _registered("augmentation", (AUGMENTATIONS,), name, augmentation, force, _check_augmentation)


# ---- what a part must be -----------------------------------------------------------------------------------


def _registered(kind: str, tables, name, part, force: bool, check: Callable[[str, Callable], None]):
    """Enter a part into its tables, or give the decorator that does."""
    what = f"the {kind} {name!r}"
    if not isinstance(name, str) or not name:
        used = f'@register_…("my_{kind.split()[-1]}")'
        raise InputError(f"the name of a {kind} must be a text, as in {used}, but it is {name!r}")
    if part is None:
        return partial(_registered, kind, tables, name, force=force, check=check)
    if not callable(part):
        raise InputError(f"{what} must be a class or a function, but it is a {type(part).__name__}")
    check(what, part)
    for table in tables(part) if callable(tables) else tables:
        if name in table and not force:
            author = _authors.get((id(table), name))
            raise InputError(f"{what} is there already{f', from {author}' if author else ''}; see force=True")
    for table in tables(part) if callable(tables) else tables:
        table[name] = part
        _authors.pop((id(table), name), None)
        if _running:
            _authors[(id(table), name)] = _running[-1]
    return part


def _signature(what: str, part: Callable) -> inspect.Signature:
    try:
        return inspect.signature(part)
    except (ValueError, TypeError):
        raise InputError(f"{what} does not say what arguments it takes; wrap it in a function") from None


def _fits(what: str, part: Callable, call: str, values: tuple, names: tuple = ()) -> None:
    """Raise InputError unless a part can be called with these, apart from options of its own."""
    try:
        _signature(what, part).bind_partial(*values, **dict.fromkeys(names))
    except TypeError as error:
        raise InputError(f"{what} must be callable as {call}, but: {error}") from None


def _check_network(what: str, part: Callable) -> None:
    if inspect.isclass(part) and not issubclass(part, nn.Module):
        raise InputError(f"{what} must be a torch.nn.Module, but the class {part.__name__} is none")
    _fits(what, part, "network(image_size, in_channels=…, …)", ((1, 1, 1),))


def _check_method(what: str, part: Callable) -> None:
    if inspect.isclass(part) and not issubclass(part, nn.Module):
        raise InputError(f"{what} must be a torch.nn.Module, but the class {part.__name__} is none")
    call = "method(backbone, fixed_size, moving_size, *, labeled, deepreg)"
    _fits(what, part, call, ({}, (1, 1, 1), (1, 1, 1)), ("labeled", "deepreg"))


def _by_position(what: str, part: Callable) -> int:
    """How many arguments a function takes by position; -1 for any number."""
    parameters = _signature(what, part).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return -1
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _check_loss(what: str, part: Callable) -> None:
    if inspect.isclass(part):
        raise InputError(f"{what} must be a function of tensors, but {part.__name__} is a class")
    if _by_position(what, part) not in (1, 2):
        call = "(fixed, warped, *, …) or (ddf, *, …), with its options behind the *"
        raise InputError(f"{what} must take {call}, but it takes {inspect.signature(part)}")


def _loss_tables(part: Callable) -> tuple[dict, ...]:
    return (IMAGE_LOSSES, LABEL_LOSSES) if _by_position("the loss", part) == 2 else (DEFORMATION_LOSSES,)


def _check_loader(what: str, part: Callable) -> None:
    call = "loader(open_files, *, labeled, sample_label, seed, skip_bad_files, …)"
    _fits(what, part, call, (None,), COMMON)


def _check_source(what: str, part: Callable) -> None:
    _fits(what, part, "source(folders, name, grouped=False)", ([], "images"), ("grouped",))


def _check_augmentation(what: str, part: Callable) -> None:
    needed = [p.name for p in _signature(what, part).parameters.values() if p.kind is p.POSITIONAL_ONLY]
    if needed:
        raise InputError(f"{what} takes its options by name, but {needed[0]} can be given by position only")


# ---- files -------------------------------------------------------------------------------------------------


def load_plugin(path) -> ModuleType:
    """Carry out a user's Python file, so that what it registers can be named in a configuration.

    The same file once more does nothing; if its text has changed, what it registered before is replaced. If
    it fails, nothing of it stays. It may import what lies beside it.

    Returns:
        The module.

    Raises:
        InputError: there is no such file, or it fails: then with the line in it and the reason.
    """
    path = Path(path).expanduser()
    try:
        path, text = path.resolve(strict=True), path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the plugin can't be read ({error.strerror})") from None
    if path.suffix != ".py":
        raise InputError(f"{path}: a plugin must be a Python file that ends in .py")
    known = _plugins.get(path)
    if known is not None and known.text == text:
        return known.module
    before, authors = [dict(table) for table in TABLES], dict(_authors)
    for table in TABLES:
        for name in [name for name in table if _authors.get((id(table), name)) == path]:
            del table[name]
    try:
        module = _carried_out(path, text)
    except BaseException:
        for table, entries in zip(TABLES, before, strict=True):
            table.clear()
            table.update(entries)
        _authors.clear()
        _authors.update(authors)
        raise
    _plugins[path] = _Plugin(text, module)
    return module


def loaded_plugins() -> list[Path]:
    """The files that were loaded, in this order: what another process has to load to know the same names."""
    return list(_plugins)


def _carried_out(path: Path, text: bytes) -> ModuleType:
    """The module that a file's text makes. No compiled copy is written beside it."""
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that no file beside it hides a package
        importlib.invalidate_caches()
    name = _module_name(path)
    module = ModuleType(name)
    module.__file__ = str(path)
    former = sys.modules.get(name)
    sys.modules[name] = module  # pickle, dataclasses and typing look it up there
    _running.append(path)
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        if former is not None:
            sys.modules[name] = former
        raise InputError(f"{path}{_line(path, error)}: {_reason(error)}") from error
    finally:
        _running.remove(path)
    return module


def _module_name(path: Path) -> str:
    """The file's name, by which other processes find it; a longer one where that means another module."""
    name = path.stem
    known = _plugins.get(path)
    if known is not None:
        return known.module.__name__
    try:
        found = None if name in sys.modules else importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    own = found is not None and found.origin is not None and Path(found.origin).resolve() == path
    return name if own and name.isidentifier() else f"regcore_plugin_{len(_plugins)}_{name}"


def _line(path: Path, error: BaseException) -> str:
    """Where in the file it went wrong."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, InputError):
        return text
    return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else text}"
