"""Fixtures for all tests: `host`, the stand-in for the Slicer application, for the tests that need it."""

import os
import sys
from pathlib import Path

import pytest

# Waiting threads must sleep, see RegCore/cli/__init__.py; OpenMP reads this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

TESTING = str(Path(__file__).parent)
if TESTING not in sys.path:
    sys.path.insert(0, TESTING)


def pytest_addoption(parser):
    parser.addoption("--all-merges", action="store_true", help="every merge of DeepReg's configurations")


@pytest.fixture(scope="session")
def running_host():
    """The host of this process, with whatever earlier tests left in it; skips where it can't start."""
    import SlicerHost

    reason = SlicerHost.missing_reason()
    if reason:
        pytest.skip(reason)
    return SlicerHost.start()


@pytest.fixture
def host(running_host):
    """The host with an empty scene and no module open; both again after the test.

    Fails the test for an exception in a slot or an observer, which Qt and VTK only print: a test that expects
    one takes it out of `host.errors`.
    """
    running_host.reset()
    yield running_host
    running_host.close_all()
    errors = list(running_host.errors)
    running_host.reset()
    assert not errors, f"a slot or an observer raised {errors[0]!r}"
