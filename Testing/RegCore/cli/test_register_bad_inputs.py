"""What can be wrong with what is given, and the sentence each gets: exit code 2, nothing written."""

import gzip
import re
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from RegCore.cli import main
from RegCore.io import load, save
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume

SHAPE = (9, 10, 11)
HEADER = "fx,fy,fz,mx,my,mz"


def affine(shift=0.0, spacing=(2.0, 1.5, 3.0)):
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = shift
    return matrix


def array(*shape, seed=0):
    """An image of noise, 0..100."""
    return (np.random.default_rng(seed).random(shape) * 100).astype(np.float32)


def nifti(path: Path, voxels: np.ndarray, matrix=None) -> None:
    nibabel.save(nibabel.Nifti1Image(voxels, affine() if matrix is None else matrix), path)


def patched(*changes: tuple[int, str, tuple]):
    """Maker of a NIfTI file whose header bytes are overwritten: (offset, struct format, values)."""

    def make(path: Path) -> None:
        plain = path.with_name("plain.nii")
        nifti(plain, array(*SHAPE))
        data = bytearray(plain.read_bytes())
        for offset, form, values in changes:
            struct.pack_into(form, data, offset, *values)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)

    return make


def directions(vectors: str):
    """Maker of an NRRD file with these space directions."""
    header = (
        "NRRD0004\ntype: float\ndimension: 3\nspace: left-posterior-superior\nsizes: 9 10 11\n"
        f"space directions: {vectors}\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
        "space origin: (0,0,0)\n\n"
    )
    return lambda path: path.write_bytes(header.encode() + array(*SHAPE).tobytes())


def truncated(path: Path) -> None:
    nifti(path.with_name("whole.nii.gz"), array(*SHAPE))
    path.write_bytes(path.with_name("whole.nii.gz").read_bytes()[:-400])


def with_value(value, where=(3, 4, 5)):
    def make(path: Path) -> None:
        voxels = array(*SHAPE)
        voxels[where] = value
        nifti(path, voxels)

    return make


def labels(values=(0, 1, 2), shape=SHAPE):
    """A label map of blocks."""
    blocks = np.zeros(shape, np.uint8)
    wide = shape[0] // 3
    for number, value in enumerate(values[1:]):
        blocks[1 + wide * number : 1 + wide * (number + 1), 2:-2, 2:-2] = value
    return blocks


def text(words: str):
    return lambda path: path.write_text(words)


def of(voxels: np.ndarray, matrix=None):
    return lambda path: nifti(path, voxels, matrix)


LETTER = text("Dear Sir, " * 50)
HUGE = (42, "<3h", (32000, 32000, 2000))

# What is wrong: the argument, its file, how the file is made, the sentence (after the name of the file).
BAD_FILES = {
    "missing file": ("fixed", "x.nii.gz", None, r"there is no such file"),
    "folder": ("moving", "x.nii.gz", Path.mkdir, r"this is a folder, but there is no DICOM series in it"),
    "empty file": ("fixed", "x.nii.gz", text(""), r"the file is empty \(0 bytes\)"),
    "no image, gz": ("fixed", "x.nii.gz", LETTER, r"not an image: .* not a NIfTI file.*"),
    "no image, nii": ("moving", "x.nii", LETTER, r".*NIfTI.*"),
    "no image, nrrd": ("moving", "x.nrrd", LETTER, r".*NRRD.*"),
    "no image, mha": ("moving", "x.mha", LETTER, r"this is no image of a kind that can be read"),
    "other ending": ("fixed", "x.jpg", LETTER, r"this is no image of a kind that can be read"),
    "cut short": ("fixed", "x.nii.gz", truncated, r"the file is cut short.*"),
    "2-D": ("fixed", "x.nii.gz", of(array(20, 30)), r"a 3-D volume was expected.*\(20, 30\)"),
    "one slice": ("fixed", "x.nii.gz", of(array(20, 30, 1)), r"a 3-D image was expected.*single slice"),
    "several frames": ("moving", "x.nii.gz", of(array(8, 9, 7, 5)), r"one 3-D image .* holds 5 frames.*"),
    "constant": ("moving", "x.nii.gz", of(7 + 0 * array(*SHAPE)), r"the image is constant \(.*"),
    "NaN": ("fixed", "x.nii.gz", with_value(np.nan, ...), r"all voxels are NaN or infinite, .*"),
    "zero spacing": ("fixed", "x.nrrd", directions("(2,0,0) (0,0,0) (0,0,3)"), r".*along axis J is 0 mm.*"),
    "singular": ("fixed", "x.nrrd", directions("(2,0,0) (4,0,0) (0,0,3)"), r".*do not span a volume.*"),
    "terabytes": ("fixed", "x.nii", patched(HUGE), r"the header promises [\d.]+ TB of voxels.*"),
    "terabytes, gz": ("fixed", "x.nii.gz", patched(HUGE), r"the header promises [\d.]+ TB of voxels.*"),
    "image as label map": ("moving_seg", "x.nii.gz", of(array(*SHAPE)), r".* must hold whole numbers.*"),
    "empty label map": ("fixed_seg", "x.nii.gz", of(0 * labels()), r"the label map is empty.*"),
    "empty mask": ("moving_mask", "x.nii.gz", of(0 * labels()), r"the label map is empty.*"),
    "landmarks, header": ("landmarks", "x.csv", text("x,y,z\n1,2,3\n"), r"the first line must be fx,.*"),
    "landmarks, number": ("landmarks", "x.csv", text(f"{HEADER}\n1,2,3,4,five,6\n"), r"line 2 must .*"),
    "landmarks, none": ("landmarks", "x.csv", text(f"{HEADER}\n"), r"there are no landmarks.*"),
    "image as transform": ("initial", "x.nii.gz", of(array(*SHAPE)), r"a transform was expected.*"),
    "no transform": ("initial", "x.h5", LETTER, r"not an HDF5 file.*"),
}

