"""Parts of your own: decorators that enter them into RegCore's tables, and the files that hold them.

A file given by ``--plugin my.py`` is ordinary Python::

    from RegCore.training.plugins import register_loss

    @register_loss("root_mean_square")
    def root_mean_square(fixed, warped):
        return ((fixed - warped) ** 2).flatten(1).mean(1).sqrt()

The tables are dicts beside what they name (`RegCore.networks.architectures.NETWORKS`, …); an assignment does
what a decorator does, without its checks.
"""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from RegCore.loaders import COMMON, FILE_LOADERS, LOADERS
from RegCore.loaders.augmentation import AUGMENTATIONS
from RegCore.losses import DEFORMATION_LOSSES, IMAGE_LOSSES, LABEL_LOSSES
from RegCore.networks.architectures import NETWORKS
from RegCore.networks.models import MODELS
from RegCore.space.geometry import InputError

PAIR_LOSSES = (IMAGE_LOSSES, LABEL_LOSSES)
TABLES = (NETWORKS, MODELS, *PAIR_LOSSES, DEFORMATION_LOSSES, LOADERS, FILE_LOADERS, AUGMENTATIONS)


@dataclass
class Plugin:
    """A file that was executed: its text, its module, and the entries (table, name, part) it made."""

    text: bytes
    module: ModuleType
    entries: list[tuple[dict, str, Any]]


_plugins: dict[Path, Plugin] = {}  # in the order in which they were loaded


@dataclass(frozen=True)
class Registrar:
    """Enters parts of a kind: ``@register_loss("mine")`` or ``register_loss("mine", part)``."""

    kind: str
    """What the parts are, for messages."""
    tables: tuple[dict, ...] = ()
    """Where they go; none for losses, whose arguments tell."""
    values: tuple = ()
    """By which arguments, given by position, a part must be callable."""
    names: tuple[str, ...] = ()
    """And by which, given by name."""
    classes: type | None = object
    """What a class must be derived from; None where a class will not do."""

    def __call__(self, name: str, part: Callable | None = None, *, force: bool = False) -> Callable:
        """Enter a part.

        Args:
            name: for the configuration.
            part: a function or a class; without it a decorator is given.
            force: replace what has the name.

        Returns:
            The part itself, or the decorator.

        Raises:
            InputError: the name is taken or no text, or the part can't be called as it will be.
        """
        if not isinstance(name, str) or not name:
            raise InputError(f"the name of a {self.kind} must be a text, but it is {name!r}")
        if part is None:
            return lambda part: self(name, part, force=force)
        what = f"the {self.kind} {name!r}"
        tables = self._check(what, part)
        for table in () if force else tables:
            if name in table:
                made = ((path, entry[:2]) for path, known in _plugins.items() for entry in known.entries)
                author = "".join({f", from {path}" for path, (at, of) in made if at is table and of == name})
                raise InputError(f"{what} is there already{author}; see force=True")
        for table in tables:
            table[name] = part
        return part

    def _check(self, what: str, part: Callable) -> tuple[dict, ...]:
        """The tables of a part that can be called as it will be. Raises InputError."""
        if not callable(part):
            raise InputError(f"{what} must be a class or a function, but it is a {type(part).__name__}")
        if inspect.isclass(part) and not (self.classes and issubclass(part, self.classes)):
            wanted = "a torch.nn.Module" if self.classes else "a function of tensors"
            raise InputError(f"{what} must be {wanted}, but {part.__name__} is a class of another kind")
        try:
            signature = inspect.signature(part)
        except (ValueError, TypeError):
            raise InputError(f"{what} does not say what arguments it takes; wrap it in a function") from None
        try:
            signature.bind_partial(*self.values, **dict.fromkeys(self.names))
        except TypeError as error:
            call = ", ".join(["…"] * len(self.values) + [f"{name}=…" for name in self.names])
            raise InputError(f"{what} must be callable as {self.kind}({call}, …), but: {error}") from None
        return self.tables or _loss_tables(what, signature)


