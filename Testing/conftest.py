"""For all tests: `host`, the stand-in for the Slicer application, and which of them are slow."""

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
    parser.addoption("--processor-times", metavar="FILE", help="write the processor seconds of each test")


def pytest_collection_modifyitems(items):
    """Mark the tests of slow_tests.txt; `make test-fast` leaves them out."""
    lines = (Path(TESTING) / "slow_tests.txt").read_text(encoding="utf-8").splitlines()
    slow = {line for line in lines if not line.startswith("#")}
    for item in items:
        if item.nodeid.partition("[")[0] in slow:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Measure a test with what is set up for it first, and with the processes it waits for."""
    begun = sum(os.times()[:4])
    result = yield
    path = item.config.getoption("--processor-times")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{sum(os.times()[:4]) - begun:.2f}\t{item.nodeid}\n")
    return result


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
