"""The commands ``regcore …`` and ``deepreg_…``: errors are one sentence each, and starting loads no torch.

Each family of commands has a file of its own with a function that adds its subparsers to those of ``regcore``
and sets ``run``, the function that gets the arguments, and ``left``, what is said when it was stopped, unless
nothing is written then. A new family is entered in `FAMILIES`.
"""

import argparse
import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress

from RegCore.cli.arguments import Parser
from RegCore.cli.checkpoint import add_import
from RegCore.cli.download import add_download
from RegCore.cli.general import add_general
from RegCore.cli.groups import add_groups
from RegCore.cli.points import add_points
from RegCore.cli.predict import add_predict
from RegCore.cli.register import add_register
from RegCore.cli.series import add_series
from RegCore.cli.slicreg import add_slicreg
from RegCore.cli.studies import add_studies
from RegCore.cli.train import add_train
from RegCore.cli.vis import add_vis
from RegCore.cli.warp import add_warp
from RegCore.evaluation.memory import keep_freed_memory
from RegCore.progress import Cancelled
from RegCore.registration import METHODS
from RegCore.space.geometry import InputError
from RegCore.space.names import DEVICES, READABLE

__all__ = ["BAD_INPUT", "CANCELLED", "DEVICES", "FAILED", "METHODS", "main", "run"]


def add_worker(commands) -> None:
    """Add ``regcore worker``, which imports what it needs when it is run."""
    parser = commands.add_parser("worker", help="serve 3D Slicer over standard input and output")
    parser.set_defaults(run=_run_worker)


def _run_worker(arguments: argparse.Namespace) -> None:
    from RegCore.cli import worker

    worker.main([])


FAMILIES = (add_register, add_train, add_predict, add_slicreg, add_warp, add_vis, add_download, add_import)
FAMILIES += (add_general, add_points, add_studies, add_series, add_groups, add_worker)
LOG_LEVEL = "DEEPREG_LOG_LEVEL"
BAD_INPUT, FAILED, CANCELLED, TERMINATED = 2, 1, 130, 143
NO_MEMORY = "error: there is not enough memory for volumes of this size, or for this network and batch"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``regcore`` with these arguments (default: those of the process) and return its exit code.

    0: done; 2: something given can't be used, said in one sentence on standard error; 130: cancelled; 143:
    ended by a signal; 1: out of memory, a package is missing, or nobody takes what is printed; others as the
    command says.
    """
    return run(_parser, argv)


def run(make_parser: Callable[[], argparse.ArgumentParser], argv: Sequence[str] | None = None) -> int:
    """Read the arguments with a parser, call their ``run``; what goes wrong becomes a sentence and a code."""
    _set_up_process(ours=argv is None)
    parser, left = make_parser(), "nothing was written"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)
    try:
        arguments = parser.parse_args(sys.argv[1:] if argv is None else list(argv))
        left = getattr(arguments, "left", left)
        with _logging(), _ended_by_signals():
            code = arguments.run(arguments) or 0
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
    except OSError as error:  # those of files are InputErrors
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        _silence()
        return _complain(parser, f"error: standard output can't be written to ({error.strerror})", FAILED)
    except _Ended as end:
        return _complain(parser, f"ended by {end}, {left}", TERMINATED)
    except InputError as error:
        return _complain(parser, f"error: {error}", BAD_INPUT)
    except (Cancelled, KeyboardInterrupt):
        return _complain(parser, f"cancelled, {left}", CANCELLED)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return _complain(parser, "error: PyTorch is missing; install it with: pip install torch", FAILED)
    except MemoryError:
        return _complain(parser, NO_MEMORY, FAILED)
    except RuntimeError as error:
        from RegCore.cli.failures import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        return _complain(parser, NO_MEMORY, FAILED)
    except SystemExit as end:  # argparse after --help
        return int(end.code or 0)


def _set_up_process(*, ours: bool) -> None:
    # read by OpenMP when torch is loaded: threads that spin while they wait slow down all other programs
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if ours:
        keep_freed_memory()


class _Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP: everything is cleaned up on the way out, as after Ctrl-C."""


@contextmanager
def _ended_by_signals():
    """Turn SIGTERM (of schedulers, containers and logouts) and SIGHUP into an exception, once.

    Libraries make other errors of what interrupts them, half an import say: those count as the signal, too,
    also after Ctrl-C.
    """
    came: list[KeyboardInterrupt] = []

    def end(number, frame):
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)
        came.append(KeyboardInterrupt() if number == signal.SIGINT else _Ended(signal.Signals(number).name))
        raise came[0]

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {n: signal.signal(n, end) for n in numbers if signal.getsignal(n) in usual}
    try:
        yield
    except Exception as error:
        if came:
            raise came[0] from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _silence() -> None:
    """Let what Python still wants to print at its end go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextmanager
def _logging():
    """Show what RegCore logs on standard error, from the level on that DEEPREG_LOG_LEVEL (0 to 5) names."""
    number = os.environ.get(LOG_LEVEL, "2")
    if number not in ("0", "1", "2", "3", "4", "5"):
        raise InputError(f"the environment variable {LOG_LEVEL} must be a number from 0 to 5, not {number!r}")
    logger, handler = logging.getLogger("RegCore"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    before = logger.level
    logger.setLevel(max(logging.DEBUG, 10 * int(number)))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _complain(parser: argparse.ArgumentParser, sentence: str, code: int) -> int:
    with suppress(OSError):  # nobody may be there to read it; the code says it, too
        print(f"{parser.prog}: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def _parser() -> Parser:
    parser = Parser(prog="regcore", description="Registration of medical images.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in FAMILIES:
        add(commands)
    return parser
