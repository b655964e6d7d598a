"""From plain values to the dataclasses of `schema`: each key is known, each value fits, each name exists."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, get_args, get_origin, get_type_hints

from RegCore.io.yaml import Key, Places, dotted, shown
from RegCore.space.geometry import InputError
from RegCore.space.names import nearest, not_among
from RegCore.training.config.registries import LOADER, Registry
from RegCore.training.config.schema import (
    BY_NAME,
    Component,
    Dataset,
    Loss,
    Losses,
    Preprocess,
    Split,
    Train,
)
from RegCore.training.config.types import FREE, UNIONS, Argument, Misfit, described, fitted

HOMES = {
    dotted(key): {item.name for item in fields(cls) if item.name != "options"}
    for key, cls in {
        ("dataset",): Dataset,
        ("dataset", "train"): Split,
        ("train",): Train,
        ("train", "loss"): Losses,
        ("train", "preprocess"): Preprocess,
    }.items()
}
LOADER_KEYS = (
    "moving_image_shape",
    "fixed_image_shape",
    "image_shape",
    "intra_group_prob",
    "intra_group_option",
    "sample_image_in_group",
)


class Reader:
    """Reads sections out of plain values, in which it writes words and numbers as they were understood.

    Raises:
        InputError: by all its functions, with the place of the key, the key, its value and what was expected.
    """

    def __init__(self, places: Places):
        self.places = places

    def read(self, key: Key, values: dict | list, hint):
        """What stands under the last part of the key, as its annotation wants it."""
        value, name = values[key[-1]], key[-1]
        origin, parts = get_origin(hint), get_args(hint)
        if origin in UNIONS and any(is_dataclass(part) for part in parts):
            classes = [part for part in parts if isinstance(part, type) and is_dataclass(part)]
            return self.named(key, value, classes) if len(classes) > 1 else self.read(key, values, classes[0])
        if origin is tuple and get_origin(parts[0]) is Annotated:
            return self.several(key, value, parts[0])
        if origin is Annotated and isinstance(parts[1], Registry):
            table = parts[1]
            return self.name(key, value, table) if parts[0] is str else self.part(key, value, *parts)
        if hint is Split:
            return self.split(key, value)
        if isinstance(hint, type) and is_dataclass(hint):
            return self.section(hint, key, value)
        try:
            values[name] = fitted(value, hint)
        except Misfit:
            raise self.misfit(key, value, described(hint)) from None
        return tuple(values[name]) if isinstance(values[name], list) else values[name]

    def misfit(self, key: Key, value, wanted: str):
        """The error of a value that is not what is wanted, to be raised; it proposes the nearest word."""
        close = nearest(value, wanted.split(" or ")) if isinstance(value, str) else ""
        return self.places.error(key, f"is {shown(value)}, but {wanted} was expected{close}")

    def missing(self, key: Key, hint=FREE):
        """The error of a key that is missing, to be raised; it says what `hint`, a type, asks for."""
        wanted = described(hint)
        return self.places.error(key, "is missing" + ("" if wanted == "something else" else f": {wanted}"))

    # ---- sections with fixed keys ----

    def section(self, cls: type, key: Key, values, known: Iterable[str] | None = ()):
        """A dataclass from its section; `known`: all its keys if they are not the fields, None for any."""
        names = [item.name for item in fields(cls) if item.name != "options"]
        self.check_keys(key, values, names if known == () else known)
        return cls(**self.fields(cls, key, values))

    def check_keys(self, key: Key, values, known: Iterable[str] | None, owner: str = "") -> None:
        """Whether these are keys with values, and all of them known."""
        if not isinstance(values, dict):
            what = f"the keys {', '.join(known)} were" if known else "keys with values were"
            raise self.places.error(key, f"is {shown(values)}, but {what} expected")
        for name in values:
            if known is None or name in known:
                continue
            hint = nearest(name, known)
            homes = [home for home, keys in HOMES.items() if name in keys]
            if not hint:
                hint = f", it belongs to {homes[0]}" if homes else f", there are {', '.join(known) or 'none'}"
            none = f"{owner} has no such key" if owner else "there is no such key"
            raise self.places.error((*key, name), f"is {shown(values[name])}, but {none}{hint}")

    def fields(self, cls: type, key: Key, values: dict) -> dict:
        """The values of a dataclass's fields, without those that are left to their defaults."""
        hints, found = get_type_hints(cls, include_extras=True), {}
        for item in fields(cls):
            name = item.name
            if values.get(name) is not None and name != "options":
                found[name] = self.read((*key, name), values, hints[name])
            elif item.default is MISSING and item.default_factory is MISSING:
                raise self.missing((*key, name), hints[name])
        return found

    def split(self, key: Key, values) -> Split | None:
        """A split, or None where it names no folder: such a split is skipped."""
        self.check_keys(key, values, [item.name for item in fields(Split)])
        return self.section(Split, key, values) if values.get("dir") else None

    def dataset(self, values) -> Dataset:
        """The section ``dataset``, whose keys depend on its type."""
        key = ("dataset",)
        if not isinstance(values, dict) or values.get("type") is None:
            self.check_keys(key, values, None)
            raise self.missing((*key, "type"), Annotated[str, LOADER])
        kind = self.name((*key, "type"), values["type"], LOADER)
        taken = LOADER.arguments(LOADER.names()[kind])
        names = [item.name for item in fields(Dataset) if item.name != "options"]
        own = list(values) if taken is None else list(taken)
        own = [name for name in own if name not in names]
        dataset = self.section(Dataset, key, values, [*names, *own])
        if taken is None:
            return _with_options(dataset, {name: values[name] for name in own})
        for name in LOADER_KEYS:
            if name not in taken and values.get(name) is not None:
                wants = ", ".join(taken) or "none of that kind"
                raise self.places.error(
                    (*key, name), f"does not go with the type {kind}, which takes {wants}"
                )
        for name, argument in taken.items():
            if argument.needed and values.get(name) is None:
                hint = get_type_hints(Dataset, include_extras=True).get(name, argument.hint)
                raise self.places.error(
                    (*key, name), f"is missing, which the type {kind} needs: {described(hint)}"
                )
        options = self.options(key, values, {name: taken[name] for name in own}, f"the type {kind}", own)
        return _with_options(dataset, options)

    # ---- what is chosen by name ----

    def name(self, key: Key, name, table: Registry) -> str:
        """A name of a table."""
        names = table.names()
        if isinstance(name, str) and name in names:
            return name
        own = table.own and not nearest(name, names)
        hint = f" (--plugin adds a {table.kind} of your own)" if own else ""
        raise self.places.error(key, not_among(name, names) + hint)

    def part(self, key: Key, values, cls: type, table: Registry) -> Component | Loss:
        """A name with its options, and of a loss the weight."""
        self.check_keys(key, values, None)
        if values.get("name") is None:
            raise self.places.error((*key, "name"), not_among(None, table.names()))
        name = self.name((*key, "name"), values["name"], table)
        common = [item.name for item in fields(cls) if item.name != "options"]
        taken = table.arguments(table.names()[name])
        rest = [given for given in values if given not in common]
        if taken is not None:
            known = [*common, *taken] if cls is Loss else ["name", *taken]
            self.check_keys(key, values, known, f"the {table.kind} {name}")
        options = self.options(key, values, taken, f"the {table.kind} {name}", rest)
        weight = (
            {"weight": self.read((*key, "weight"), values, float)} if values.get("weight") is not None else {}
        )
        return cls(name=name, options=options, **weight)

    def options(
        self, key: Key, values: dict, taken: Mapping[str, Argument] | None, owner: str, names
    ) -> dict:
        """The given ones of these options, checked by the signature that takes them."""
        for name, argument in (taken or {}).items():
            if argument.needed and name not in values:
                wanted = described(argument.hint)
                more = "" if wanted == "something else" else f": {wanted}"
                raise self.places.error((*key, name), f"is missing, which {owner} needs{more}")
            if name in values and name in names:
                self.read((*key, name), values, argument.hint)
        return {name: values[name] for name in names if name in values}

    def several(self, key: Key, values, hint) -> tuple:
        """One part or a list of them."""
        cls, table = get_args(hint)
        if isinstance(values, list):
            return tuple(self.part((*key, i), value, cls, table) for i, value in enumerate(values))
        return (self.part(key, values, cls, table),)

    def named(self, key: Key, values, classes: list[type]):
        """A section whose keys depend on its name, such as a schedule of the learning rate."""
        self.check_keys(key, values, None)
        table = next(table for table in BY_NAME if classes[0] in table.values())
        name = values.get("name")
        if not isinstance(name, str) or name not in table:
            raise self.places.error((*key, "name"), not_among(name, table))
        names = [item.name for item in fields(table[name])]
        self.check_keys(key, values, ["name", *names])
        given = self.fields(table[name], key, values)
        try:
            return table[name](**given)
        except InputError as error:
            raise self.places.error(key, f"can't be used: {error}") from None

    def configuration(self, values: dict) -> tuple[Dataset, Train]:
        """Both sections."""
        sections = ("dataset", "train")
        for name in values:
            if name not in sections:
                self.check_keys((), values, sections)
        for name in sections:
            if values.get(name) is None:
                raise self.places.error((name,), "is missing: the section was expected, with keys of its own")
        return self.dataset(values["dataset"]), self.section(Train, ("train",), values["train"])


def _with_options(dataset: Dataset, options: dict) -> Dataset:
    return Dataset(
        **{item.name: getattr(dataset, item.name) for item in fields(Dataset)} | {"options": options}
    )
