"""Files that can't be used: each gets one sentence that names it, before any memory is spent on it."""

import gzip
import os
import tempfile
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.io import load, save
from RegCore.io.h5 import H5File
from RegCore.io.models import transform_model
from RegCore.io.points import load_points
from RegCore.io.yaml import read_yaml
from RegCore.space.geometry import InputError
from RegCore.space.volume import Volume
from Testing.RegCore.grids import OBLIQUE, SHAPE, rough_field, tilted_affine

NOISE = (np.random.default_rng(0).normal(size=SHAPE) * 50).astype(np.int16)
VOLUME = Volume(NOISE, OBLIQUE)


def bytes_of(ending: str, thing=VOLUME) -> bytes:
    """A good file as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        save(thing, Path(folder) / f"t{ending}")
        return (Path(folder) / f"t{ending}").read_bytes()


def mat() -> bytes:
    """A good .mat file, as ITK and ANTs write it."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "t.mat")
        sitk.WriteTransform(sitk.AffineTransform(3), path)
        return Path(path).read_bytes()


def nifti(shape=SHAPE, dtype=np.int16, values=None, **fields) -> bytes:
    """A NIfTI-1 file with fields of the header overwritten, whatever sense that makes."""
    array = np.zeros(shape, dtype) if values is None else values
    image = nibabel.Nifti1Image(array, OBLIQUE.affine)
    image.header.set_qform(OBLIQUE.affine, 1)
    raw = bytearray(image.to_bytes())
    header = nibabel.Nifti1Header(bytes(raw[:348]), check=False)
    for key, value in fields.items():
        header[key] = value
    raw[:348] = header.binaryblock
    return bytes(raw)


def nrrd(old: bytes, new: bytes) -> bytes:
    good = bytes_of(".nrrd")
    assert old in good
    return good.replace(old, new)


def mha(old: bytes, new: bytes) -> bytes:
    good = bytes_of(".mha")
    assert old in good
    return good.replace(old, new)


def archive(**arrays) -> bytes:

    buffer = BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def promising_archive() -> bytes:
    """An archive whose array says in its header that it has 10¹² voxels."""

    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, shape in (("array", (10_000,) * 3), ("affine", (4, 4))):
            head = BytesIO()
            np.lib.format.write_array_header_1_0(
                head, {"descr": "<f8", "fortran_order": False, "shape": shape}
            )
            file.writestr(f"{name}.npy", head.getvalue() + np.eye(4).tobytes())
    return buffer.getvalue()


def odd_archive() -> bytes:
    """An archive whose array has a header that Python can't parse."""
    buffer, array, place = BytesIO(), BytesIO(), BytesIO()
    np.save(array, NOISE)
    np.save(place, np.eye(4))
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("array.npy", array.getvalue().replace(b"'shape': (7,", b"'shape': [7,"))
        file.writestr("affine.npy", place.getvalue())
    return buffer.getvalue()


def pickled_archive() -> bytes:
    return archive(array=np.array([{"a": 1}], dtype=object), affine=np.eye(4))


def hdf5(**datasets) -> bytes:

    buffer = BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in datasets.items():
            file[name.replace("__", "/")] = value
    return buffer.getvalue()


def promising_hdf5() -> bytes:
    """A transform whose parameters are 10¹² numbers that were never written."""

    buffer = BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("TransformGroup/0")
        group["TransformType"] = [b"DisplacementFieldTransform_double_3_3"]
        group.create_dataset("TransformParameters", (10**12,), "f8", chunks=(1024,))
        group["TransformFixedParameters"] = np.zeros(18)
    return buffer.getvalue()


def itk(kind="DisplacementFieldTransform_double_3_3", parameters=(0.0,) * 24, fixed=None) -> bytes:
    fixed = [2, 2, 2, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1] if fixed is None else fixed
    return hdf5(
        TransformGroup__0__TransformType=[kind.encode()],
        TransformGroup__0__TransformParameters=np.array(parameters, float),
        TransformGroup__0__TransformFixedParameters=np.array(fixed, float),
    )