def _loss_tables(what: str, signature: inspect.Signature) -> tuple[dict, ...]:
    """The tables of a loss, by how many arguments it takes by position."""
    kinds = [p.kind.name for p in signature.parameters.values()]
    count = kinds.count("POSITIONAL_ONLY") + kinds.count("POSITIONAL_OR_KEYWORD")
    if count not in (1, 2) or "VAR_POSITIONAL" in kinds:
        call = "(fixed, warped, *, …) or (ddf, *, …), with its options after the *"
        raise InputError(f"{what} must take {call}, but it takes {signature}")
    return PAIR_LOSSES if count == 2 else (DEFORMATION_LOSSES,)


register_backbone = Registrar("network", (NETWORKS,), ((1, 1, 1),), classes=nn.Module)
"""For ``train.backbone.name``: ``network(image_size, *, in_channels, out_channels, …)`` gives a module that
maps ``(B, in_channels, I, J, K)`` to ``(B, out_channels, I, J, K)``."""
register_model = Registrar("method", (MODELS,), ({}, (1, 1, 1), (1, 1, 1)), ("labeled", "deepreg"), nn.Module)
"""For ``train.method``: ``method(backbone, fixed_size, moving_size, *, labeled, deepreg)`` gives a module
like `RegCore.networks.models.DDFModel`."""
register_loss = Registrar("loss", classes=None)
"""For ``train.loss``, one value per sample ``(B,)``: ``loss(fixed, warped, *, …)``, images or labels
``(B, C, I, J, K)``, goes with ``image`` and ``label``; ``loss(ddf, *, …)`` with ``regularization``."""
register_data_loader = Registrar("loader", (LOADERS,), (None,), COMMON)
"""For ``dataset.type``: ``loader(open_files, *, labeled, sample_label, seed, skip_bad_files, …)`` gives a
`RegCore.loaders.Loader`; its other arguments are keys of ``dataset``."""
register_file_loader = Registrar("file loader", (FILE_LOADERS,), ([], "images"), ("grouped",))
"""For ``dataset.train.format``: ``source(folders, name, grouped=False)`` gives a `RegCore.loaders.Source`."""
register_data_augmentation = Registrar("augmentation", (AUGMENTATIONS,))
"""For ``train.preprocess.data_augmentation``: ``augmentation(*, …)`` gives a function (batch, generator) ->
batch, see `RegCore.loaders.augmentation`."""


def load_plugin(path: str | Path) -> ModuleType:
    """Execute a Python file, so that what it registers can be named in a configuration.

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
    before = [dict(table) for table in TABLES]
    try:
        for table, name, part in known.entries if known else ():
            if table.get(name) is part:
                del table[name]
        others = [dict(table) for table in TABLES]
        module = _execute(path, text)
    except BaseException:
        for table, entries in zip(TABLES, before, strict=True):
            table.clear()
            table.update(entries)
        raise
    new = []
    for table, old in zip(TABLES, others, strict=True):
        new += [(table, name, part) for name, part in dict(table).items() if old.get(name) is not part]
    _plugins[path] = Plugin(text, module, new)
    return module


def loaded_plugins() -> list[Path]:
    """The files that were loaded, in this order: what another process has to load to know the same names."""
    return list(_plugins)


def _execute(path: Path, text: bytes) -> ModuleType:
    """The module that a file's text makes; no compiled copy is written beside it.

    It has the file's name, by which other processes find what is in it, or a longer one where that name means
    another module.
    """
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that no file beside it hides a package
        importlib.invalidate_caches()
    found = importlib.util.find_spec(path.stem) if path.stem.isidentifier() else None
    own = found is not None and found.origin is not None and Path(found.origin).resolve() == path
    name = path.stem if own else f"regcore_plugin_{len(_plugins)}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise InputError(f"{path}: Python can't load this file as a module")
    module = importlib.util.module_from_spec(spec)
    former = sys.modules.get(name)
    sys.modules[name] = module  # pickle, dataclasses and typing look it up there
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        if former is not None:
            sys.modules[name] = former
        raise InputError(f"{path}{_line(path, error)}: {_reason(error)}") from error
    return module


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
