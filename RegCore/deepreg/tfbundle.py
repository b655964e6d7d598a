"""Reads TensorFlow's checkpoints (``ckpt-N.index`` and ``ckpt-N.data-00000-of-00001``) with numpy alone.

A checkpoint, TensorFlow's "tensor bundle", is a table of keys in the index file, LevelDB's sorted string
table, and the tensors in data files. A value of the table is a protocol buffer: type, shape, place, checksum.
Nothing in the files can run code; sizes they claim are held against the files' own before memory is taken.
Sources: LevelDB doc/table_format.md; TensorFlow tensor_bundle.proto, trackable_object_graph.proto; RFC 3720.
"""

import functools
import math
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from RegCore.space.geometry import InputError

INDEX, DATA = ".index", ".data-{shard:05d}-of-{shards:05d}"
GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"  # the entry that says which object holds which variable
MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)  # the last bytes of an index file
FOOTER = 48  # bytes: two places of blocks, padded, and the magic number
LONGEST_KEY, MOST_TENSORS, LARGEST_INDEX = 4096, 100_000, 1 << 28
STRING, BFLOAT16 = 7, 14  # numbers in TensorFlow's types.proto
INT, EIGHT, BYTES, WORD = 0, 1, 2, 5  # kinds of fields in protocol buffers
NUMBERS = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 8: "<c8", 9: "<i8", 10: "?"}
NUMBERS |= {BFLOAT16: "<u2", 17: "<u2", 18: "<c16", 19: "<f2", 22: "<u4", 23: "<u8"}


class _Damaged(Exception):
    """What is wrong with a file; becomes an InputError with the file's name."""


@dataclass(frozen=True)
class _Entry:
    """Where a tensor lies: the fields of BundleEntryProto."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class Node:
    """An object of the saved program: its attributes that are objects, and its variables.

    Args:
        children: name of the attribute to the number of its node.
        keys, full_names: a saved value's name (``VARIABLE_VALUE``) to its key and to the variable's own name.
        slots: numbers of the nodes that an optimiser keeps for variables.
    """

    children: dict[str, int]
    keys: dict[str, str]
    full_names: dict[str, str]
    slots: tuple[int, ...] = ()


def is_bundle(prefix) -> bool:
    """Whether this names a TensorFlow checkpoint: the prefix, or one of its files."""
    return index_path(prefix).is_file()


def index_path(prefix) -> Path:
    """The index file of a checkpoint that is named by its prefix (``save/ckpt-2``) or by one of its files."""
    path = Path(prefix)
    name = path.name.removesuffix(INDEX)
    stem, data, shard = name.rpartition(".data-")
    if data and shard.replace("-of-", "").isdigit():
        name = stem
    return path.with_name(name + INDEX) if name else path


def read_bundle(prefix, keys: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by key; strings as arrays of bytes objects, bfloat16 as float32.

    Args:
        prefix: path without ``.index``; the path of one of the files will do, too.
        keys: only these are read. Every checksum of what is read is checked.

    Raises:
        InputError: there is no such checkpoint, a file of it is damaged or missing, a key is not in it, or it
            has compressed tables, big-endian numbers, variables in slices or types that numpy lacks.
    """
    index = index_path(prefix)
    with _speaking_of(index):
        shards, entries = _read_index(index)
        for key in keys or ():
            if key not in entries:
                raise _Damaged(f"it has no value named {key!r}")
        wanted = {key: entry for key, entry in entries.items() if keys is None or key in keys}
    found = {}
    for shard in sorted({entry.shard for entry in wanted.values()}):
        name = index.name.removesuffix(INDEX) + DATA.format(shard=shard, shards=shards)
        here = {key: entry for key, entry in wanted.items() if entry.shard == shard}
        found |= _read_shard(index.with_name(name), here)
    return {key: found[key] for key in wanted}


