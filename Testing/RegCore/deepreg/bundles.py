"""Writes small TensorFlow checkpoints, sound and broken, as `RegCore.deepreg.tfbundle` has to read them."""

import struct
from pathlib import Path

import numpy as np

MAGIC = bytes.fromhex("57fb808b247547db")
DTYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "complex64": 8,
    "int64": 9,
}
DTYPES |= {"bool": 10, "uint16": 17, "complex128": 18, "float16": 19, "uint32": 22, "uint64": 23}
STRING, BFLOAT16 = 7, 14


def crc32c(data: bytes, crc: int = 0) -> int:
    """The checksum bit by bit, as its definition has it."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> bytes:
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | bytes) -> bytes:
    """A field of a message: a varint for an int, something with a length for bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: list[tuple[bytes, bytes]], kind: int = 0, spoil=bytes, restart: int = 16) -> bytes:
    """A block of a table with its trailer; every `restart`-th key is whole; `spoil` may change its bytes."""
    out, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    out += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    out = spoil(out) + bytes([kind])
    return out + masked(crc32c(out))


def table(entries: list[tuple[bytes, bytes]], kind: int = 0, spoil=bytes, per_block: int = 5) -> bytes:
    """A whole table of blocks of a few entries each."""
    out, index = b"", []
    for start in range(0, len(entries), per_block):
        some = entries[start : start + per_block]
        made = block(some, kind, spoil)
        index.append((some[-1][0] + b"~", varint(len(out)) + varint(len(made) - 5)))
        out += made
    places = b""
    for made in (block([]), block(index, spoil=spoil)):
        places += varint(len(out)) + varint(len(made) - 5)
        out += made
    return out + places.ljust(40, b"\0") + MAGIC


def tensor(value) -> tuple[int, tuple[int, ...], bytes, bytes]:
    """Type, shape, bytes and checksum of an array, of a list of strings or of ("bfloat16", words)."""
    if isinstance(value, tuple):
        data = value[1].astype("<u2").tobytes()
        return BFLOAT16, value[1].shape, data, masked(crc32c(data))
    if isinstance(value, list):
        lengths = masked(crc32c(b"".join(struct.pack("<I", len(text)) for text in value)))
        body = lengths + b"".join(value)
        crc = crc32c(body, crc32c(b"".join(struct.pack("<I", len(text)) for text in value)))
        return STRING, (len(value),), b"".join(varint(len(text)) for text in value) + body, masked(crc)
    array = np.asarray(value)
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return DTYPES[array.dtype.name], array.shape, data, masked(crc32c(data))


def entry(dtype: int, shape, shard: int, offset: int, size: int, crc: bytes) -> bytes:
    """BundleEntryProto."""
    dims = b"".join(field(2, field(1, n)) for n in shape)
    place = field(3, shard) + field(4, offset) + field(5, size)
    return field(1, dtype) + field(2, dims) + place + varint(6 << 3 | 5) + crc


def write_bundle(
    prefix: Path, tensors: dict, *, shards: int = 1, edit=None, kind: int = 0, spoil=bytes
) -> Path:
    """Write a checkpoint; `edit` may change the entries of its table, `spoil` the bytes of each block."""
    entries, data = {b"": field(1, shards) + field(3, field(1, 1))}, [b""] * shards
    for i, (name, value) in enumerate(tensors.items()):
        dtype, shape, body, crc = tensor(value)
        entries[name.encode()] = entry(dtype, shape, i % shards, len(data[i % shards]), len(body), crc)
        data[i % shards] += body
    if edit is not None:
        edit(entries)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_name(prefix.name + ".index").write_bytes(table(sorted(entries.items()), kind, spoil))
    for i, body in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{shards:05d}").write_bytes(body)
    return prefix


def graph(nodes: list[tuple]) -> bytes:
    """TrackableObjectGraph of nodes (children by name, keys of values by name, numbers of slots)."""
    out = b""
    for children, keys, *slots in nodes:
        body = b"".join(field(1, field(1, node) + field(2, name.encode())) for name, node in children.items())
        for name, key in keys.items():
            body += field(2, field(1, name.encode()) + field(2, b"a/b") + field(3, key.encode()))
        for slot in slots:
            body += field(3, field(1, 0) + field(2, b"m") + field(3, slot))
        out += field(1, body)
    return out


def write_checkpoint(prefix: Path, weights: dict[str, np.ndarray], more: dict | None = None) -> Path:
    """Write what DeepReg writes: a network, given by its paths, an optimiser and a counter.

    more: further variables by the slashed path of attributes from the root.
    """
    nodes, tensors = [({}, {})], {}

    def add(attributes: list[str], value) -> int:
        at = 0
        for name in attributes:
            if name not in nodes[at][0]:
                nodes.append(({}, {}))
                nodes[at][0][name] = len(nodes) - 1
                if name.startswith("layer_with_weights-"):  # Keras names layers twice
                    nodes[at][0][name.replace("_with_weights", "")] = len(nodes) - 1
            at = nodes[at][0][name]
        key = "/".join(attributes) + "/.ATTRIBUTES/VARIABLE_VALUE"
        nodes[at][1]["VARIABLE_VALUE"] = key
        tensors[key] = value
        return at

    for path, value in weights.items():
        add(["model", "_model", "layer_with_weights-0", *_attributes(path)], value)
    for i, value in enumerate(weights.values()):
        add(["optimizer", "_variables", str(i)], value + 1)
    add(["optimizer", "_iterations"], np.int64(3))
    add(["save_counter"], np.int64(1))
    for path, value in (more or {}).items():
        add(path.split("/"), value)
    tensors["_CHECKPOINTABLE_OBJECT_GRAPH"] = [graph(nodes)]
    return write_bundle(prefix, tensors)


def _attributes(path: str) -> list[str]:
    """The names of the objects that lead to a weight; a number is a place in a list or in a sequence."""
    out = []
    for name in path.split("."):
        if not name.isdecimal():
            out.append(f"_{name}")
        elif out[-1].isdecimal() or out[-1] == "_bottom_block":
            out.append(f"layer_with_weights-{name}")
        else:
            out.append(name)
    return [*out[:-1], out[-1][1:]]
