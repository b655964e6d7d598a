"""Fixtures for the tests of the Slicer module: its library, which needs Slicer's modules around it."""

import importlib
import sys
from pathlib import Path

import pytest

MODULE_FOLDER = Path(__file__).resolve().parents[2] / "DeepRegSlicer"
STAND_IN = Path(__file__).with_name("stand_in_worker.py")


@pytest.fixture
def library(host):
    """library("nodes") is the module DeepRegSlicerLib.nodes, imported in the running host."""
    if str(MODULE_FOLDER) not in sys.path:
        sys.path.insert(0, str(MODULE_FOLDER))
    return lambda name: importlib.import_module(f"DeepRegSlicerLib.{name}")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A folder of small labelled pairs to train with."""
    from Testing.RegCore.training.runs import write_pairs

    folder = tmp_path_factory.mktemp("data") / "pairs"
    write_pairs(folder)
    return folder


@pytest.fixture
def status_bar(host):
    """The status bar of a main window as Slicer has one; a list of what was shown in it."""
    from PySide6 import QtWidgets

    window, seen = QtWidgets.QMainWindow(), []
    window.setObjectName("qSlicerMainWindow")
    window.statusBar().messageChanged.connect(seen.append)
    yield seen
    window.deleteLater()
    host.spin(0.05)


@pytest.fixture
def stand_in(library, monkeypatch):
    """The shared worker starts the stand-in instead of RegCore; returns the worker."""
    process = library("process")
    monkeypatch.setattr(process, "worker_command", lambda: [sys.executable, str(STAND_IN)])
    monkeypatch.setattr(process, "_shared", None)
    yield process.shared_worker()
    process.stop_shared_worker()


@pytest.fixture
def requests(stand_in, monkeypatch):
    """The arguments of each request to the process."""
    seen, request = [], type(stand_in).request

    def record(self, command, arguments, *more):
        seen.append(arguments)
        return request(self, command, arguments, *more)

    monkeypatch.setattr(type(stand_in), "request", record)
    return seen
