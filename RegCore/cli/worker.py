"""The child process that 3D Slicer talks to: requests and events are lines of JSON, arrays lie in files.

A request is one line on standard input, an event one line on standard output:

    {"id": 1, "command": "register", "folder": "/tmp/x"}        do it: /tmp/x/request.npz holds the arguments
    {"id": 2, "command": "train", "folder": …, "stays": true}   do it even if the one who asks goes
    {"cancel": 1}                                               stop it (so does a file /tmp/x/cancel)

    {"event": "ready", "process": 4711, "version": "0.1.0"}     once, at the start
    {"event": "progress", "id": 1, "fraction": 0.4, "stage": "affine", "values": {"loss": 0.31}}
    {"event": "result", "id": 1}                                /tmp/x/result.npz is there, whole
    {"event": "error", "id": 1, "kind": "input", "message": "...", "details": "...", "missing": []}
    {"event": "cancelled", "id": 1}

A training that is cancelled finishes its step and keeps a checkpoint before it says so. The process ends when
its standard input closes, hence with whoever started it; a training ends as if it were cancelled, unless it
stays: then it goes on and is followed in its folder, see `RegCore.training.presence`. What libraries print
goes to standard error. Nothing heavy is imported before the first request.
"""

import gc
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import RegCore
from RegCore.cli import tasks
from RegCore.cli.extras import as_image, extras, maps_command, named_start, small
from RegCore.cli.failures import describe, is_out_of_memory, load_torch, missing_packages, on_graphics_card
from RegCore.cli.slicreg_task import prepared_config
from RegCore.evaluation.memory import give_back_freed_memory
from RegCore.io import messages
from RegCore.progress import Cancelled, Progress, part_of
from RegCore.space.geometry import InputError
from RegCore.space.volume import Volume

PROGRESS_EVERY = 0.1  # seconds between two progress events of one stage
GRACE = 2.0  # seconds that running work gets to end by itself after standard input closed,
PREPARING = 0.4  # of the work of a training that SLIC-Reg's preparation is said to be
GRACES = {"train": 120.0}  # or more, where it has something to keep
log = logging.getLogger(__name__)


def register_command(arguments: dict, progress: Progress) -> dict:
    """`RegCore.register` with the arguments of the request; the result by the names of `Registration`.

    A moving segmentation without a fixed one can't guide the registration; it is just warped. A label map in
    place of an image is registered by what it looks like, and warped as labels. Where the device was left to
    the program and the graphics card's memory does not suffice, the work is done again on the processor.

    Args:
        arguments: of the request. ``full_field`` asks for a displacement field on the fixed grid, however
            large it is; else see `compacted`. ``initial`` may be a word of `STARTS`. ``wanted`` is that of
            `extras`.
        progress: told how far the work is, and at the start which ``device`` computes.
    """
    arguments = dict(arguments)
    full, wanted = arguments.pop("full_field", False), arguments.pop("wanted", None) or {}
    fixed, moving = arguments.pop("fixed"), arguments.pop("moving")
    alone = arguments.pop("moving_labels", None) if arguments.get("fixed_labels") is None else None
    load_torch(progress)
    if isinstance(arguments.get("initial"), str):
        arguments["initial"] = named_start(arguments["initial"], fixed, moving, arguments.get("landmarks"))
    done, device = _registered(as_image(fixed), as_image(moving), arguments, progress)
    progress(1.0, "measuring", {})
    if moving.kind == "labels":
        done = replace(done, warped=RegCore.warp(moving, done.transform, fixed.geometry))
    return tasks.checked(arguments, moving, done) | {
        "transform": small(done.transform, full),
        "warped_labels": RegCore.warp(alone, done.transform, fixed.geometry) if alone else done.warped_labels,
        "metrics": done.metrics,
        "seconds": done.seconds,
        "device": device,
        **extras(wanted, moving, done, full, part_of(progress, 1.0, 1.0)),
    }


def _registered(
    fixed: Volume, moving: Volume, arguments: dict, progress: Progress
) -> "tuple[RegCore.Registration, str]":
    """What `RegCore.register` gives, and the device that computed it."""
    chosen, device = arguments.get("device", "auto"), _device(arguments)
    progress(0.0, f"starting on {device}", {"device": device})
    try:
        return RegCore.register(fixed, moving, **arguments, progress=progress), device
    except Exception as error:
        if not is_out_of_memory(error) or chosen != "auto" or not on_graphics_card(error):
            raise
        log.warning("the graphics card has too little memory, going on with the processor: %s", error)
        progress(0.0, "graphics card full: starting again on the processor", {"device": "cpu"})
        arguments = {**arguments, "device": "cpu"}
        return RegCore.register(fixed, moving, **arguments, progress=progress), "cpu"


