"""Nothing runs that nobody asked for: no module lying about, no plugin that a file names, no code in data.

Crafted checkpoints, messages and YAML files that would run code are tried in the tests of their readers.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from RegCore.io import load
from RegCore.io.scratch import Scratch
from RegCore.io.yaml import read_yaml
from RegCore.networks.model_file import build, read_model, save_model
from RegCore.space.geometry import InputError
from RegCore.training.config import Config, load_config
from Testing.paths import ROOT
from Testing.RegCore.training.runs import configuration

TRAP = "import pathlib; pathlib.Path(r'{0}').write_text('it ran')\n"


@pytest.mark.parametrize("how", [["-m", "RegCore", "warp"], ["-m", "RegCore", "register"]])
def test_no_module_of_the_working_directory_is_imported(tmp_path, how):
    marker = tmp_path / "marker"
    for name in ("nibabel", "SimpleITK", "torch", "h5py", "yaml", "scipy"):
        (tmp_path / f"{name}.py").write_text(TRAP.format(marker))
    (tmp_path / "v.nii").write_bytes(b"no image")
    files = {
        "warp": ["-i", "v.nii", "-d", "v.nii"],
        "register": ["--fixed=v.nii", "--moving=v.nii", "--out=o"],
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, *how, *files[how[-1]]]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "v.nii" in done.stderr and not marker.exists()


def test_no_worker_of_a_pool_imports_from_the_working_directory(tmp_path):
    """A pool starts its processes with `python -c`, which looks there first, for json as well."""
    marker, code = tmp_path / "marker", "raise ImportError('a trap')\n"
    for name in sys.stdlib_module_names | {"nibabel", "SimpleITK", "torch", "numpy", "scipy", "RegCore"}:
        (tmp_path / f"{name}.py").write_text(TRAP.format(marker) + code)
    started = (
        "import sys; sys.path[:] = [path for path in sys.path if path]\n"
        "from RegCore.studies.workers import WorkerProcess\n"
        "from RegCore.studies.jobs import Job\nimport threading\n"
        "worker = WorkerProcess(1); worker._start(); print(worker.process_id > 0)\n"
        "worker._requests.close(); print(worker._process.wait())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", started]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "0"], done.stderr
    assert not marker.exists()


def test_no_plugin_is_loaded_because_a_file_names_it(tmp_path):
    marker, plugin = tmp_path / "marker", tmp_path / "plugin.py"
    plugin.write_text(TRAP.format(marker))
    plain = configuration(tmp_path).to_dict()
    for key in ("plugin", "plugins"):
        with pytest.raises(InputError, match=key):
            Config.from_dict(plain | {key: [str(plugin)]})
        with pytest.raises(InputError, match=key):
            Config.from_dict({**plain, "train": {**plain["train"], key: [str(plugin)]}})
    written = tmp_path / "c.yaml"
    written.write_text(f"plugin: {plugin}\n")
    with pytest.raises(InputError, match="plugin"):
        load_config(written)
    backbone = {"name": "unet", "num_channel_initial": 2, "depth": 1}
    config = {
        "train": {"method": "ddf", "backbone": backbone},
        "plugin": str(plugin),
        "plugins": [str(plugin)],
    }
    save_model(tmp_path / "m.pt", build(config, (9, 8, 7), (9, 8, 7), labeled=False))
    read_model(tmp_path / "m.pt")
    assert not marker.exists()


def test_private_folders_are_the_users_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        made = Scratch(tmp_path)
    finally:
        os.umask(before)
    assert os.name != "posix" or made.path.stat().st_mode & 0o777 == 0o700
    made.remove()


def test_no_array_file_may_hold_objects(tmp_path):
    class Bad:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'marker'}",))

    np.savez(tmp_path / "v.npz", array=np.array([Bad()], dtype=object))
    with pytest.raises(InputError, match=r"v\.npz"):
        load(tmp_path / "v.npz")
    assert not (tmp_path / "marker").exists()


def test_a_yaml_file_whose_aliases_grow_beyond_all_bounds_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"bomb\.yaml"):
        read_yaml(tmp_path / "bomb.yaml")
