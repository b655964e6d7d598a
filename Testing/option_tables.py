"""Tables of all names that a configuration can choose, made of the code, for Docs/configuration.md.

    python Testing/option_tables.py

writes them into the page; `Testing/RegCore/training/config/test_schema.py` holds the page to them.
"""

import ast
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "benchmarks")]

from page import put  # noqa: E402 - the lines above come first

from RegCore.losses.label import multi_scale  # noqa: E402
from RegCore.networks.layers import ACTIVATIONS, INITIALISERS  # noqa: E402
from RegCore.registration.optimisers import COMMON, FORMULAS, OPTIMISERS  # noqa: E402
from RegCore.training.config import registries  # noqa: E402

PAGE = ROOT / "Docs" / "configuration.md"
PLAIN = ("unet", "local", "global", "keypoints")  # networks of one kind: one table for all
INSIDE = ("layers", "classes", "hidden", "norm", "layout", "as_published", "literal", "background", "share")
SLIC = ("slicreg", "slicreg-regression", "supervoxels", "affine-together", "deeplab")  # see slicreg.md
BY_METHOD = {
    "control_points": "One or three distances in voxels: the field is a cubic B-spline of such points.",
    "integration_scale": "Of `dvf`: the grid that it is integrated on, as a part of its size, by default 1.",
}  # keys that a method takes before it makes the network
OF_COMMON = {
    "weight_decay": "shrink the weights by this part of the learning rate, first",
    "clipnorm": "largest norm of each tensor's gradient",
    "global_clipnorm": "largest norm of all gradients together",
    "clipvalue": "largest value of a gradient",
}


def described(function: Callable) -> dict[str, str]:
    """What the docstring of a function or the lines below a dataclass's fields say of each argument."""
    if is_dataclass(function):
        found: dict[str, str] = {}
        for cls in reversed(inspect.getmro(function)):
            if is_dataclass(cls):
                found |= _of_fields(cls)
        return found
    section = re.search(r"\nArgs:\n((?:    .*\n|\n)*)", (inspect.getdoc(function) or "") + "\n")
    found = {}
    entries = r"^    ([\w, ]+): ((?:.*\n)(?:     +.*\n)*)"
    for names, text in re.findall(entries, section[1] if section else "", re.MULTILINE):
        for name in names.split(", "):
            found[name] = _sentence(text[:1].upper() + text[1:])
    if "multi_scale" in found.get("scales", ""):
        found |= {name: text for name, text in described(multi_scale).items() if name in ("scales", "kernel")}
    return found


def _of_fields(cls: type) -> dict[str, str]:
    body = ast.parse(inspect.getsource(cls)).body[0].body
    pairs = zip(body, [*body[1:], None], strict=True)
    return {
        field.target.id: _sentence(below.value.value)
        for field, below in pairs
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr)
    }


def _sentence(text: str) -> str:
    """Text in one line, as Markdown has it."""
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def formula(function: Callable, *, whole: bool = False) -> str:
    """The first sentence of a docstring, or all that it says before its sections."""
    text = re.split(r"\n\n(?:Args|Returns|Raises):\n", inspect.getdoc(function) or "")[0]
    return _sentence(text if whole else text.split("\n\n")[0])


def default(value: object) -> str:
    """A default as the tables of the page have it."""
    if value in (MISSING, inspect.Parameter.empty):
        return "needed"
    words = {None: "", False: "`false`", True: "`true`"}
    if value is None or isinstance(value, bool):
        return words[value]
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def defaults(function: Callable) -> dict[str, object]:
    """The default of each argument, `MISSING` where it is needed."""
    if is_dataclass(function):
        return {item.name: item.default for item in fields(function)}
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def rows(cells: list[tuple[str, ...]], head: tuple[str, ...]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(line)} |" for line in cells)])


def part(name: str, function: Callable, taken: Mapping) -> str:
    """One name: what it does, and its keys."""
    texts, values = described(function), defaults(function)
    lines = [(f"`{key}`", default(values[key]), texts.get(key, "")) for key in taken]
    table = f"\n\n{rows(lines, ('key', 'default', ''))}" if lines else ""
    return f"`{name}`: {formula(function, whole=True)}{table}"


def parts(table: registries.Registry, without: tuple[str, ...] = SLIC) -> str:
    """All names of a registry."""
    chosen = {name: function for name, function in sorted(table.names().items()) if name not in without}
    return "\n\n".join(part(name, made, table.arguments(made) or {}) for name, made in chosen.items())


def networks() -> str:
    """The networks, whose arguments are the same for the most part."""
    names = registries.NETWORK.names()
    about = [f"`{name}`: {formula(names[name])}" for name in PLAIN]
    keys = dict.fromkeys(key for name in PLAIN for key in registries.NETWORK.arguments(names[name]) or {})
    lines = []
    for key in (key for key in keys if key not in INSIDE and key != "out_channels"):
        cells = [default(defaults(names[n])[key]) if key in defaults(names[n]) else "–" for n in PLAIN]
        texts = [described(names[n]).get(key) for n in PLAIN]
        lines.append((f"`{key}`", *cells, next(text for text in (*texts, BY_METHOD.get(key)) if text)))
    choices = [
        f"`{what}`: {', '.join(f'`{name}`' for name in table if name)}."
        for what, table in (("activation", ACTIVATIONS), ("kernel_initializer", INITIALISERS))
    ]
    return "\n\n".join([*about, rows(lines, ("key", *(f"`{n}`" for n in PLAIN), "")), *choices])


def optimisers() -> str:
    """The optimisers with their own arguments; those that all have come last."""
    lines = []
    for name, values in OPTIMISERS.items():
        kept = {key: value for key, value in values.items() if key not in COMMON or value is not None}
        own = ", ".join(f"`{key}` {default(value)}" for key, value in kept.items())
        lines.append((f"`{name}`", _sentence(FORMULAS[name]), own))
    common = "; ".join(f"`{key}`, {OF_COMMON[key]}" for key in COMMON)
    head = ("name", "what a weight w with the gradient g does", "keys and defaults")
    return f"{rows(lines, head)}\n\nAll take {common}."


def text() -> str:
    """Everything between the two comments of the page."""
    pair = {**registries.IMAGE_LOSS.names(), **registries.LABEL_LOSS.names()}
    losses = registries.Registry("loss", lambda: pair, registries.IMAGE_LOSS.arguments)
    sections = {
        "Methods": "\n\n".join(
            f"`{name}`: {formula(made)}"
            for name, made in registries.METHOD.names().items()
            if name not in SLIC
        ),
        "Networks": networks(),
        "Losses of images and labels": "Each may stand under `image` and under `label`; f is the fixed "
        "one, w the warped one.\n\n" + parts(losses),
        "Losses of the displacement": "Under `regularization`; u is the displacement in voxels.\n\n"
        + parts(registries.REGULARIZATION),
        "Optimisers": optimisers(),
        "Augmentations": parts(registries.AUGMENTATION),
    }
    own = ", ".join(f"`{name}`" for name in SLIC)
    last = f"SLIC-Reg adds {own}: see [slicreg.md](slicreg.md)."
    return "\n\n".join([*(f"### {title}\n\n{body}" for title, body in sections.items()), last])


if __name__ == "__main__":
    put("options", text(), PAGE)