def _device(arguments: dict) -> str:
    """The device that will compute; one that was asked for by name is checked where it is used."""
    from RegCore.networks.device import choose_device

    chosen = arguments.get("device", "auto")
    return choose_device(chosen) if chosen == "auto" else chosen


def train_command(arguments: dict, progress: Progress) -> dict:
    """`RegCore.training.train`; every epoch ends with a progress event that holds its figures.

    Args:
        arguments: ``config``, paths of YAML files, what they would say, or what `prepared_config` takes as
            ``slicreg``; ``folder`` of the run; and optionally ``plugins``, paths, and ``resume``,
            ``start_from``, ``max_epochs``, ``device``, as `train` takes them. A relative folder of data that
            is not in the working directory is looked for beside the first YAML file and above it.
    """
    load_torch(progress)
    from RegCore.training import train
    from RegCore.training.config import Config, load_config
    from RegCore.training.plugins import load_plugin

    arguments = dict(arguments)
    given, folder = arguments.pop("config"), Path(arguments.pop("folder"))
    for plugin in arguments.pop("plugins", ()):
        load_plugin(plugin)
    if isinstance(given, dict):
        if "slicreg" in given:
            asked, told = given["slicreg"], part_of(progress, 0.0, PREPARING)
            given = prepared_config(asked, arguments.get("device", "auto"), told)
            progress = part_of(progress, PREPARING, 1.0)
        config = Config.from_dict(given, "the form")
    else:
        config = load_config(given)
        placed = _placed(config.to_dict()["dataset"], Path(given[0]).expanduser().absolute())
        config = load_config(given, overrides={"dataset": placed})
    for sentence in config.changes:
        progress(0.0, f"{config.source}: {sentence}", {})
    progress(0.0, f"preparing data and network on {_device(arguments)}", {})
    done = train(config, log_dir=folder.parent, exp_name=folder.name, **arguments, progress=progress)
    return {
        "folder": str(done.folder),
        "model": str(done.model),
        "method": config.train.method,
        "history": done.history[done.inherited :],
        "ended": done.ended,
    }


def _placed(dataset: dict, file: Path) -> dict:
    """The splits of a configuration's dataset with their folders as absolute paths, where they are found."""
    placed = {}
    for split in ("train", "valid", "test"):
        folders = (dataset.get(split) or {}).get("dir")
        if folders:
            several = [folders] if isinstance(folders, str) else folders
            near = [_near(Path(name).expanduser(), file) for name in several]
            placed[split] = {"dir": near[0] if isinstance(folders, str) else near}
    return placed


def _near(folder: Path, file: Path) -> str:
    """A folder in the working directory, beside the file or above it; as it is named if there is none."""
    there = (parent / folder for parent in (Path.cwd(), *file.parents) if (parent / folder).is_dir())
    return str(next(there, folder))


def check_command(arguments: dict, progress: Progress) -> dict:
    """Which packages are missing, and once torch is there, which devices can be chosen."""
    missing = missing_packages()
    devices = ["cpu"]
    if "torch" not in missing:
        load_torch(progress)
        import torch

        devices += ["cuda"] if torch.cuda.is_available() else []
        devices += ["mps"] if torch.backends.mps.is_available() else []
    return {"missing": missing, "devices": devices, "version": RegCore.__version__}


Command = Callable[[dict, Progress], dict]
"""(arguments, progress) -> result: values that `RegCore.io.messages` can write, by name."""

COMMANDS: dict[str, Command] = {
    "register": register_command,
    "train": train_command,
    "check": check_command,
    "maps": maps_command,
    "report": tasks.report_command,
    "pair": tasks.pair_command,
    "save": tasks.save_command,
    "files": tasks.files_command,
    "model": tasks.model_command,
}


def outlive_the_listener() -> None:
    """From now on what is printed is passed on while somebody listens, and lost, without an error, after."""
    listener = os.dup(2)
    source, target = os.pipe()
    for descriptor in (1, 2):
        os.dup2(target, descriptor)
    os.close(target)

    def pass_on() -> None:
        while text := os.read(source, 1 << 16):
            with suppress(OSError):  # nobody listens any more
                os.write(listener, text)

    threading.Thread(target=pass_on, name="prints", daemon=True).start()