def read_object_graph(prefix) -> list[Node]:
    """The objects of the program that saved the checkpoint; node 0 is the one that was saved.

    Raises:
        InputError: as `read_bundle`, and for a checkpoint of TensorFlow 1, which has no such graph.
    """
    index = index_path(prefix)
    value = read_bundle(prefix, [GRAPH_KEY])[GRAPH_KEY]
    with _speaking_of(index):
        if value.dtype != object or value.size != 1:
            raise _Damaged("its graph of objects is not one string")
        nodes = [_node(body) for body in _all(value.item(), 1, BYTES)]
        for node in nodes:
            if any(not 0 <= other < len(nodes) for other in (*node.children.values(), *node.slots)):
                raise _Damaged("its graph of objects names an object that is not there")
    return nodes


@contextmanager
def _speaking_of(path: Path):
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file of a TensorFlow checkpoint") from None
    except OSError as error:
        raise InputError(f"{path}: this file can't be read ({error.strerror})") from None
    except _Damaged as error:
        raise InputError(f"{path}: this TensorFlow checkpoint can't be read: {error}") from None


# ---- data files --------------------------------------------------------------------------------------------


def _read_shard(path: Path, entries: dict[str, _Entry]) -> dict[str, np.ndarray]:
    with _speaking_of(path), open(path, "rb") as file:
        length = file.seek(0, 2)
        if sum(entry.size for entry in entries.values()) > length:
            raise _Damaged(f"the index promises more than the file's {length} bytes")
        found = {}
        for key, entry in entries.items():
            if entry.offset + entry.size > length:
                raise _Damaged(
                    f"{key!r} should end at byte {entry.offset + entry.size}, the file at {length}"
                )
            file.seek(entry.offset)
            data = file.read(entry.size)
            found[key] = _strings(key, entry, data) if entry.dtype == STRING else _numbers(key, entry, data)
    return found


def _numbers(key: str, entry: _Entry, data: bytes) -> np.ndarray:
    if entry.dtype not in NUMBERS:
        raise _Damaged(f"{key!r} has a type that is not known here (number {entry.dtype})")
    dtype = np.dtype(NUMBERS[entry.dtype])
    expected = math.prod(entry.shape) * dtype.itemsize
    if entry.size != expected:
        raise _Damaged(f"{key!r} of shape {entry.shape} needs {expected} bytes, but has {entry.size}")
    _check(crc32c(data), entry.crc, repr(key))
    array = np.frombuffer(data, dtype)
    if entry.dtype == BFLOAT16:  # the upper half of a float32
        array = (array.astype("<u4") << 16).view("<f4")
    return array.reshape(entry.shape).astype(array.dtype.newbyteorder("="))


def _strings(key: str, entry: _Entry, data: bytes) -> np.ndarray:
    """Lengths as varints, the checksum of the lengths, the strings; the entry's checksum covers all three."""
    count = math.prod(entry.shape)
    if count > entry.size:
        raise _Damaged(f"{key!r} promises {count} strings in {entry.size} bytes")
    at, lengths = 0, []
    for _ in range(count):
        length, at = _varint(data, at)
        lengths.append(length)
    if at + 4 + sum(lengths) != len(data):
        raise _Damaged(f"the strings of {key!r} do not fill their {len(data)} bytes")
    widths = ("<I" if length < 1 << 32 else "<Q" for length in lengths)
    crc = crc32c(b"".join(struct.pack(width, length) for width, length in zip(widths, lengths, strict=True)))
    _check(crc, _number(data, at), f"the lengths of {key!r}")
    _check(crc32c(data[at:], crc), entry.crc, repr(key))
    array = np.empty(count, object)
    at += 4
    for i, length in enumerate(lengths):
        array[i] = data[at : at + length]
        at += length
    return array.reshape(entry.shape)


# ---- the index: a sorted string table ----------------------------------------------------------------------


