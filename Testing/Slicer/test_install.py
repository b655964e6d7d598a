"""Packages that are missing: the panel opens, says so, and installs them only when it is told to."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "DeepRegSlicer" / "DeepRegSlicer.py"


@pytest.fixture
def lacking(library, monkeypatch):
    """The set of packages that are missing; what is installed leaves it."""
    absent = {"torch", "nibabel"}
    monkeypatch.setattr(library("install"), "missing_packages", lambda: sorted(absent))
    return absent


def install_by(host, monkeypatch, ensure) -> None:
    """Have Slicer install by `ensure(requirements, constraints)`, with slicer.packaging or without it."""

    def pip_ensure(requirements, constraints, requester):
        ensure(requirements, constraints)

    if host.packaging is not None:
        monkeypatch.setattr(host.packaging, "pip_ensure", pip_ensure)
        return
    util = host.slicer.util
    monkeypatch.setattr(util, "confirmOkCancelDisplay", lambda *text: True)
    monkeypatch.setattr(util, "pip_install", lambda words: ensure(words[:-2], words[-1]))


@pytest.fixture
def pip(host, library, lacking, monkeypatch):
    """What Slicer was asked to install, which takes the packages out of `lacking`."""
    calls = []

    def ensure(requirements, constraints):
        calls.append((list(requirements), Path(constraints).read_text().split()))
        for requirement in requirements:
            lacking.discard(requirement.split(">")[0])

    install_by(host, monkeypatch, ensure)
    return calls


def test_the_panel_opens_and_says_what_is_missing(host, lacking, pip):
    ui = host.load_module(MODULE).ui
    assert not ui.missingBox.isHidden()
    assert "<b>nibabel</b>, <b>torch</b>" in ui.missingLabel.text
    assert not ui.registerButton.enabled
    assert ui.registerButton.toolTip == "Install the missing packages first"
    assert pip == []


def test_one_click_installs_and_the_notice_goes(host, library, lacking, pip):
    ui = host.load_module(MODULE).ui
    ui.installButton.click()
    assert [call[0] for call in pip] == [["torch>=2.4"], ["nibabel>=5.0", "h5py>=3.10", "pyyaml>=6.0"]]
    assert ui.missingBox.isHidden() and ui.statusLabel.text == "The packages are installed."
    assert ui.registerButton.toolTip == "Choose a fixed and a moving volume"
    from importlib.metadata import version

    for _, kept in pip:  # Slicer's own packages stay as they are
        assert f"numpy=={version('numpy')}" in kept


def test_the_extension_pytorch_is_preferred(library, lacking, pip, monkeypatch):
    asked = []

    class PyTorchUtilsLogic:
        def installTorch(self, askConfirmation):
            asked.append(askConfirmation)
            lacking.discard("torch")
            return types.ModuleType("torch")

    made = types.ModuleType("PyTorchUtils")
    made.PyTorchUtilsLogic = PyTorchUtilsLogic
    made.__spec__ = types.SimpleNamespace(name="PyTorchUtils")
    monkeypatch.setitem(sys.modules, "PyTorchUtils", made)
    library("install").install()
    assert asked == [True]
    assert [call[0][0] for call in pip] == ["nibabel>=5.0"]
    PyTorchUtilsLogic.installTorch = lambda self, askConfirmation: None
    lacking.add("torch")
    with pytest.raises(library("install").InstallError, match="as you chose") as declined:
        library("install").install()
    assert declined.value.declined


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("declined"), "The packages were not installed, as you chose."),
        (subprocess.CalledProcessError(1, "pip"), "The packages could not be installed"),
        (PermissionError("read-only"), "The packages could not be installed (read-only)"),
    ],
)
def test_declined_or_failed_the_panel_stays_and_says_so(host, library, lacking, monkeypatch, error, sentence):
    def refuse(requirements, constraints):
        raise error

    install_by(host, monkeypatch, refuse)
    ui = host.load_module(MODULE).ui
    ui.installButton.click()
    assert sentence in ui.statusLabel.text
    assert not ui.missingBox.isHidden() and ui.installButton.enabled
    assert not ui.registerButton.enabled


def test_what_pip_left_out_is_named(host, library, lacking, monkeypatch):
    install_by(host, monkeypatch, lambda requirements, constraints: None)
    with pytest.raises(library("install").InstallError, match="still missing: nibabel, torch"):
        library("install").install()


@pytest.mark.parametrize("agreed", [True, False])
def test_an_older_slicer_is_asked_by_its_own_dialog(library, lacking, monkeypatch, agreed):
    import slicer

    install = library("install")
    installed = []

    def pip_install(arguments):
        installed.append(arguments)
        lacking.clear()

    monkeypatch.delattr(slicer, "packaging", raising=False)
    monkeypatch.setattr(install, "find_spec", lambda name: None)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *text: agreed)
    monkeypatch.setattr(slicer.util, "pip_install", pip_install, raising=False)
    if agreed:
        install.install()
        assert installed[0][:2] == ["torch>=2.4", "--constraint"]
    else:
        with pytest.raises(install.InstallError, match="as you chose"):
            install.install()
        assert installed == []


def test_packages_that_vanish_under_way_bring_the_notice_back(host, library, stand_in, monkeypatch):
    from Testing.Slicer import scenes

    absent = []
    monkeypatch.setattr(library("install"), "missing_packages", lambda: list(absent))
    real = library("logic").register_volumes
    monkeypatch.setattr(
        library("panels.register"),
        "register_volumes",
        lambda *given, settings, **more: real(*given, settings={"play": "missing"}, **more),
    )
    panel = host.load_module(MODULE)
    panel.ui.fixedVolumeSelector.setCurrentNode(scenes.volume("F"))
    panel.ui.movingVolumeSelector.setCurrentNode(scenes.volume("M"))
    panel.ui.registerButton.click()
    absent.append("torch")
    assert host.spin(10, until=lambda: panel.widget.panel.run is None)
    assert panel.ui.statusLabel.text.startswith("Python packages are missing: ")
    assert not panel.ui.missingBox.isHidden() and not panel.ui.registerButton.enabled


FAKES = {  # what a broken PyTorch says when it is imported
    "half installed": "from torch import _C_that_is_not_there",
    "a library missing": "raise OSError('[WinError 126] the module could not be found')",
    "built for another NumPy": "class zeros:\n    def __init__(self, n): pass\n"
    "    def numpy(self): raise RuntimeError('Numpy is not available')",
    "nothing but a name": "",
}


@pytest.mark.parametrize("fake", FAKES)
def test_a_broken_pytorch_is_said_and_repaired_by_a_click(host, library, monkeypatch, tmp_path, fake):
    from Testing.Slicer import scenes

    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text(FAKES[fake])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # before the place of the PyTorch of these tests
    process, install = library("process"), library("install")
    monkeypatch.setattr(process, "_shared", None)
    panel = host.load_module(MODULE)
    ui = panel.ui
    ui.fixedVolumeSelector.setCurrentNode(scenes.volume("F"))
    ui.movingVolumeSelector.setCurrentNode(scenes.volume("M", (11, 9, 13), scenes.MOVING))
    ui.registerButton.click()
    assert host.spin(60, until=lambda: panel.widget.panel.run is None)
    assert ui.statusLabel.text.startswith("PyTorch is installed but can't be used (")
    assert ui.statusLabel.text.endswith("): repair its installation.")
    assert not ui.missingBox.isHidden() and ui.installButton.text == "Repair PyTorch"
    assert not ui.registerButton.enabled
    panel.widget.enter()  # coming back looks for packages, which are all there
    assert ui.installButton.text == "Repair PyTorch"
    asked, installed = [], []
    monkeypatch.setattr(
        host.slicer.util, "confirmOkCancelDisplay", lambda text, *more: asked.append(text) or True
    )
    monkeypatch.setattr(host.slicer.util, "pip_install", installed.append)
    ui.installButton.click()
    assert "install it again" in asked[0] and installed[0][:2] == ["--force-reinstall", install.TORCH]
    assert ui.missingBox.isHidden() and ui.statusLabel.text == "The packages are installed."
    assert ui.registerButton.enabled
    process.stop_shared_worker()


def test_the_extension_pytorch_repairs_what_it_installed(host, library, monkeypatch):
    calls = []

    class PyTorchUtilsLogic:
        def uninstallTorch(self):
            calls.append("uninstall")

        def installTorch(self):
            calls.append("install")
            return types.ModuleType("torch")

    made = types.ModuleType("PyTorchUtils")
    made.PyTorchUtilsLogic = PyTorchUtilsLogic
    made.__spec__ = types.SimpleNamespace(name="PyTorchUtils")
    monkeypatch.setitem(sys.modules, "PyTorchUtils", made)
    install = library("install")
    monkeypatch.setattr(host.slicer.util, "confirmOkCancelDisplay", lambda text: False)
    with pytest.raises(install.InstallError, match="as you chose"):
        install.repair_torch()
    assert calls == []
    monkeypatch.setattr(host.slicer.util, "confirmOkCancelDisplay", lambda text: True)
    install.repair_torch()
    assert calls == ["uninstall", "install"]


def test_a_package_that_some_of_the_work_needs_is_installed_by_the_button(host, library, lacking, pip):
    lacking.clear()
    panel = host.load_module(MODULE)
    error = library("process").WorkerError("x", missing=("scikit-image",), kind="missing")
    panel.widget.panel.offer_to_install(error)
    assert "<b>scikit-image</b>" in panel.ui.missingLabel.text and not panel.ui.missingBox.isHidden()
    assert panel.ui.registerButton.toolTip == "Choose a fixed and a moving volume"  # nothing else needs it
    panel.ui.installButton.click()
    assert [call[0] for call in pip] == [["scikit-image"]]
    assert panel.ui.missingBox.isHidden()