# What is wrong with two files together: the argument and its file, and the sentence.
BAD_TOGETHER = {
    "other labels": ("moving_seg", labels((0, 8, 9)), affine(), r".* share no label \(1, 2 against 8, 9\)"),
    "segmentation elsewhere": ("fixed_seg", labels(), affine(300.0), r".*bad.nii.gz: .* the fixed image.*"),
    "mask that marks nothing here": (
        "fixed_mask",
        labels((0, 1), (30, 10, 11)),
        affine((-40.0, 0.0, 0.0)),
        r".*bad.nii.gz: what it marks does not overlap the fixed image .*",
    ),
    "mask elsewhere": ("moving_mask", labels(), affine(-300.0), r".*bad.nii.gz: .* the moving image.*"),
}


@pytest.fixture
def good(tmp_path) -> dict[str, Path]:
    """A good pair with segmentations, as files."""
    given = {}
    for name, seed in (("fixed", 0), ("moving", 1)):
        given[name] = tmp_path / f"{name}.nii.gz"
        nifti(given[name], array(*SHAPE, seed=seed))
        given[f"{name}_seg"] = tmp_path / f"{name}_seg.nii.gz"
        geometry = Geometry(SHAPE, affine())
        save(Volume(labels(), geometry, "labels"), given[f"{name}_seg"])
    return given


def run(given: dict[str, Path], out: Path, *more: str) -> int:
    options = [f"--{name.replace('_', '-')}={path}" for name, path in given.items()]
    return main(["register", *options, f"--out={out}", "--device=cpu", "--quiet", *more])


def assert_refused(code: int, capsys, pattern: str) -> None:
    seen = capsys.readouterr()
    lines = seen.err.splitlines()
    assert code == 2, seen.err
    assert len(lines) == 1 and seen.out == "", seen.err
    assert re.fullmatch(rf"regcore: error: {pattern}", lines[0]), lines[0]


def chosen(good: dict[str, Path], name: str) -> dict[str, Path]:
    """The arguments of a run in which `name` matters: the pair, and both segmentations for one of them."""
    segmented = {"fixed_seg", "moving_seg"} if name.endswith("_seg") else set()
    return {key: good[key] for key in ("fixed", "moving", *sorted(segmented))}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_gets_one_sentence_that_names_it(case, good, tmp_path, capsys):
    name, file, make, sentence = BAD_FILES[case]
    bad = tmp_path / "bad" / file
    bad.parent.mkdir()
    if make is not None:
        make(bad)
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics.json").write_text("earlier")
    code = run({**chosen(good, name), name: bad}, out)
    assert_refused(code, capsys, f"{re.escape(str(bad))}: {sentence}")
    assert {path.name: path.read_text() for path in out.iterdir()} == {"metrics.json": "earlier"}


