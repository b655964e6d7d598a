"""HDF5 files of several volumes: what is in them, one handle for each process, what is refused."""

import multiprocessing
import pickle
import tracemalloc
import zlib

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.io import load
from RegCore.io.h5 import H5File, write
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import DisplacementField
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
        "empty": "but it is empty",
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


def _pieces(filters, data: bytes, mask: int = 0):
    """What writes numbers as one piece whose bytes are given."""

    def write_it(group: h5py.Group, name: str, shape: tuple[int, ...]) -> None:
        kept = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        kept.set_chunk(shape)
        for number, values in filters:
            kept.set_filter(number, h5py.h5z.FLAG_OPTIONAL, values)
        space = h5py.h5s.create_simple(shape)
        dataset = h5py.h5d.create(group.id, name.encode(), h5py.h5t.IEEE_F64LE, space, kept)
        dataset.write_direct_chunk((0,) * len(shape), data, mask)

    return write_it


def _virtual(group: h5py.Group, name: str, shape: tuple[int, ...]) -> None:
    layout = h5py.VirtualLayout(shape, "f8")
    layout[:] = h5py.VirtualSource("other.h5", "numbers", shape)
    group.create_virtual_dataset(name, layout)


def _vast(flat: int, deep: int, ballast: int):
    """What promises numbers that were never written, in a file with some others."""

    def write_it(group: h5py.Group, name: str, shape: tuple[int, ...]) -> None:
        group.create_dataset(name, (flat,) if len(shape) == 1 else (deep,) * 3, "f8", chunks=True)
        group[f"ballast of {name}"] = np.arange(ballast)

    return write_it