def _read_index(path: Path) -> tuple[int, dict[str, _Entry]]:
    """The number of data files, and where each tensor lies."""
    if path.stat().st_size > LARGEST_INDEX:
        raise _Damaged(f"an index of {path.stat().st_size} bytes is none")
    table = dict(_table(path.read_bytes()))
    if b"" not in table:
        raise _Damaged("the table has no header")
    header = table.pop(b"")
    shards, big_endian = _one(header, 1, INT), _one(header, 2, INT)
    if big_endian:
        raise _Damaged("it was written on a big-endian machine, which is not supported")
    if not 1 <= shards < 100_000:
        raise _Damaged(f"it claims to have {shards} data files")
    entries = {}
    for key, value in table.items():
        name = _text(key)
        entries[name] = _entry(name, value)
        if entries[name].shard >= shards:
            raise _Damaged(f"{name!r} lies in data file {entries[name].shard}, but there are {shards}")
    return shards, entries


def _entry(name: str, value: bytes) -> _Entry:
    shape = _one(value, 2, BYTES)
    sizes = tuple(_signed(_one(size, 1, INT)) for size in _all(shape, 2, BYTES))
    place = [_signed(_one(value, number, INT)) for number in (3, 4, 5)]
    if _all(value, 7, BYTES):
        raise _Damaged(f"{name!r} was saved in slices, which is not supported")
    if (
        min((*sizes, *place), default=0) < 0
        or len(sizes) > 32
        or math.prod(max(n, 1) for n in sizes) > 1 << 48
    ):
        raise _Damaged(f"{name!r} has an impossible shape or place")
    return _Entry(_one(value, 1, INT), sizes, *place, _one(value, 6, WORD))


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values in the order of the keys, from the blocks that the table's own index names."""
    if len(data) < FOOTER or data[-8:] != MAGIC:
        raise _Damaged("it does not end as the index of a checkpoint does; it is cut off or something else")
    at = len(data) - FOOTER
    for _ in range(2):  # the place of the unused meta index, then that of the index
        offset, at = _varint(data, at)
        size, at = _varint(data, at)
    last, count, reached = None, 0, 0
    for _, place in _block(data, offset, size):
        start, after = _varint(place, 0)
        length, _ = _varint(place, after)
        if start < reached:
            raise _Damaged("its blocks overlap")
        reached = start + length
        for key, value in _block(data, start, length):
            count += 1
            if (last is not None and key <= last) or count > MOST_TENSORS:
                raise _Damaged("its keys are not in order, or too many")
            last = key
            yield key, value


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a block. Each key says how much of the one before it repeats."""
    if offset + size + 5 > len(data) - FOOTER:
        raise _Damaged(f"a block should end at byte {offset + size + 5}, but the file has {len(data)}")
    kind = data[offset + size]
    _check(crc32c(data[offset : offset + size + 1]), _number(data, offset + size + 1), "a block")
    if kind != 0:
        raise _Damaged("the table is compressed, which is not supported")
    block = data[offset : offset + size]
    end = len(block) - 4 - 4 * _number(block, len(block) - 4)
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or shared + fresh > LONGEST_KEY or at + fresh + length > end:
            raise _Damaged("an entry of a block does not fit into it")
        key = key[:shared] + block[at : at + fresh]
        at += fresh + length
        yield key, block[at - length : at]
    if at != end:
        raise _Damaged("a block is shorter than it says")


# ---- protocol buffers --------------------------------------------------------------------------------------


def _node(body: bytes) -> Node:
    """TrackableObject: 1 child (1 node, 2 name), 2 value (1 name, 2 long name, 3 key), 3 slot (3 node)."""
    references, values = _all(body, 1, BYTES), _all(body, 2, BYTES)
    children = {_text(_one(child, 2, BYTES)): _one(child, 1, INT) for child in references}
    named = {_text(_one(value, 1, BYTES)): value for value in values}
    keys = {name: _text(_one(value, 3, BYTES)) for name, value in named.items()}
    full_names = {name: _text(_one(value, 2, BYTES)) for name, value in named.items()}
    return Node(children, keys, full_names, tuple(_one(slot, 3, INT) for slot in _all(body, 3, BYTES)))


def _fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, kind and value of each field: an int for INT and WORD, bytes for BYTES and eight of them."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == INT:
            value, at = _varint(message, at)
        elif kind == WORD:
            value, at = _number(message, at), at + 4
        elif kind in (BYTES, EIGHT):
            length, at = _varint(message, at) if kind == BYTES else (8, at)
            value, at = message[at : at + length], at + length
        else:
            raise _Damaged("a message holds a field of an unknown kind")
        if at > len(message):
            raise _Damaged("a message ends too early")
        yield number, kind, value


def _all(message: bytes, number: int, kind: int) -> list:
    """Every value of the field of this number."""
    found = [(kept, value) for field, kept, value in _fields(message) if field == number]
    if any(kept != kind for kept, _ in found):
        raise _Damaged(f"field {number} of a message has the wrong kind")
    return [value for _, value in found]


def _one(message: bytes, number: int, kind: int):
    """The value of a field, nothing or 0 if it is missing; the last one counts, as the format wants it."""
    return (_all(message, number, kind) or [b"" if kind == BYTES else 0])[-1]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned number in groups of 7 bits, the lowest first, and the place after it."""
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + i + 1
    raise _Damaged("a number ends too early")