@pytest.mark.parametrize("case", BAD_TOGETHER)
def test_files_that_do_not_go_together_get_one_sentence(case, good, tmp_path, capsys):
    name, voxels, matrix, sentence = BAD_TOGETHER[case]
    bad = tmp_path / "bad.nii.gz"
    nifti(bad, voxels, matrix)
    code = run({**chosen(good, name), name: bad}, tmp_path / "out")
    assert_refused(code, capsys, sentence)
    assert not (tmp_path / "out").exists()


BAD_ARGUMENTS = {
    "unknown method": (["--method=deformabel"], r".* the method is .*did you mean deformable\?.*"),
    "unlike any method": (["--method=xyz"], r".* one of auto, rigid, affine, deformable, [a-z, -]+ \(.*"),
    "unknown device": (["--device=gpu"], r".* the device is 'gpu', expected one of auto, cpu, cuda, mps.*"),
    "bad seed": (["--seed=-1"], r".* a whole number of at least 0 was expected, not '-1'.*"),
    "settings without a value": (["--settings", "levels"], r".* KEY=VALUE was expected, not 'levels'"),
    "unknown setting": (["--settings", "wieght=3"], r".*wieght.*"),
    "unknown option": (["--fast"], r"unrecognized arguments: --fast.*"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_a_bad_argument_gets_one_sentence(case, good, tmp_path, capsys):
    more, sentence = BAD_ARGUMENTS[case]
    code = run({key: good[key] for key in ("fixed", "moving")}, tmp_path / "out", *more)
    assert_refused(code, capsys, sentence)
    assert not (tmp_path / "out").exists()


def test_a_start_from_which_the_images_do_not_overlap_gets_one_sentence(good, tmp_path, capsys):
    matrix = np.eye(4)
    matrix[1, 3] = 400.0
    save(AffineTransform(matrix), tmp_path / "start.tfm")
    pair = {key: good[key] for key in ("fixed", "moving")}
    code = run({**pair, "initial": tmp_path / "start.tfm"}, tmp_path / "out")
    assert_refused(code, capsys, r".*start.tfm: with this transform the two images do not overlap in space")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [["--initial=centres"], []], ids=["centres", "nothing"])
def test_centre_on_centre_brings_images_together_that_do_not_overlap(given, good, tmp_path, caplog):
    nifti(tmp_path / "far.nii.gz", array(*SHAPE), affine((500.0, -300.0, 0.0)))
    pair = {"fixed": good["fixed"], "moving": tmp_path / "far.nii.gz"}
    assert run(pair, tmp_path / "out", "--method=rigid", *given) == 0
    assert ("put the two volumes apart" in caplog.text) == (not given)
    found = load(tmp_path / "out" / "transform.h5", "transform")
    np.testing.assert_allclose(found.matrix, affine((500.0, -300.0, 0.0), (1.0, 1.0, 1.0)), atol=0.1)


def test_an_image_that_looks_like_a_label_map_is_named_and_registered(good, tmp_path, caplog):
    nifti(tmp_path / "blocks.nii.gz", labels(shape=(36, 30, 30)))
    pair = {"fixed": good["fixed"], "moving": tmp_path / "blocks.nii.gz"}
    assert run(pair, tmp_path / "out", "--method=rigid") == 0
    assert "blocks.nii.gz: this looks like a label map" in caplog.text


@pytest.mark.parametrize("words", [[], ["registre"], ["register"], ["register", "--fixed=a.nii"]])
def test_a_missing_or_misspelt_command_gets_one_sentence(words, capsys):
    assert_refused(main(words), capsys, r".*(required|invalid choice).*")


def test_a_device_that_is_not_there_gets_one_sentence(good, tmp_path, capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code = run({key: good[key] for key in ("fixed", "moving")}, tmp_path / "out", "--device=cuda")
    assert_refused(code, capsys, r".*cuda.*")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", [False, True])
def test_a_file_in_the_place_of_the_output_folder_gets_one_sentence(good, tmp_path, capsys, below):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    code = run({key: good[key] for key in ("fixed", "moving")}, taken / "out" if below else taken)
    assert_refused(code, capsys, rf"{re.escape(str(taken))}.*(folder|can't be written).*")
    assert taken.read_text() == "mine"
