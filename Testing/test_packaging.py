"""The wheel holds the package RegCore with everything it needs and nothing else; the set-up needs no luck."""

import configparser
import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from Testing.paths import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of this working copy, built without a network."""
    if find_spec("setuptools") is None or find_spec("pip") is None:
        pytest.skip("setuptools or pip is not installed")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE.txt", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for name in ("RegCore", "DeepRegSlicer", "Resources", "Testing"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "output"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "."]
    done = subprocess.run([*command, "-w", source / "dist"], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (source / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    kinds = (".py", ".yaml", ".html", ".typed")
    files = (path for path in (ROOT / "RegCore").rglob("*") if path.suffix in kinds)
    assert names == {path.relative_to(ROOT).as_posix() for path in files}
    assert any(name.endswith("LICENSE.txt") for name in wheel.namelist())


def test_the_wheel_says_what_it_is_and_needs(wheel):
    info = {name.split("/", 1)[1]: name for name in wheel.namelist() if ".dist-info/" in name}
    metadata = wheel.read(info["METADATA"]).decode()
    version = re.search(r'__version__ = "(.*)"', (ROOT / "RegCore" / "__init__.py").read_text())[1]
    assert f"\nName: deepregslicer\nVersion: {version}\n" in metadata
    needs = re.findall(r"^Requires-Dist: (\w+)[^;\n]*$", metadata, re.MULTILINE)
    assert sorted(needs) == ["SimpleITK", "h5py", "nibabel", "numpy", "pillow", "pyyaml", "scipy"]
    lines = (ROOT / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert len(needs) == sum(not line.startswith("#") for line in lines), "Slicer reads the same list"
    scripts = configparser.ConfigParser()
    scripts.read_string(wheel.read(info["entry_points.txt"]).decode())
    names = ("train", "predict", "warp", "vis", "download")
    assert set(scripts["console_scripts"]) == {"regcore", *(f"deepreg_{name}" for name in names)}
    for place in scripts["console_scripts"].values():
        module, function = place.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_an_image_can_be_read_from_the_unpacked_wheel(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = "import RegCore, RegCore.io, RegCore.samples.phantom, RegCore.evaluation.overview\n"
    code += "print(RegCore.__file__)"
    paths = [str(tmp_path), *(path for path in sys.path if path.endswith("site-packages"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "RegCore" / "__init__.py"


def test_make_knows_every_target_it_speaks_of():
    spoken = set(re.findall(r"make (\w+)  ", MAKEFILE))
    assert spoken and all(re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) for target in spoken)


def pip_stand_in(folder: Path, fails_at: str) -> Path:
    """A Python whose venv and pip only write down what is asked of them; installing `fails_at` fails."""
    program = folder / "python"
    program.write_text(
        f"""#!/bin/sh
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo venv >> log ;;
  *"pip --version"*) exit 0 ;;
  *install*)
    echo "$*" | sed 's/.*--quiet //' >> log
    case "$*" in *{fails_at}*) [ -e fixed ] || exit 1 ;; esac ;;
esac
exit 0
"""
    )
    program.chmod(0o755)
    return program


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not on this machine")
def test_an_interrupted_set_up_is_done_again_and_a_finished_one_is_left_alone(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").write_text("")
    python = pip_stand_in(tmp_path, fails_at="editable")

    def make_demo() -> tuple[int, list[str]]:
        (tmp_path / "log").write_text("")
        command = ["make", "--no-print-directory", "demo", f"PYTHON={python}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, (tmp_path / "log").read_text().splitlines()

    code, first = make_demo()
    assert code != 0 and first[:2] == ["venv", "torch==2.13.0"]
    (tmp_path / ".venv" / "half-made").write_text("")
    (tmp_path / "fixed").write_text("")
    code, second = make_demo()
    assert code == 0 and second == first  # from the beginning: the half-made one was thrown away
    assert not (tmp_path / ".venv" / "half-made").exists()
    assert make_demo() == (0, [])  # nothing to install, no network needed
    os.utime(tmp_path / "pyproject.toml", (2e9, 2e9))
    code, later = make_demo()
    assert code == 0 and "venv" not in later  # new requirements are added to what is there