def _signed(value: int) -> int:
    """The 64-bit number in two's complement that was written without its sign."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _number(data: bytes, at: int) -> int:
    """The little-endian 32-bit number at this place."""
    if not 0 <= at <= len(data) - 4:
        raise _Damaged("a block or a message ends too early")
    return int.from_bytes(data[at : at + 4], "little")


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise _Damaged("a name is not text") from None


# ---- checksums ---------------------------------------------------------------------------------------------


def crc32c(data: bytes, before: int = 0) -> int:
    """CRC-32C (Castagnoli) of the bytes that follow those whose CRC-32C is `before`.

    It is linear in the bits, so all pairs of neighbouring words are joined at once, ⌈log2(words)⌉ times.
    """
    padded = bytes(-len(data) % 4) + data  # zeros in front leave an empty register as it is
    words = np.frombuffer(padded, "<u4")
    power = 2  # the words at the next place stand 2^power bytes further on
    while len(words) > 1:
        if len(words) % 2:
            words = np.concatenate([np.zeros(1, words.dtype), words])
        words = _advance(words[0::2], power) ^ words[1::2]
        power += 1
    register = _advance(words[:1], 2) if len(words) else np.zeros(1, "<u4")
    start = np.array([before ^ 0xFFFFFFFF], "<u4")
    for power in range(len(data).bit_length()):
        if len(data) >> power & 1:
            start = _advance(start, power)
    return int(register[0] ^ start[0]) ^ 0xFFFFFFFF


def _advance(registers: np.ndarray, power: int) -> np.ndarray:
    """The registers after 2^power bytes of zeros."""
    tables = _tables(power)
    low = tables[0][registers & 0xFF] ^ tables[1][registers >> 8 & 0xFF]
    return low ^ tables[2][registers >> 16 & 0xFF] ^ tables[3][registers >> 24]


@functools.cache
def _tables(power: int) -> np.ndarray:
    """What each byte of a register becomes in 2^power bytes of zeros, (4, 256)."""
    registers = np.arange(256, dtype="<u4") << np.arange(0, 32, 8, dtype="<u4")[:, None]
    if power:
        return _advance(_advance(registers, power - 1), power - 1)
    for _ in range(8):
        registers = registers >> 1 ^ (registers & 1) * np.uint32(0x82F63B78)
    return registers


def _check(crc: int, stored: int, what: str) -> None:
    """Compare with a stored checksum, which TensorFlow rotates and shifts ("masks")."""
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    if masked != stored:
        raise _Damaged(f"the checksum of {what} is wrong, so its bytes are not those that were saved")
