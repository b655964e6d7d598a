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


@pytest.fixture
def pip(host, library, lacking, monkeypatch):
    """Calls of Slicer's pip_ensure, which takes the packages out of `lacking`."""
    calls = []

    def ensure(requirements, constraints=None, requester=None):
        kept = Path(constraints).read_text().split()
        calls.append((list(requirements), kept, requester))
        for requirement in requirements:
            lacking.discard(requirement.split(">")[0])

    monkeypatch.setattr(host.packaging, "pip_ensure", ensure)
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
    assert [call[0] for call in pip] == [["torch>=2.4"], ["nibabel>=5.0", "h5py>=3.8", "pyyaml>=6.0"]]
    assert ui.missingBox.isHidden() and ui.statusLabel.text == "The packages are installed."
    assert ui.registerButton.toolTip == "Choose a fixed and a moving volume"
    from importlib.metadata import version

    for _, kept, requester in pip:  # Slicer's own packages stay as they are
        assert f"numpy=={version('numpy')}" in kept and requester == "DeepRegSlicer"


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
    ],
)
def test_declined_or_failed_the_panel_stays_and_says_so(host, library, lacking, monkeypatch, error, sentence):
    def refuse(requirements, constraints=None, requester=None):
        raise error

    monkeypatch.setattr(host.packaging, "pip_ensure", refuse)
    ui = host.load_module(MODULE).ui
    ui.installButton.click()
    assert sentence in ui.statusLabel.text
    assert not ui.missingBox.isHidden() and ui.installButton.enabled
    assert not ui.registerButton.enabled


def test_what_pip_left_out_is_named(host, library, lacking, monkeypatch):
    monkeypatch.setattr(host.packaging, "pip_ensure", lambda *given, constraints=None, requester=None: None)
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
