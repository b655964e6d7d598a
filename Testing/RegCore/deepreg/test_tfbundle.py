"""TensorFlow's checkpoints: what is read equals what was written, and no damage goes unnoticed."""

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from RegCore.deepreg import tfbundle
from RegCore.deepreg.tfbundle import Node, read_bundle, read_object_graph
from RegCore.space.geometry import InputError
from Testing.paths import DEEPREG
from Testing.RegCore.deepreg.bundles import crc32c, entry, field, graph, masked, tensor, varint, write_bundle

TRAINED = DEEPREG / "trained"
KINDS = ("float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
KINDS += ("uint64", "bool", "complex64", "complex128")


def some_tensors() -> dict:
    """Of several shapes, with names that share beginnings, so that keys are compressed and blocks several."""
    made = np.random.default_rng(0)
    shapes = [(3, 3, 3, 2, 4), (4,), (), (0, 3), (1, 1, 5)]
    return {
        f"model/layer-{i}/kernel{'s' * (i % 3)}": made.normal(size=shapes[i % 5]).astype("f4")
        for i in range(23)
    }


@pytest.fixture
def prefix(tmp_path) -> Path:
    return tmp_path / "save" / "ckpt-7"


# ---- what is read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_tensors_come_back_in_the_order_of_their_names(prefix, shards):
    tensors = some_tensors()
    found = read_bundle(write_bundle(prefix, tensors, shards=shards))
    assert list(found) == sorted(tensors)
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
        found[name][...] = 0  # it may be written to


@pytest.mark.parametrize("dtype", KINDS)
def test_every_type_of_number(prefix, dtype):
    array = np.array([[0, 1, 1], [100, 7, 0]]).astype(dtype)
    found = read_bundle(write_bundle(prefix, {"a": array}))["a"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("shape", [(), (4,), (2, 2)])
def test_bfloat16_becomes_float32(prefix, shape):
    values = np.array([1.0, -2.5, 3.0e38, 0.0][: int(np.prod(shape))], "f4")
    words = (values.view("u4") >> 16).astype("u2").reshape(shape)
    found = read_bundle(write_bundle(prefix, {"a": ("bfloat16", words)}))["a"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values.reshape(shape), rtol=1 / 128)


def test_strings_come_back_as_bytes(prefix):
    strings = [b"", b"one", "zwölf".encode(), b"\0" * 300]
    found = read_bundle(write_bundle(prefix, {"a": strings, "b": np.ones(2, "f4")}))["a"]
    assert found.dtype == object and found.tolist() == strings


def test_only_the_keys_that_are_wanted_are_read_and_a_missing_one_is_named(prefix):
    write_bundle(prefix, some_tensors())
    assert list(read_bundle(prefix, ["model/layer-4/kernels"])) == ["model/layer-4/kernels"]
    with pytest.raises(InputError, match=r"ckpt-7\.index.*'model/nothing'"):
        read_bundle(prefix, ["model/nothing"])


@pytest.mark.parametrize("end", ["", ".index", ".data-00000-of-00001"])
def test_a_checkpoint_is_named_by_its_prefix_or_by_a_file(prefix, end):
    write_bundle(prefix, some_tensors())
    name = prefix.with_name(prefix.name + end)
    assert tfbundle.is_bundle(name) and not tfbundle.is_bundle(prefix.parent)
    assert len(read_bundle(str(name))) == 23


def test_the_graph_of_objects(prefix):
    nodes = [({"model": 1, "save_counter": 2}, {}), ({"self": 1}, {}), ({}, {"VARIABLE_VALUE": "key"})]
    write_bundle(prefix, {"_CHECKPOINTABLE_OBJECT_GRAPH": [graph(nodes)]})
    assert read_object_graph(prefix) == [
        Node({"model": 1, "save_counter": 2}, {}, {}),
        Node({"self": 1}, {}, {}),
        Node({}, {"VARIABLE_VALUE": "key"}, {"VARIABLE_VALUE": "a/b"}),
    ]


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 255, 1000])
def test_checksums_are_those_of_the_definition(length):
    data = random.Random(length).randbytes(length)
    assert tfbundle.crc32c(data) == crc32c(data)
    for cut in {0, length // 3, length}:
        assert tfbundle.crc32c(data[cut:], tfbundle.crc32c(data[:cut])) == crc32c(data)
    assert tfbundle.crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert tfbundle.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


# ---- what is refused ---------------------------------------------------------------------------------------


def test_no_checkpoint_of_this_name(prefix):
    with pytest.raises(InputError, match=r"ckpt-7\.index: there is no such file"):
        read_bundle(prefix)


def test_a_missing_data_file_is_named(prefix):
    write_bundle(prefix, some_tensors(), shards=2)
    prefix.with_name("ckpt-7.data-00001-of-00002").unlink()
    with pytest.raises(InputError, match=r"ckpt-7\.data-00001-of-00002: there is no such file"):
        read_bundle(prefix)


@pytest.mark.parametrize(
    "content", [b"", b"x" * 47, b"x" * 48, b"x" * 500, b"\x89HDF\r\n\x1a\n" + bytes(500)]
)
def test_a_file_of_another_format(prefix, content):
    write_bundle(prefix, {})
    prefix.with_name("ckpt-7.index").write_bytes(content)
    with pytest.raises(InputError, match=r"ckpt-7\.index: .* cut off or something else"):
        read_bundle(prefix)


@pytest.mark.parametrize("which", [".index", ".data-00000-of-00001"])
def test_no_changed_byte_goes_unnoticed(prefix, which):
    """Every bit of the files is under a checksum, but for what names no data."""
    tensors = {"a/b": np.arange(30, dtype="f4"), "a/c": [b"one", b"two"]}
    write_bundle(prefix, tensors)
    sound = {name: value.tolist() for name, value in read_bundle(prefix).items()}
    file = prefix.with_name(prefix.name + which)
    data = file.read_bytes()
    for at in range(len(data)):
        for bit in (0, 3, 7):
            file.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
            try:
                found = read_bundle(prefix)
            except InputError as error:
                assert str(error).startswith(f"{prefix}") and "\n" not in str(error)
            else:  # only in the index: its padding, and a part of the format that no one uses
                assert which == ".index"
                assert {name: value.tolist() for name, value in found.items()} == sound


@pytest.mark.parametrize("which", [".index", ".data-00000-of-00001"])
def test_a_file_that_was_cut_off(prefix, which):
    write_bundle(prefix, {"a/b": np.arange(30, dtype="f4"), "a/c": [b"one", b"two"]})
    file = prefix.with_name(prefix.name + which)
    data = file.read_bytes()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(InputError, match=f"{file.name}: this TensorFlow checkpoint can't be read"):
            read_bundle(prefix)


ONE = tensor(np.ones(4, "f4"))
IMPOSSIBLE = {
    "more than the file has": (entry(1, (1 << 40,), 0, 0, 1 << 42, ONE[3]), "promises more"),
    "more than a shape can hold": (entry(1, (1 << 62, 1 << 62), 0, 0, 16, ONE[3]), "impossible shape"),
    "nothing of a huge size": (entry(1, (0, 1 << 62), 0, 0, 0, masked(0)), "impossible shape"),
    "a negative length": (entry(1, (-1,), 0, 0, 16, ONE[3]), "impossible shape"),
    "a negative place": (entry(1, (4,), 0, -4, 16, ONE[3]), "impossible shape or place"),
    "a place after the end": (entry(1, (4,), 0, 8, 16, ONE[3]), "should end at byte 24, the file at 16"),
    "too many axes": (entry(1, (1,) * 40, 0, 0, 4, ONE[3]), "impossible shape"),
    "another size than the shape's": (entry(1, (3,), 0, 0, 16, ONE[3]), "needs 12 bytes, but has 16"),
    "an unknown type": (entry(99, (4,), 0, 0, 16, ONE[3]), "number 99"),
    "a data file that is not there": (entry(1, (4,), 5, 0, 16, ONE[3]), "data file 5, but there are 1"),
    "too many strings": (entry(7, (1 << 40,), 0, 0, 16, ONE[3]), "strings in 16 bytes"),
    "strings that are longer": (entry(7, (1,), 0, 0, 16, ONE[3]), "do not fill their 16 bytes"),
    "slices": (entry(1, (4,), 0, 0, 16, ONE[3]) + field(7, b""), "in slices"),
    "a wrong checksum": (entry(1, (4,), 0, 0, 16, b"1234"), "checksum of 'a'"),
    "a message that ends early": (entry(1, (4,), 0, 0, 16, ONE[3])[:-2], "ends too early"),
    "a number without an end": (b"\xff" * 20, "a number ends too early"),
    "a group": (varint(8 << 3 | 3), "unknown kind"),
    "a shape that is a number": (field(1, 1) + field(2, 4), "field 2 of a message has the wrong kind"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_entries_that_promise_what_can_not_be(prefix, what):
    """With right checksums, so that nothing but the reader's own care refuses them, and early."""
    said, sentence = IMPOSSIBLE[what]
    write_bundle(prefix, {"a": np.ones(4, "f4")}, edit=lambda entries: entries.update({b"a": said}))
    tracemalloc.start()
    with pytest.raises(InputError, match=sentence):
        read_bundle(prefix)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (None, "has no header"),
        (field(1, 0), "0 data files"),
        (field(1, 1 << 40), "data files"),
        (field(1, 1) + field(2, 1), "big-endian"),
    ],
)
def test_headers_that_can_not_be(prefix, header, sentence):
    def edit(entries):
        del entries[b""]
        if header is not None:
            entries[b""] = header

    write_bundle(prefix, {"a": np.ones(4, "f4")}, edit=edit)
    with pytest.raises(InputError, match=sentence):
        read_bundle(prefix)


@pytest.mark.parametrize("seed", range(100))
def test_nonsense_with_right_checksums_is_read_or_refused_but_nothing_else(prefix, seed):
    chance = random.Random(seed)

    def spoil(data: bytes) -> bytes:
        if chance.random() < 0.5:
            return data
        at, gone, new = (
            chance.randrange(len(data)),
            chance.randrange(3),
            chance.randbytes(chance.randrange(3)),
        )
        return data[:at] + new + data[at + gone :]

    nodes = [({"model": 1}, {}), ({"self": 1}, {"VARIABLE_VALUE": "a/1"})]
    tensors = {f"a/{i}": np.arange(i, dtype="f4") for i in range(8)}
    tensors["_CHECKPOINTABLE_OBJECT_GRAPH"] = [spoil(graph(nodes))]
    write_bundle(prefix, tensors, spoil=spoil)
    for read in (read_bundle, read_object_graph):
        try:
            read(prefix)
        except InputError as error:
            assert str(error).startswith(f"{prefix}")


def test_many_entries_for_the_same_bytes_are_refused(prefix):
    """So that a small file can't fill the memory."""
    same = entry(1, (4,), 0, 0, 16, ONE[3])
    write_bundle(prefix, {"a": np.ones(4, "f4")}, edit=lambda entries: entries.update({b"b": same}))
    with pytest.raises(InputError, match="promises more than the file's 16 bytes"):
        read_bundle(prefix)


def test_a_compressed_table_is_named_as_such(prefix):
    with pytest.raises(InputError, match="compressed"):
        read_bundle(write_bundle(prefix, some_tensors(), kind=1))


def test_a_key_that_is_not_text(prefix):
    write_bundle(
        prefix, {"a": np.ones(4, "f4")}, edit=lambda entries: entries.update({b"\xff": entries[b"a"]})
    )
    with pytest.raises(InputError, match="not text"):
        read_bundle(prefix)


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({}, "no value named '_CHECKPOINTABLE_OBJECT_GRAPH'"),
        ({"_CHECKPOINTABLE_OBJECT_GRAPH": np.ones(1, "f4")}, "not one string"),
        ({"_CHECKPOINTABLE_OBJECT_GRAPH": [b"", b""]}, "not one string"),
        ({"_CHECKPOINTABLE_OBJECT_GRAPH": [graph([({"x": 1}, {})])]}, "an object that is not there"),
        ({"_CHECKPOINTABLE_OBJECT_GRAPH": [b"\x0a\x05"]}, "ends too early"),
    ],
)
def test_graphs_that_can_not_be(prefix, tensors, sentence):
    write_bundle(prefix, tensors)
    with pytest.raises(InputError, match=sentence):
        read_object_graph(prefix)


# ---- what TensorFlow wrote ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "count"), [("unpaired_ddf", 353), ("paired_affine", 175)])
def test_checkpoints_that_tensorflow_wrote(model, count):
    prefix = TRAINED / model / "train" / "save" / "ckpt-2"
    found, nodes = read_bundle(prefix), read_object_graph(prefix)
    assert len(found) == count and set(nodes[0].children) == {"model", "optimizer", "save_counter"}
    assert found["save_counter/.ATTRIBUTES/VARIABLE_VALUE"] == 1
    named = {key for node in nodes for key in node.keys.values()}
    assert named == set(found) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    rate = found["optimizer/_learning_rate/.ATTRIBUTES/VARIABLE_VALUE"]
    assert rate == np.float32(1e-5)
    variances = [value for key, value in found.items() if "moving_variance" in key]
    assert variances and all((variance > 0).all() for variance in variances)
