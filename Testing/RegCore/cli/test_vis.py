"""``regcore vis`` and ``deepreg_vis``: the files of recorded runs of DeepReg, overlays, errors."""

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from RegCore.cli import deepreg, main
from RegCore.cli.vis import STYLES
from RegCore.evaluation.pictures import slices
from RegCore.io import save
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume
from Testing.paths import ROOT

SHAPE = (6, 7, 5)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Images of two shapes, segmentations, a DDF and a transform, in the folder of work."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for number in range(4):
        nifti(f"im{number}.nii.gz", random.random(SHAPE).astype(np.float32))
    nifti("long.nii.gz", random.random((9, 4, 8)).astype(np.float32))
    nifti("ddf.nii.gz", random.normal(0, 1, (*SHAPE, 3)).astype(np.float32))
    nifti("soft.nii.gz", random.random(SHAPE).astype(np.float32))
    nifti("seg.nii.gz", (random.random((*SHAPE, 2)) > 0.5).astype(np.float32))
    (tmp_path / "other").mkdir()
    nifti("other/im0.nii.gz", random.random(SHAPE).astype(np.float32))
    shift = np.eye(4)
    shift[:3, 3] = (1, 0, 0)
    save(AffineTransform(shift), "shift.tfm")
    return tmp_path


