"""Fixtures for the tests of the Slicer module: its library, which needs Slicer's modules around it."""

import importlib
import sys
from pathlib import Path

import pytest

MODULE_FOLDER = Path(__file__).resolve().parents[2] / "DeepRegSlicer"


@pytest.fixture
def library(host):
    """library("nodes") is the module DeepRegSlicerLib.nodes, imported in the running host."""
    if str(MODULE_FOLDER) not in sys.path:
        sys.path.insert(0, str(MODULE_FOLDER))
    return lambda name: importlib.import_module(f"DeepRegSlicerLib.{name}")
