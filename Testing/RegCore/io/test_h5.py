"""HDF5 files of several volumes: what is in them, one handle for each process, what is refused."""

import multiprocessing
import pickle

import h5py
import numpy as np
import pytest

from RegCore.io.h5 import H5File, write
from RegCore.space.geometry import Geometry, InputError
from Testing.RegCore.grids import OBLIQUE, SHAPE

ARRAY = np.random.default_rng(0).normal(size=SHAPE)


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "a.h5", {"one": (ARRAY, None), "two": (np.stack([ARRAY > 0] * 2, -1), OBLIQUE.affine)})
    return tmp_path / "a.h5"


def test_volumes_come_back_with_their_places(path):
    file = H5File(path)
    assert file.keys() == ["one", "two"]
    assert file.header("one") == (SHAPE, Geometry(SHAPE, np.eye(4)))
    assert file.header("two") == ((*SHAPE, 2), OBLIQUE)
    np.testing.assert_array_equal(file.read("one")[0], ARRAY)
    array, grid = file.read("two")
    assert grid == OBLIQUE and array.dtype == bool
    with h5py.File(path, "r") as plain:  # as anyone else reads it
        np.testing.assert_array_equal(plain["two"][()], array)


@pytest.mark.parametrize("dtype", [">i2", ">f8", "<u4"])
def test_any_byte_order_is_read(dtype, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = (
            (ARRAY * 50).astype(np.int16).astype(dtype) if "u" not in dtype else np.abs(ARRAY).astype(dtype)
        )
        expected = file["a"][()].astype(float)
    array, _ = H5File(tmp_path / "a.h5").read("a")
    assert array.dtype.isnative
    np.testing.assert_array_equal(array.astype(float), expected)


def _sum(file: H5File, key: str, queue) -> None:
    queue.put((float(file.read(key)[0].sum()), file._handle is not None))


@pytest.mark.parametrize("start", [m for m in ("fork",) if m in multiprocessing.get_all_start_methods()])
def test_another_process_opens_the_file_for_itself(path, start):
    file = H5File(path)
    mine = file.read("one")[0].sum()
    handle = file._handle
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    processes = [context.Process(target=_sum, args=(file, "one", queue)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [(mine, True)] * 2
    for process in processes:
        process.join()
    assert file._handle is handle
    np.testing.assert_array_equal(file.read("one")[0], ARRAY)


def test_a_copy_takes_no_handle_along_and_closing_lets_the_file_go(path):
    file = H5File(path)
    file.read("one")
    assert pickle.loads(pickle.dumps(file))._handle is None
    file.close()
    with h5py.File(path, "a") as writable:
        writable["three"] = ARRAY
    assert file.keys() == ["one", "three", "two"]


def test_a_key_that_is_no_volume_is_refused(path):
    with h5py.File(path, "a") as file:
        file["text"], file["flat"], file["group/inner"] = "hello", ARRAY[0], ARRAY
        file["empty"] = h5py.Empty("f4")
        file.create_dataset("vast", (10**4, 10**4, 10**4), "f8", chunks=(1, 1, 1024))
        file["one"].attrs["affine"] = np.zeros((4, 4))
    sentences = {
        "text": "real numbers",
        "flat": r"3-D volume, not \(8, 9\)",
        "group": "but it is a group",
        "empty": "3-D volume",
        "vast": "promises 8 TB",
        "absent": "can't be read",
        "one": "the attribute 'affine'",
    }
    for key, sentence in sentences.items():
        with pytest.raises(InputError, match=f"^{path}: .*{key!r}.*") as caught:
            H5File(path).header(key)
        assert caught.match(sentence) and "\n" not in str(caught.value)


def test_damaged_data_are_refused_when_they_are_read(path):
    with h5py.File(path, "r") as file:
        at = file["one"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[at + 20 : at + 60] = bytes(40)
    path.write_bytes(content)
    file = H5File(path)
    assert file.header("one")[0] == SHAPE
    with pytest.raises(InputError, match="the data of the key 'one' are damaged"):
        file.read("one")


def test_what_is_no_h5_file_is_refused(path, tmp_path):
    (tmp_path / "text.h5").write_text("hello" * 100)
    (tmp_path / "short.h5").write_bytes(path.read_bytes()[:-500])
    for name in ("text.h5", "short.h5"):
        with pytest.raises(InputError, match=f"{name}: not an HDF5 file, or a damaged one"):
            H5File(tmp_path / name).keys()
    with pytest.raises(InputError, match="absent.h5: there is no such file"):
        H5File(tmp_path / "absent.h5").keys()
    with pytest.raises(InputError, match="a file was expected, but this is a folder"):
        H5File(tmp_path).keys()


def test_what_can_not_be_written_leaves_what_was_there(path):
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write(path, {"bad": (np.array([object()]), None)})
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["a.h5"]