def nifti(path, array, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def made(folder) -> dict[str, tuple[tuple[int, int], int]]:
    """Size and number of pictures of every file in a folder."""
    found = {}
    for path in sorted(Path(folder).iterdir()):
        with Image.open(path) as image:
            found[path.name] = (image.size, getattr(image, "n_frames", 1))
    return found


ANIMATION = (640, 480)
# Arguments, and what DeepReg made of them with images of 5 slices: size in pixels, number of pictures.
RECORDED = [
    ("-m 0 -i", "im0.nii.gz, im1.nii.gz", "", {"im0.gif": (ANIMATION, 5), "im1.gif": (ANIMATION, 5)}),
    (
        *("-m 1 -i", "im0.nii.gz", "--ddf-path ddf.nii.gz --slice-inds 1,3 --num-interval 4"),
        {"im0_slice_1.gif": (ANIMATION, 4), "im0_slice_3.gif": (ANIMATION, 4)},
    ),
    ("-m 2 -i", "im0.nii.gz, im1.nii.gz", "--slice-inds 0,2,4", {"visualisation.png": ((400, 600), 1)}),
    (
        *("-m 2 -i", "im0.nii.gz, im1.nii.gz", "--slice-inds 1 --fname t.png --col-titles a,b"),
        {"t.png": ((400, 200), 1)},
    ),
    (
        *("-m 3 -i", "im0.nii.gz, im1.nii.gz, im2.nii.gz, im3.nii.gz", "--size 2,2"),
        {"visualisation.gif": (ANIMATION, 5)},
    ),
    (
        *("-m 3 -i", "im0.nii.gz, im1.nii.gz, im2.nii.gz, im3.nii.gz", "--size 2,2 --fname q.gif"),
        {"q.gif": (ANIMATION, 5)},
    ),
]


@pytest.mark.parametrize(("mode", "images", "more", "expected"), RECORDED)
@pytest.mark.parametrize("extra", [[], ["--deepreg"]])
def test_the_recorded_runs_make_the_recorded_files(files, mode, images, more, expected, extra):
    assert deepreg.vis([*mode.split(), images, *more.split(), *extra, "-s", "o"]) == 0
    assert made("o") == expected


def test_default_values_are_those_of_deepreg(files):
    small = ["--zoom", "0.2"]
    assert deepreg.vis(["-m", "1", "-i", "im0.nii.gz", "--ddf-path", "ddf.nii.gz", *small]) == 0
    with Image.open("im0_slice_2.gif") as image:  # here, of the middle slice
        assert image.n_frames == 100 and image.info["duration"] == 50 and image.info["loop"] == 0
    assert main(["vis", "-m", "2", "-i", "im0.nii.gz"]) == 0
    assert main(["vis", "-m", "2", "-i", "im0.nii.gz", "--slice-inds=2", "--fname=middle.png"]) == 0
    assert Path("visualisation.png").read_bytes() == Path("middle.png").read_bytes()


def test_files_can_be_words_or_lists_and_names_may_have_commas(files):
    (files / "im0.nii.gz").rename(files / "a, b.nii.gz")
    words = ["a, b.nii.gz", "im1.nii.gz,", "im2.nii.gz"]
    assert main(["vis", "-m", "0", "-i", *words, "-s", "o", "--interval", "200"]) == 0
    assert list(made("o")) == ["a, b.gif", "im1.gif", "im2.gif"]
    with Image.open("o/im1.gif") as image:
        assert image.info["duration"] == 200


def test_images_of_one_name_get_a_file_each(files):
    assert main(["vis", "-m", "0", "-i", "im0.nii.gz", "other/im0.nii.gz", "im1.nii.gz", "-s", "o"]) == 0
    here = files.name
    assert set(made("o")) == {f"{here}_im0.gif", "other_im0.gif", f"{here}_im1.gif"}
    assert main(["vis", "-m", "0", "-i", "im1.nii.gz", "im1.nii.gz", "-s", "p"]) == 0
    assert set(made("p")) == {f"0_{here}_im1.gif", f"1_{here}_im1.gif"}


def test_images_of_different_shapes_can_stand_side_by_side(files):
    assert main(["vis", "-m", "3", "-i", "im0.nii.gz", "long.nii.gz", "--size", "1,2", "-s", "o"]) == 0
    assert made("o") == {"visualisation.gif": (ANIMATION, 8)}
    assert main(["vis", "-m", "2", "-i", "im0.nii.gz", "long.nii.gz", "-s", "p", "--zoom", "2"]) == 0
    assert made("p") == {"visualisation.png": ((800, 400), 1)}


def coloured(path, number=0) -> float:
    """The largest difference of the colours of a pixel from grey."""
    with Image.open(path) as image:
        image.seek(number)
        return float(np.ptp(np.asarray(image.convert("RGB")).astype(int), axis=-1).max())


def test_without_labels_and_overlays_pictures_are_grey_and_keep_every_shade(files):
    ramp = np.broadcast_to(np.linspace(0, 1, 200, dtype=np.float32)[:, None, None], (200, 50, 3))
    nifti("ramp.nii.gz", ramp)
    assert main(["vis", "-m", "0", "-i", "ramp.nii.gz"]) == 0
    with Image.open("ramp.gif") as image:
        assert len(np.unique(np.asarray(image.convert("RGB"))[..., 0])) > 180
    assert coloured("ramp.gif") <= 12


@pytest.mark.parametrize(
    "mode", [["0"], ["1", "--ddf-path=ddf.nii.gz"], ["1", "--transform=shift.tfm"], ["2"], ["3"]]
)
@pytest.mark.parametrize(
    "more", [["--labels", "seg.nii.gz"], ["--labels", "soft.nii.gz"], ["--overlay", "im1.nii.gz"]]
)
def test_labels_and_overlays_are_shown_in_every_mode(files, mode, more):
    size = ["--size=1,1"] if mode == ["3"] else ["--num-interval=2"]
    assert main(["vis", "-m", *mode, "-i", "im0.nii.gz", *more, *size, "-s", "o"]) == 0
    (name,) = made("o")
    assert coloured(f"o/{name}") > 60


def test_each_image_has_its_own_labels_or_all_share_them(files):
    common = ["vis", "-m", "2", "-i", "im0.nii.gz", "im1.nii.gz", "--overlay-style", "checkerboard"]
    for labels in (["seg.nii.gz"], ["seg.nii.gz", "soft.nii.gz"]):
        assert main([*common, "--overlay", "im2.nii.gz", "--labels", *labels, "-s", "o"]) == 0
    assert made("o") == {"visualisation.png": ((400, 200), 1)}


def test_styles_are_those_that_can_be_drawn():
    assert STYLES == slices.STYLES


def test_a_ddf_without_a_place_lies_where_an_image_of_its_shape_lies(files):
    """Else the slice of a flipped image would be shown turned while it is warped."""
    flipped = Geometry(SHAPE, np.diag([-1.0, -1, 1, 1]))
    save(Volume(np.random.default_rng(0).random(SHAPE).astype(np.float32), flipped), "flipped.nii.gz")
    nifti("zero.nii.gz", np.zeros((*SHAPE, 3), np.float32))
    common = ["vis", "-i", "flipped.nii.gz", "-s", "o"]
    assert main([*common, "-m", "1", "--ddf-path", "zero.nii.gz", "--num-interval", "1"]) == 0
    assert main([*common, "-m", "0"]) == 0
    with Image.open("o/flipped_slice_2.gif") as warped, Image.open("o/flipped.gif") as plain:
        plain.seek(2)
        arrays = [np.asarray(image.convert("L")).astype(int)[10:440] for image in (warped, plain)]
    difference = np.abs(arrays[0] - arrays[1])
    turned = np.abs(arrays[0] - arrays[1][::-1, ::-1])
    assert difference.mean() < 3 < 20 < turned.mean()


BAD = {
    "the mode is '9', expected one of 0, 1, 2, 3": "-m 9 -i im0.nii.gz",
    "the following arguments are required: --mode/-m": "-i im0.nii.gz",
    "mode 1 needs either --ddf-path or --transform": "-m 1 -i im0.nii.gz",
    "--size 2,2 needs 4 images, but there are 2": "-m 3 -i im0.nii.gz,im1.nii.gz",
    "two numbers as 2,2 were expected": "-m 3 -i im0.nii.gz --size 2,2,2",
    "whole numbers with commas between them were expected": "-m 2 -i im0.nii.gz --slice-inds 1;2",
    "im0.nii.gz: there is no slice 5, the slices are 0 to 4": "-m 2 -i im0.nii.gz --slice-inds 1,5",
    "there is no slice 7": "-m 1 -i im0.nii.gz --ddf-path ddf.nii.gz --slice-inds 7",
    "a DDF of shape (I, J, K, 3) was expected": "-m 1 -i im0.nii.gz --ddf-path im1.nii.gz",
    "there is no such file": "-m 0 -i nope.nii.gz",
    "1 titles are given for 2 images": "-m 2 -i im0.nii.gz,im1.nii.gz --col-titles a",
    "3 files are given for 2 images": "-m 2 -i im0.nii.gz im1.nii.gz --labels a,b,c",
    "q.xyz can't be written": "-m 2 -i im0.nii.gz --fname q.xyz",
    "q.png can't be written": "-m 3 -i im0.nii.gz --size 1,1 --fname q.png",
    "seg.nii.gz: an image of 1 channel": "-m 2 -i seg.nii.gz",
    "do not overlap in space": "-m 2 -i im0.nii.gz --overlay far.nii.gz",
    "the overlay-style is 'glow'": "-m 2 -i im0.nii.gz --overlay-style glow",
    "from 0.1 to 10": "-m 2 -i im0.nii.gz --zoom 0",
    "at least 1 was expected": "-m 0 -i im0.nii.gz --interval 0",
}


@pytest.mark.parametrize("sentence", BAD)
def test_what_is_wrong_is_said_in_a_sentence_and_nothing_is_written(files, capsys, sentence):
    far = np.eye(4)
    far[0, 3] = 500
    nifti("far.nii.gz", np.ones(SHAPE, np.float32), far)
    assert deepreg.vis([*BAD[sentence].split(), "-s", "o"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("deepreg_vis: error: ") and sentence in lines[0]
    assert not Path("o").exists()


def test_torch_is_not_needed(files):
    code = "import sys; from RegCore.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    words = ["vis", "-m", "1", "-i", "im0.nii.gz", "--ddf-path", "ddf.nii.gz", "--num-interval", "2"]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}", *words]
    )
    assert run.returncode == 0 and Path("im0_slice_2.gif").exists()