GZIP, LZF = (h5py.h5z.FILTER_DEFLATE, (9,)), (h5py.h5z.FILTER_LZF, (4, 261, 96))
SHUFFLE, OTHER = (h5py.h5z.FILTER_SHUFFLE, (8,)), (32015, (3,))
BOMB = zlib.compress(bytes(1 << 26), 9)
HOSTILE = {  # how the numbers of a transform, and those of a volume, are stored, and what the sentence says
    "a link to another file": (
        lambda group, name, shape: group.__setitem__(name, h5py.ExternalLink("other.h5", "/numbers")),
        "a link, which is not followed",
    ),
    "a circle of links": (
        lambda group, name, shape: group.__setitem__(name, h5py.SoftLink(f"{group.name}/{name}")),
        "a link, which is not followed",
    ),
    "bytes of another file": (
        lambda group, name, shape: group.create_dataset(
            name, shape, "f8", external=[("/etc/hosts", 0, h5py.h5f.UNLIMITED)]
        ),
        "lie in another file, which is not opened",
    ),
    "pieces of other files": (_virtual, "lie in another file, which is not opened"),
    "more than 64 bits can count": (_vast(1 << 61, 1 << 21, 1), "more than the file can hold"),
    "gigabytes never written": (_vast(1 << 28, 700, 1 << 18), "promises .* more than the file can hold"),
    "zeros that never end": (_pieces([GZIP], BOMB), "a packed piece is larger than an unpacked one"),
    "zeros packed twice": (_pieces([GZIP, GZIP], zlib.compress(BOMB)), "packed by filters other than"),
    "a filter that nobody has": (_pieces([OTHER], bytes(10)), "packed by filters other than"),
    "shuffled when packed": (_pieces([GZIP, SHUFFLE], BOMB), "packed by filters other than"),
    "too few bytes": (_pieces([], b"abc"), "a piece of the data holds 3 bytes where"),
    "too few, not packed": (_pieces([GZIP], b"abc", 1), "a piece of the data holds 3 bytes where"),
    "too few, shuffled": (_pieces([SHUFFLE], b"abc"), "a piece of the data holds 3 bytes where"),
    "too few, packed": (_pieces([GZIP], zlib.compress(b"abc")), "a piece of the data holds 3 bytes where"),
    "too few, LZF": (_pieces([LZF], b"\2abc"), "a piece of the data holds 3 bytes where"),
    "too many": (_pieces([GZIP], zlib.compress(bytes(5000))), "a piece of the data holds .* bytes where"),
    "too many, LZF": (_pieces([LZF], b"\0a" + b"\xe0\xff\0" * 20), "a piece of the data holds 5281 bytes"),
    "texts": (
        lambda group, name, shape: group.create_dataset(name, shape, h5py.string_dtype()),
        "must (be|hold real) numbers",
    ),
    "a kind without a name": (
        lambda group, name, shape: h5py.h5d.create(
            group.id, name.encode(), h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple(shape)
        ),
        "No NumPy equivalent",
    ),
    "a group": (lambda group, name, shape: group.create_group(name), "but it is a group"),
    "nothing": (lambda group, name, shape: group.__setitem__(name, h5py.Empty("f8")), "empty, or no dataset"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_get_a_sentence_before_they_are_followed(tmp_path, case):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.eye(4)[:3].ravel()
    write_it, sentence = HOSTILE[case]
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        part = file.create_group("TransformGroup/0")
        part["TransformType"], part["TransformFixedParameters"] = [b"AffineTransform_double_3_3"], np.zeros(3)
        write_it(part, "TransformParameters", (12,))
        write_it(file, "volume", (6, 7, 5))
    tracemalloc.start()
    try:
        for reading in (lambda: load(path), lambda: H5File(path).read("volume")):
            with pytest.raises(InputError, match=sentence) as caught:
                reading()
            assert str(caught.value).count(str(path)) == 1 and "\n" not in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("options", [{"compression": "lzf"}, {"compression": "gzip"}, {}])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("fletcher32", [False, True])
def test_every_way_of_packing_that_h5py_has_is_read(tmp_path, options, shuffle, fletcher32):
    noise = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)  # which packing can't shrink
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, array in (("smooth", ARRAY.round()), ("noise", noise), ("zeros", np.zeros(SHAPE))):
            file.create_dataset(
                name, data=array, chunks=(3, 8, 4), shuffle=shuffle, fletcher32=fletcher32, **options
            )
        expected = {name: file[name][()] for name in file}
    for name, array in expected.items():
        np.testing.assert_array_equal(H5File(tmp_path / "a.h5").read(name)[0], array)


def test_a_transform_of_more_parts_than_any_has(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(1001):
            file.create_group(f"TransformGroup/{number}")
    with pytest.raises(InputError, match="the transform has 1001 parts"):
        load(tmp_path / "a.h5")


def test_a_spline_finer_than_displacements_can_be(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        part = file.create_group("TransformGroup/0")
        part["TransformType"] = [b"BSplineTransform_double_3_3"]
        part.create_dataset("TransformParameters", data=np.zeros(3 * 100**3), compression="gzip")
        part["TransformFixedParameters"] = [100.0] * 3 + [0.0] * 3 + [1.0] * 3 + np.eye(3).ravel().tolist()
    with pytest.raises(InputError, match="100 × 100 × 100 control points, more than can become"):
        load(tmp_path / "a.h5")


@pytest.mark.parametrize("ending", [".mnc", ".hdf5"])
def test_images_that_simpleitk_reads_from_hdf5_are_checked_before(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(path))
    np.testing.assert_allclose(load(path).array, ARRAY.T, rtol=1e-6)
    with h5py.File(path, "a") as file:
        file["more"] = h5py.ExternalLink("other.h5", "/numbers")
    with pytest.raises(InputError, match=f"^{path}: 'more' is a link, which is not followed"):
        load(path)
    with h5py.File(path, "a") as file:
        del file["more"]
        _pieces([GZIP], BOMB)(file.create_group("deep/below"), "more", (3, 4, 5))
        file["deep/circle"] = file["deep"]
    with pytest.raises(InputError, match=f"^{path}: 'more' is damaged: a packed piece is larger"):
        load(path)


def test_files_of_minc_are_checked_before_simpleitk_opens_them(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(*SHAPE, 3))
    field = sitk.DisplacementFieldTransform(sitk.GetImageFromArray(vectors, isVector=True))
    path = tmp_path / "a.xfm"
    sitk.WriteTransform(field, str(path))
    assert isinstance(load(path), DisplacementField)
    voxels = next(tmp_path.glob("*.mnc"))
    with h5py.File(voxels, "a") as file:
        file["more"] = h5py.ExternalLink("other.h5", "/numbers")
    with pytest.raises(InputError, match=f"^{path}: 'more' is a link, which is not followed"):
        load(path)
    content = path.read_text()
    path.write_text(content + content.partition("\n\n")[2].replace(voxels.name, f"../{voxels.name}"))
    with pytest.raises(InputError, match="in the folder of the header or below it, not in '../"):
        load(path)
    voxels.rename(path)  # what a file is shows to ITK in what is in it
    with pytest.raises(InputError, match=f"^{path}: 'more' is a link, which is not followed"):
        load(path)


@pytest.mark.parametrize("options", [{"compression": "szip"}, {"scaleoffset": 3}], ids=str)
def test_other_ways_of_packing_are_refused_and_what_to_do_is_said(tmp_path, options):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("k", data=np.ones((4, 5, 6), np.int16), **options)
    with pytest.raises(InputError, match=f"^{tmp_path}/d.h5: the key 'k' .*pack them anew, by h5repack"):
        H5File(tmp_path / "d.h5").read("k")
