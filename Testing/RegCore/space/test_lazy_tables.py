"""Tables whose entries are fetched when they are first used."""

import math
import os.path

import pytest

from RegCore.space.names import Lazy, LazyTable


@pytest.fixture
def table() -> LazyTable:
    return LazyTable(plain=3, root=Lazy("math", "sqrt"), part=Lazy("os.path", "join"))


def test_an_entry_is_fetched_once_and_then_stands_in_the_table(table):
    assert dict.__getitem__(table, "root") == Lazy("math", "sqrt")
    assert table["root"] is math.sqrt
    assert dict.__getitem__(table, "root") is math.sqrt
    assert isinstance(dict.__getitem__(table, "part"), Lazy), "an entry was fetched that nobody asked for"
    assert table["plain"] == 3


def test_get_fetches_too_and_knows_a_default(table):
    assert table.get("root") is math.sqrt and table.get("plain", 4) == 3
    assert table.get("none") is None and table.get("none", 4) == 4
    with pytest.raises(KeyError):
        table["none"]


def test_all_entries_are_fetched_in_their_order(table):
    assert list(table) == ["plain", "root", "part"] and "root" in table
    assert list(table.values()) == [3, math.sqrt, os.path.join]
    assert list(table.items()) == [("plain", 3), ("root", math.sqrt), ("part", os.path.join)]


def test_an_assignment_replaces_an_entry_that_was_not_fetched(table):
    table["root"] = 5
    assert table["root"] == 5


def test_what_can_not_be_fetched_is_an_error_at_its_first_use():
    table = LazyTable(absent=Lazy("math", "no_such_name"), nowhere=Lazy("no_such_module", "x"))
    assert len(table) == 2
    with pytest.raises(AttributeError, match="no_such_name"):
        table["absent"]
    with pytest.raises(ImportError, match="no_such_module"):
        table["nowhere"]
