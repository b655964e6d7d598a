"""Where each key of a YAML file was written: at the top too, where it has moved, where no file has it."""

import pytest

from RegCore.io.yaml import Places, read_files, read_yaml
from RegCore.space.geometry import InputError
from RegCore.training.config import Config, load_config
from Testing.RegCore.training.config.samples import UNPAIRED


def test_keys_at_the_top_have_lines(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("# a comment\none: 1\n\ntwo:\n  inner: 2\nthree: [4,\n  5]\n", encoding="utf-8")
    _, places = read_yaml(path)
    keys = {("one",): 2, ("two",): 4, ("two", "inner"): 5, ("three",): 6, ("three", 0): 6, ("three", 1): 7}
    assert {key: places.of(key) for key in keys} == {key: f"{path}, line {n}" for key, n in keys.items()}
    assert places.of(("two", "none", "deeper")) == f"{path}, line 4"  # of what it lies in
    assert places.of(("four",)) == places.of(()) == str(path)


def test_a_key_at_the_top_that_no_configuration_has_is_told_with_its_line(tmp_path):
    path = tmp_path / "a.yaml"
    text = Config.from_dict(UNPAIRED).text()
    path.write_text(f"{text}trian: 3\n", encoding="utf-8")
    line = len(text.splitlines()) + 1
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}, line {line}: trian is 3, but ")


def test_a_section_that_is_no_section_is_told_with_its_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("\n\ntrain: {}\ndataset: 7\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}, line 4: dataset is 7, but ")


def test_a_moved_key_has_the_line_of_the_old_one():
    places = Places(
        "all", {("old",): ("a.yaml", 3), ("old", "x"): ("a.yaml", 4), ("mine",): ("b.yaml", None)}
    )
    places.moved = {("new",): ("old",), ("deep", "er"): ("old", "x"), ("gone",): ("never",)}
    assert places.of(("new",)) == "a.yaml, line 3"
    assert places.of(("new", "x")) == "a.yaml, line 4"
    assert places.of(("new", "x", "y")) == "a.yaml, line 4"
    assert places.of(("new", "z")) == "a.yaml, line 3"
    assert places.of(("deep", "er")) == "a.yaml, line 4"
    assert places.of(("gone",)) == places.of(("deep",)) == "all"
    assert places.of(("mine", "inner")) == "b.yaml"  # no line is known
    assert str(places.error(("new", "x"), "is wrong")) == "a.yaml, line 4: new.x is wrong"


def test_overrides_have_no_line_but_a_name(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\nb:\n  c: 2\n", encoding="utf-8")
    _, places = read_files([path], {"a": 3, "b": {"d": {"e": 4}}})
    assert places.of(("a",)) == places.of(("b", "d", "e")) == places.of(("b",)) == "overrides"
    assert places.of(("b", "c")) == f"{path}, line 3"