HUGE = [3, 10_000, 10_000, 10_000, 1, 1, 1, 1]
GOOD_GZ = bytes_of(".nii.gz")
BAD = {  # what is in the file: its name, its bytes, the kind that is asked for, what the sentence says
    "text": ("a.nii", b"hello, this is a letter" * 40, None, "not an image"),
    "text renamed": ("a.nii.gz", b"hello, this is a letter" * 40, None, "not an image"),
    "short text": ("a.nii.gz", b"hello", None, "not an image"),
    "zipped text": ("a.nii.gz", gzip.compress(b"hello" * 200), None, "not an image"),
    "empty file": ("a.nii.gz", b"", None, r"empty \(0 bytes\)"),
    "gzip cut short": ("a.nii.gz", GOOD_GZ[: len(GOOD_GZ) // 2], None, "cut short"),
    "gzip header cut short": ("a.nii.gz", GOOD_GZ[:30], None, "cut short|not an image"),
    "gzip checksum wrong": ("a.nii.gz", GOOD_GZ[:-8] + bytes(8), None, "damaged"),
    "gzip checksum missing": ("a.nii.gz", GOOD_GZ[:-6], None, "cut short"),
    "gzip damaged": ("a.nii.gz", GOOD_GZ[:300] + b"\xff" * 50 + GOOD_GZ[350:], None, "damaged"),
    "a letter after the signature": ("a.nii", nifti().replace(b"n+1\0", b"n+1e", 1), None, "of one piece"),
    "data cut short": (
        "a.nii",
        bytes_of(".nii")[:-100],
        None,
        "the header promises 1.01 kB.*holds 908 bytes",
    ),
    "Analyze": ("a.nii", nifti(magic=b"\0"), None, "Analyze"),
    "2-D": ("a.nii", nifti((7, 8)), None, r"3-D volume was expected, but this is 2-D with shape \(7, 8\)"),
    "several frames": ("a.nii.gz", nifti((7, 8, 9, 4)), None, r"one 3-D image was expected.*4 frames"),
    "several frames as labels": (
        "a.nii",
        nifti((7, 8, 9, 2), values=np.full((7, 8, 9, 2), 3.0)),
        "labels",
        "0 and 1",
    ),
    "several frames, 5-D": ("a.nii", nifti((7, 8, 9, 2, 2)), "labels", "4 frames"),
    "no voxels": ("a.nii", nifti(dim=[3, 7, 0, 9, 1, 1, 1, 1]), None, r"empty: its shape is \(7, 0, 9\)"),
    "negative axis": (
        "a.nii",
        nifti(dim=[3, 7, -8, 9, 1, 1, 1, 1]),
        None,
        r"empty: its shape is \(7, -8, 9\)",
    ),
    "no axes": ("a.nii", nifti(dim=[0] * 8), None, "damaged"),
    "terabytes": ("a.nii", nifti(dim=HUGE), None, r"promises 2 TB of voxels, but the file holds 1.01 kB"),
    "terabytes, zipped": ("a.nii.gz", gzip.compress(nifti(dim=HUGE)), None, "promises 2 TB"),
    "no sense in the offset": ("a.nii", nifti(vox_offset=-5), None, "where none can be"),
    "offset NaN": ("a.nii", nifti(vox_offset=np.nan), None, "damaged"),
    "unknown type": ("a.nii", nifti(datatype=9999), None, "unknown voxel type"),
    "colours": ("a.nii", nifti(dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), None, "they are colours"),
    "complex": ("a.nii", nifti(dtype=np.complex64), None, "complex"),
    "zero sform": (
        "a.nii",
        nifti(qform_code=0, srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4),
        None,
        "0 mm",
    ),
    "singular direction": (
        "a.nii",
        nifti(qform_code=0, srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0]),
        None,
        "span a volume",
    ),
    "NaN in the place": ("a.nii", nifti(qform_code=0, srow_x=[np.nan, 1, 0, 0]), None, "not finite"),
    "bad quaternion": ("a.nii", nifti(sform_code=0, quatern_b=5), None, "qform"),
    "image as labels": (
        "a.nii",
        nifti(values=NOISE + np.float32(0.5)),
        "labels",
        "whole numbers, but it holds",
    ),
    "NaN labels": ("a.nii", nifti(values=np.full(SHAPE, np.nan, np.float32)), "labels", "whole numbers.*nan"),
    "image as transform": ("a.nii", nifti(), "transform", "a transform was expected"),
    "nrrd: text": ("a.nrrd", b"hello" * 100, None, "not a NRRD"),
    "nrrd: 2-D": (
        "a.nrrd",
        b"NRRD0004\ntype: short\ndimension: 2\nsizes: 7 8\nencoding: raw\n\n",
        None,
        "2-D",
    ),
    "nrrd: no end": ("a.nrrd", b"NRRD0004\n" + (b"# " + b"x" * 10_000 + b"\n") * 110, None, "does not end"),
    "nrrd: terabytes": ("a.nrrd", nrrd(b"sizes: 7 8 9", b"sizes: 10000 10000 10000"), None, "promises 2 TB"),
    "nrrd: no voxels": ("a.nrrd", nrrd(b"sizes: 7 8 9", b"sizes: 7 0 9"), None, "empty"),
    "nrrd: bad sizes": ("a.nrrd", nrrd(b"sizes: 7 8 9", b"sizes: 7 x 9"), None, "must hold numbers.*'7 x 9'"),
    "nrrd: dimension": ("a.nrrd", nrrd(b"dimension: 3", b"dimension: 4"), None, "do not fit the sizes"),
    "nrrd: no type": ("a.nrrd", nrrd(b"type: ", b"tipe: "), None, "no field of the format: 'tipe: int16'"),
    "nrrd: block": ("a.nrrd", nrrd(b"type: int16", b"type: block"), None, "NRRD type is 'block'"),
    "nrrd: encoding": ("a.nrrd", nrrd(b"encoding: gzip", b"encoding: bzip2"), None, "cut short or damaged"),
    "nrrd: space": ("a.nrrd", nrrd(b"left-posterior-superior", b"outer-space"), None, "'outer-space'"),
    "nrrd: damaged key": ("a.nrrd", nrrd(b"space origin:", b"space origin;"), None, "no field of the format"),
    "nrrd: cut short": ("a.nrrd", bytes_of(".nrrd")[:-200], None, "cut short"),
    "nrrd: voxels elsewhere": (
        "a.nhdr",
        nrrd(b"endian", b"data file: /etc/passwd\nendian"),
        None,
        "in the folder of the header or below it",
    ),
    "nrrd: voxels missing": (
        "a.nhdr",
        nrrd(b"endian", b"data file: b.raw\nendian"),
        None,
        "b.raw, is missing",
    ),
    "mha: text": ("a.mha", b"hello\n" * 100, None, "no image of a kind that can be read"),
    "mha: 2-D": ("a.mha", mha(b"NDims = 3", b"NDims = 2"), None, "2-D"),
    "mha: terabytes": (
        "a.mha",
        mha(b"DimSize = 7 8 9", b"DimSize = 10000 10000 10000"),
        None,
        "promises 2 TB",
    ),
    "mha: no voxels": ("a.mha", mha(b"DimSize = 7 8 9", b"DimSize = 7 0 9"), None, "at least one voxel"),
    "mha: infinite": ("a.mha", mha(b"DimSize = 7 8 9", b"DimSize = 7 inf 9"), None, "can't be read"),
    "mha: too many axes": ("a.mha", mha(b"NDims = 3", b"NDims = 99999999999"), None, "'99999999999' axes"),
    "mha: elsewhere": ("a.mha", mha(b"= LOCAL", b"= ../b.raw"), None, "in the folder of the header or below"),
    "mha: list elsewhere": ("a.mha", mha(b"= LOCAL", b"= LIST\n/etc/passwd"), None, "not in '/etc/passwd'"),
    "mha: zero spacing": (
        "a.mha",
        mha(b"ElementSpacing = 1.1", b"ElementSpacing = 0.0"),
        None,
        "axis I is 0 mm",
    ),
    "mha: text voxels": ("a.mha", mha(b"BinaryData = True", b"BinaryData = False"), None, "damaged"),
    "mha: cut short": ("a.mha", bytes_of(".mha")[:-100], None, "cut short or damaged"),
    "npz: odd header": ("a.npz", odd_archive(), None, "is not a NumPy array"),
    "npz: text": ("a.npz", b"hello" * 100, None, "not a NumPy archive"),
    "npz: no affine": ("a.npz", archive(array=NOISE), None, "key 'affine' is missing"),
    "npz: no array": ("a.npz", archive(affine=np.eye(4), volume=NOISE), None, "key 'array' is missing"),
    "npz: pickled": ("a.npz", pickled_archive(), None, "real numbers"),
    "npz: terabytes": ("a.npz", promising_archive(), None, "promises 8 TB"),
    "npz: 2-D": ("a.npz", archive(array=NOISE[0], affine=np.eye(4)), None, "2-D"),
    "npz: affine 3×3": ("a.npz", archive(array=NOISE, affine=np.eye(3)), None, "4×4"),
    "npz: kind": ("a.npz", archive(array=NOISE, affine=np.eye(4), kind="foto"), None, "'foto'"),
    "h5: text": ("a.h5", b"hello" * 100, None, "not an HDF5 file"),
    "h5: cut short": ("a.h5", bytes_of(".h5", rough_field(OBLIQUE))[:-4000], None, "damaged"),
    "h5: no transform": ("a.h5", hdf5(image=NOISE), None, "'TransformGroup' is missing"),
    "h5: parts missing": ("a.h5", hdf5(TransformGroup__0__TransformType=[b"x"]), None, "is missing"),
    "h5: 2-D": ("a.h5", itk("AffineTransform_double_2_2", (1, 0, 0, 1, 0, 0), (0, 0)), None, "3-D space"),
    "h5: B-spline": ("a.h5", itk("BSplineTransform_double_3_3"), None, "make no grid"),
    "h5: too few": ("a.h5", itk(parameters=(0.0,) * 23), None, "does not fit 23 parameters"),
    "h5: no grid": ("a.h5", itk(fixed=(0, 0, 0)), None, "18 fixed parameters"),
    "h5: zero spacing": (
        "a.h5",
        itk(fixed=[2, 2, 2, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1]),
        None,
        "0 mm",
    ),
    "h5: NaN": ("a.h5", itk(parameters=[np.nan] * 24), None, "NaN"),
    "h5: terabytes": ("a.h5", promising_hdf5(), None, "more than the file can hold"),
    "h5: singular": ("a.h5", itk("AffineTransform_double_3_3", (0,) * 12, (0, 0, 0)), None, "inverted"),
    "tfm: text": ("a.tfm", b"hello" * 100, None, "not a transform of ITK"),
    "tfm: nothing": ("a.tfm", b"#Insight Transform File V1.0\n", None, "holds no transform"),
    "tfm: words": (
        "a.tfm",
        bytes_of(".tfm", tilted_affine()).replace(b"Parameters: ", b"Parameters: x ", 1),
        None,
        "must be numbers",
    ),
    "tfm: two": (
        "a.tfm",
        bytes_of(".tfm", tilted_affine()) + bytes_of(".tfm", tilted_affine()),
        None,
        "2 separate",
    ),
    "tfm: cut in a number": (
        "a.tfm",
        bytes_of(".tfm", tilted_affine()).partition(b"FixedParameters")[0][:-2],
        None,
        "no line 'FixedParameters'",
    ),
    "tfm: cut in the centre": ("a.tfm", bytes_of(".tfm", tilted_affine())[:-3], None, "centre of 3 numbers"),
    "mat: cut in the centre": ("a.mat", mat()[:-9], None, "the file is cut"),
    "mat: no name": ("a.mat", mat()[:15], None, "cut|damaged"),
    "mat: nothing": ("a.mat", b"", None, "the file is cut|empty"),
    "mat: text of FSL": ("a.mat", b"1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", None, "MATLAB 4"),
    "another ending": ("a.jpg", b"hello", None, "no image of a kind that can be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gets_one_sentence_that_names_it(tmp_path, case):
    name, content, kind, sentence = BAD[case]
    path = tmp_path / name
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=sentence) as caught:
            load(path, kind)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert text.count(str(path)) == 1
    assert "\n" not in text


@pytest.mark.parametrize("place", ["/dev/zero", "pipe"])
@pytest.mark.parametrize("ending", ["nii", "nrrd", "mha", "xyz", "fcsv", "ply", "yaml", "h5"])
def test_a_device_or_a_pipe_is_refused_at_once(tmp_path, ending, place):
    """Reading one may never end, or take all memory."""
    path = tmp_path / f"f.{ending}"
    if place == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(place)
    read = {
        "fcsv": load_points,
        "yaml": read_yaml,
        "ply": lambda path: transform_model(path, lambda points: points, tmp_path / "o.ply"),
        "h5": lambda path: H5File(path).keys(),
    }
    with pytest.raises(InputError, match=f"^{path}: .*a device or a pipe, and no file"):
        read.get(ending, load)(path)


def test_what_is_not_there_or_no_file(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        load(tmp_path / "missing.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    with pytest.raises(InputError, match="this is a folder"):
        load(tmp_path / "folder.nii.gz")
    with pytest.raises(InputError, match="not 'picture'"):
        load(tmp_path / "missing.nii.gz", "picture")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".npz", ".tfm"])
def test_any_damage_gets_a_sentence_or_a_result(tmp_path, ending):
    """Bytes overwritten at random: never another error than InputError (but HDF5 itself may hang)."""
    good = bytes_of(ending, tilted_affine() if ending == ".tfm" else VOLUME)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        raw = bytearray(good)
        for place in rng.integers(0, min(len(raw), 600), 4):
            raw[place] = rng.integers(256)
        (tmp_path / f"a{ending}").write_bytes(raw)
        try:
            load(tmp_path / f"a{ending}")
        except InputError:
            refused += 1
    assert refused > 0