def release_memory() -> None:
    """Give back what a job held, the graphics card's memory above all: others in this computer want it."""
    gc.collect()
    give_back_freed_memory()
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class Request:
    """A request on its way through the process."""

    def __init__(self, number: int, command: str, folder: Path, stays: bool = False):
        self.number, self.command, self.folder, self.stays = number, command, folder, stays
        self.cancelled = threading.Event()
        self._last_time, self._last_stage = 0.0, None

    def stop_if_asked(self) -> None:
        """Return unless the work is to end.

        Raises:
            Cancelled: a message or the cancel file says so.
        """
        if self.cancelled.is_set() or (self.folder / "cancel").exists():
            raise Cancelled

    def wants_to_tell(self, stage: str) -> bool:
        """Whether a progress event is due: always for a new stage, else not too often."""
        now = time.monotonic()
        if stage == self._last_stage and now - self._last_time < PROGRESS_EVERY:
            return False
        self._last_time, self._last_stage = now, stage
        return True


class Server:
    """Reads requests in a thread and does them one by one in the thread that calls `serve`."""

    def __init__(self, requests, events, commands: dict[str, Command]):
        """requests: text lines; events: a text file to write to; commands: what can be asked for."""
        self._requests, self._events, self._commands = requests, events, commands
        self._writing = threading.Lock()
        self._queue: queue.Queue[Request | None] = queue.Queue()
        self._jobs: dict[int, Request] = {}
        self._idle = threading.Event()
        self._idle.set()

    def serve(self) -> None:
        """Work until the requests end."""
        listener = threading.Thread(target=self._listen, name="requests", daemon=True)
        listener.start()
        self.tell({"event": "ready", "process": os.getpid(), "version": RegCore.__version__})
        while (job := self._queue.get()) is not None:
            self._idle.clear()
            self._work(job)
            release_memory()
            if self._jobs.get(job.number) is job:  # else the next request has its number already
                del self._jobs[job.number]
            self._idle.set()
        listener.join()  # it still removes the folders of requests that nobody waits for

    def tell(self, event: dict) -> None:
        """Send one event. A parent that is gone is no error: standard input ends too, and that ends us."""
        try:
            with self._writing:
                self._events.write(json.dumps(event) + "\n")
                self._events.flush()
        except OSError as error:
            log.warning("nobody listens any more: %s", error)

    def _listen(self) -> None:
        try:
            for line in filter(str.strip, self._requests):
                self._receive(line)
        finally:
            self._end()

    def _end(self) -> None:  # whatever ends the requests
        self._queue.put(None)
        jobs = list(self._jobs.values())
        if any(job.stays for job in jobs):
            return
        for job in jobs:
            job.cancelled.set()
        done = self._idle.wait(max((GRACES.get(job.command, GRACE) for job in jobs), default=GRACE))
        for job in jobs:
            messages.discard(job.folder)
        if not done:
            os._exit(0)  # nobody is there to wait for work that does not look at its progress

    def _receive(self, line: str) -> None:
        try:
            message = json.loads(line)
            if "cancel" in message:
                if message["cancel"] in self._jobs:
                    self._jobs[message["cancel"]].cancelled.set()
                return
            what = str(message["command"]), Path(message["folder"]), bool(message.get("stays"))
            job = Request(int(message["id"]), *what)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            told = {"kind": "request", "message": f"A request was not understood: {line.strip()[:200]}"}
            return self.tell({"event": "error", "id": None, **told, "details": repr(error), "missing": []})
        if job.stays and not any(other.stays for other in self._jobs.values()):
            outlive_the_listener()
        self._jobs[job.number] = job
        self._queue.put(job)

    def _work(self, job: Request) -> None:
        def progress(fraction: float, stage: str, values: dict) -> None:
            job.stop_if_asked()
            if job.wants_to_tell(stage):
                told = {"fraction": float(fraction), "stage": stage, "values": _numbers(values)}
                self.tell({"event": "progress", "id": job.number, **told})

        try:
            progress(0.0, "starting", {})
            if job.command not in self._commands:
                known = ", ".join(sorted(self._commands))
                raise InputError(f"the command {job.command!r} is unknown; there are: {known}")
            result = self._commands[job.command](messages.read(job.folder / "request.npz"), progress)
            job.stop_if_asked()
            messages.write(job.folder / "result.npz", result)
            self.tell({"event": "result", "id": job.number})
        except Cancelled:
            self.tell({"event": "cancelled", "id": job.number})
        except Exception as error:
            self.tell({"event": "error", "id": job.number, **describe(error, job.command)})


def _numbers(values: dict) -> dict:
    """The figures of the moment as JSON can say them."""
    return {n: x if isinstance(x, str | int | float) else float(x) for n, x in values.items()}


def main(arguments: list[str] | None = None) -> int:
    """Serve the process that started this one until it closes our standard input; return the exit code.

    The two channels are moved away from descriptors 0 and 1, so that a library that prints, or a child of
    it that reads, can't come between.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8", errors="replace")
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    Server(requests, events, COMMANDS).serve()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
