"""Writing: whole or not at all, whatever happens on the way; and the landmarks, which are text."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from RegCore.io import load, save
from RegCore.io.points import load_landmarks
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume
from Testing.paths import ROOT
from Testing.RegCore.grids import OBLIQUE, SHAPE, rough_field, tilted_affine

NOISE = (np.random.default_rng(0).normal(size=SHAPE) * 50).astype(np.int16)
VOLUME = Volume(NOISE, OBLIQUE)
THINGS = {".nii": VOLUME, ".nii.gz": VOLUME, ".nrrd": VOLUME, ".mha": VOLUME, ".npz": VOLUME}
THINGS |= {".tfm": tilted_affine(), ".h5": rough_field(OBLIQUE)}


@pytest.mark.parametrize("ending", THINGS)
def test_a_folder_that_can_not_be_written_to(tmp_path, ending):
    with pytest.raises(InputError, match="there is no folder"):
        save(THINGS[ending], tmp_path / "missing" / f"t{ending}")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="there is no folder"):
        save(THINGS[ending], tmp_path / "file" / f"t{ending}")
    (tmp_path / f"t{ending}").mkdir()
    with pytest.raises(InputError, match="it is a folder"):
        save(THINGS[ending], tmp_path / f"t{ending}")
    assert {path.name for path in tmp_path.iterdir()} == {"file", f"t{ending}"}


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that takes no files")
@pytest.mark.parametrize("ending", THINGS)
def test_a_file_system_that_takes_no_files(ending):
    with pytest.raises(InputError, match="^/proc/self/t.*: can't be written"):
        save(THINGS[ending], f"/proc/self/t{ending}")


FULL = """
import resource, signal, sys
import numpy as np
from RegCore.space.geometry import Geometry, InputError
from RegCore.io import save
from RegCore.space.transforms import DisplacementField
from RegCore.space.volume import Volume
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
grid = Geometry((30, 31, 32), np.eye(4))
values = np.random.default_rng(0).normal(size=(30, 31, 32, 3))
for name in sys.argv[2:]:
    field = name.startswith("field")
    thing = DisplacementField(grid, values) if field else Volume(values[..., 0], grid)
    try:
        save(thing, f"{sys.argv[1]}/{name}")
    except InputError as error:
        print(error)
"""


def test_a_full_disk_leaves_what_was_there(tmp_path):
    """A limit on the size of files stands for the full disk; it holds for a process of its own."""
    names = ["v.nii", "v.nii.gz", "v.nrrd", "v.mha", "v.npz", "field.h5", "field.nrrd", "field.nii.gz"]
    for name in names:
        (tmp_path / name).write_text("what was there")
    run = [sys.executable, "-c", FULL, str(tmp_path), *names]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [line.split(": ")[0] for line in said] == [str(tmp_path / name) for name in names]
    assert all("can't be written" in line for line in said)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"what was there"}
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 30_000


def test_a_disk_that_is_mounted_for_reading_is_one_sentence(tmp_path, monkeypatch):
    """There even the removal of a file that is not there fails."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr("os.replace", refuse)
    for name in ("t.tfm", "v.mha", "f.h5"):
        with pytest.raises(InputError, match=f"^{tmp_path}/{name}: can't be written .Read-only file system"):
            save(THINGS[name[1:]], tmp_path / name)


def test_an_error_on_the_way_leaves_what_was_there(tmp_path, monkeypatch):
    save(VOLUME, tmp_path / "v.nii")
    before = (tmp_path / "v.nii").read_bytes()

    def interrupted(array, dtype=None):
        yield b"some bytes"
        raise KeyboardInterrupt

    monkeypatch.setattr("RegCore.io.nifti.fortran_blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(Volume(NOISE + 1, OBLIQUE), tmp_path / "v.nii")
    assert [path.name for path in tmp_path.iterdir()] == ["v.nii"]
    assert (tmp_path / "v.nii").read_bytes() == before


def test_a_file_is_replaced_and_gets_the_rights_of_the_user(tmp_path):
    (tmp_path / "v.nii").write_text("old")
    rights = (tmp_path / "v.nii").stat().st_mode
    save(VOLUME, tmp_path / "v.nii")
    np.testing.assert_array_equal(load(tmp_path / "v.nii").array, NOISE)
    assert (tmp_path / "v.nii").stat().st_mode == rights
    assert os.listdir(tmp_path) == ["v.nii"]


def test_only_volumes_and_transforms_are_saved(tmp_path):
    with pytest.raises(TypeError, match="not ndarray"):
        save(NOISE, tmp_path / "v.nii")
    with pytest.raises(InputError, match="saved as a volume"):
        save(VOLUME, tmp_path / "v.jpg")
    with pytest.raises(InputError, match="saved as a volume"):
        save(Volume(NOISE, Geometry(SHAPE, np.eye(4))), tmp_path / "noending")


def test_landmarks(tmp_path):
    path = tmp_path / "landmarks.csv"
    path.write_text("\ufefffx, fy,fz,mx,my,mz\n1,2,3,4,5,6\n\n-1.5,2e1,3,4,5,6\r\n", encoding="utf-8")
    np.testing.assert_array_equal(load_landmarks(path), [[1, 2, 3, 4, 5, 6], [-1.5, 20, 3, 4, 5, 6]])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the first line must be fx,fy,fz,mx,my,mz"),
        (b"x,y,z\n1,2,3\n", "the first line must be"),
        (b"1,2,3,4,5,6\n", "the first line must be"),
        (b"fx,fy,fz,mx,my,mz\n", "no landmarks"),
        (b"fx,fy,fz,mx,my,mz\n1,2,3,4,5,6\n1,2,3\n", "line 3 must hold six.*'1,2,3'"),
        (b"fx,fy,fz,mx,my,mz\n1,2,3,4,5,x\n", "line 2"),
        (b"fx,fy,fz,mx,my,mz\n1,2,3,4,5,nan\n", "line 2"),
        (b"\xff\xfe\x00\x81", "not text"),
    ],
)
def test_bad_landmarks_get_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "landmarks.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        load_landmarks(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_landmarks_get_a_sentence(tmp_path):
    for path in (tmp_path / "missing.csv", tmp_path):
        with pytest.raises(InputError, match="can't be read"):
            load_landmarks(path)
