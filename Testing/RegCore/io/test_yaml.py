"""YAML files as plain values: merged, numbers understood, each key with its place."""

import logging
from pathlib import PurePosixPath

import numpy as np
import pytest

from RegCore.io.yaml import Places, dotted, merge, plain, read_files, read_yaml
from RegCore.space.geometry import InputError


def write(folder, text: str, name: str = "a.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_files_are_merged_from_left_to_right_and_null_replaces(tmp_path):
    first = write(tmp_path, "a: {b: 1, c: [1, 2]}\nd: {e: 5}\nf: 1\n")
    second = write(tmp_path, "a: {c: [3]}\nd: null\nf: {g: 2}\n", "b.yaml")
    empty = write(tmp_path, "# nothing\n", "c.yaml")
    found, places = read_files([first, second, empty], {"a": {"b": 7}})
    assert found == {"a": {"b": 7, "c": [3]}, "d": None, "f": {"g": 2}}
    assert places.of(("a", "c")) == f"{second}, line 1"
    assert places.of(("f", "g")) == f"{second}, line 3"
    assert places.of(("a", "b")) == "overrides"
    assert places.of(("x",)) == f"{first} + {second} + {empty}"


def test_merging_changes_neither(tmp_path):
    first, second = {"a": {"b": 1}}, {"a": {"c": 2}, "d": None}
    assert merge(first, second) == {"a": {"b": 1, "c": 2}, "d": None}
    assert (first, second) == ({"a": {"b": 1}}, {"a": {"c": 2}, "d": None})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-5", 1e-5),
        ('"1e-5"', 1e-5),
        ("2E+3", 2000.0),
        ("1.5e3", 1500.0),
        ("-.5e1", -5.0),
        ("1.0e-4", 1e-4),
    ],
)
def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path, text, number):
    found, _ = read_yaml(write(tmp_path, f"rate: {text}\nrates: [{text}]\n"))
    assert found == {"rate": number, "rates": [number]}


def test_names_of_folders_are_never_numbers(tmp_path):
    found, _ = read_yaml(write(tmp_path, "dir: 1e5\ntwo: {dir: [1e5, 2e5]}\nname: 1e5\nday: 2020-01-02\n"))
    assert found == {"dir": "1e5", "two": {"dir": ["1e5", "2e5"]}, "name": "1e5", "day": "2020-01-02"}


def test_lines_are_known_within_lists_and_through_anchors(tmp_path):
    text = "one: &shared\n  a: 1\n  b:\n    - c: 2\n    - c: 3\ntwo:\n  <<: *shared\n  a: 4\n"
    path = write(tmp_path, text)
    found, places = read_yaml(path)
    assert found["two"] == {"a": 4, "b": [{"c": 2}, {"c": 3}]}
    assert places.of(("one", "b", 1, "c")) == f"{path}, line 5"
    assert places.of(("two", "a")) == f"{path}, line 8"
    assert places.of(("two", "b")) == f"{path}, line 6"  # of what it lies in


def test_a_key_given_twice_is_told_and_the_later_taken(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found, _ = read_yaml(write(tmp_path, "a:\n  b: 1\n  b: 2\n"))
    assert found == {"a": {"b": 2}}
    assert "line 3: a.b was given before, in line 2" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1, 2\nb: 3\n", "line 2: this is not valid YAML"),
        (b"a: 1\n\tb: 2\n", "line 2: this is not valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []\n", "line 1: this is not valid YAML"),
        (b"a: *nowhere\n", "line 1: this is not valid YAML"),
        (b"a: 1\n---\nb: 2\n", "this is not valid YAML"),
        (b"a: 2020-13-45\n", "this is not valid YAML"),
        (b"\xff\xfe\x00\x01", "not text"),
        (b"- 1\n- 2\n", "the sections dataset and train were expected, not [1, 2]"),
        (b"hello\n", "the sections dataset and train were expected, not 'hello'"),
        (b"a: &x\n  b: *x\n", "nested without end"),
        (b"a: !!binary aGVsbG8=\n", "line 1: a is a bytes"),
        (b"[" * 5000, "nested without end"),
    ],
)
def test_what_is_no_configuration_is_one_sentence(tmp_path, content, words):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match="no.yaml: the configuration can't be read .No such file"):
        read_yaml(tmp_path / "no.yaml")
    with pytest.raises(InputError, match="can't be read"):
        read_yaml(tmp_path)


def test_plain_values_are_copied_and_made_plain():
    given = {"a": (1, np.float32(0.5)), "b": PurePosixPath("x/y"), 3: {"c": None, "d": True}}
    found = plain(given, Places("here"))
    assert found == {"a": [1, 0.5], "b": "x/y", "3": {"c": None, "d": True}}
    assert type(found["a"][1]) is float
    found["3"]["c"] = 1
    assert given[3]["c"] is None


def test_values_that_contain_themselves_or_are_of_other_kinds_are_refused():
    endless = {"a": {}}
    endless["a"]["b"] = endless
    with pytest.raises(InputError, match="here: a.b contains itself"):
        plain(endless, Places("here"))
    with pytest.raises(InputError, match=r"here: a\[1\] is a object"):
        plain({"a": [1, object()]}, Places("here"))


def test_moved_keys_have_the_place_where_they_were_written():
    lines = {
        ("train",): ("f", 1),
        ("train", "model", "local"): ("f", 3),
        ("train", "model", "local", "a"): ("f", 4),
    }
    places = Places("f", lines, {("train", "backbone"): ("train", "model", "local")})
    assert places.of(("train", "backbone", "a")) == "f, line 4"
    assert places.of(("train", "backbone", "b")) == "f, line 3"
    assert places.of(("train", "other")) == "f, line 1"


def test_keys_are_shown_as_they_are_written():
    assert dotted(("train", "loss", "image", 1, "weight")) == "train.loss.image[1].weight"
