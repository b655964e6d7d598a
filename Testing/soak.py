"""Kills each long command and looks at what is left: `python -m Testing.soak COUNT [SEED [PART ...]]`.

Each command runs in a process of its own, forked from one that has imported all. It gets SIGKILL, SIGTERM or
SIGINT at a moment of its usual time, half of them near its end, where results are written. After each kill
what is there must be whole; after SIGTERM and SIGINT nothing unfinished may be left; and a last run that
nobody stops must leave what an undisturbed one leaves. Ends with exit code 1 if anything else came.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from RegCore.cli import main, worker
from RegCore.evaluation.results import FILES
from RegCore.io import load, messages, save
from RegCore.io.scratch import Scratch, sweep
from RegCore.io.series import save_series
from RegCore.networks.model_file import read_content, read_model
from RegCore.slicreg import folder as slicreg_folder
from RegCore.slicreg import label_propagation
from RegCore.studies.group_outputs import PROPAGATION_RESULTS, TEMPLATE_RESULTS
from RegCore.studies.outputs import RESULTS as SERIES_RESULTS
from RegCore.studies.steps import STEPS
from RegCore.training import presence
from Testing.RegCore.registration.blobs import centred, motion, scan
from Testing.RegCore.slicreg import synthetic
from Testing.RegCore.studies.frames import rigid_motion, series_of
from Testing.RegCore.studies.patients import make_patients
from Testing.RegCore.training.runs import configuration, write_pairs

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PATIENCE = 600.0  # seconds after which a process counts as hanging
RESULTS = tuple(name for name in FILES if "seg" not in name)


class Finding(Exception):
    """Something that must not be."""


def forked(work, *, stdin: int | None = None, stdout: int | None = None) -> int:
    """Run a function in a process of its own, which says nothing; its id."""
    number = os.fork()
    if number:
        return number
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
        nowhere = os.open(os.devnull, os.O_RDWR)
        for place, given in ((0, stdin), (1, stdout), (2, None)):
            os.dup2(nowhere if given is None else given, place)
        code = work()
    except KeyboardInterrupt:  # before the command was there to take it
        code = 130
    except BaseException:
        code = 99
    os._exit(code)


def ended(number: int, patience: float = PATIENCE) -> int | None:
    """The exit code of a process, minus the number of the signal that ended it; None if it goes on."""
    until = time.monotonic() + patience
    while True:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.002)


def run(argv: list, sign: int | None = None, moment: float = 0.0) -> int:
    """A command to its end, or to a signal; its exit code."""
    number = forked(lambda: main([str(part) for part in argv]))
    code = ended(number, PATIENCE if sign is None else moment)
    if code is None and sign is not None:
        os.kill(number, sign)
        code = ended(number)
    if code is None:
        os.kill(number, signal.SIGKILL)
        raise Finding(f"{argv[0]} hangs")
    return code


class Kills:
    """The commands, their files, and what was seen."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.random = folder, random.Random(seed)
        self.counts: Counter = Counter()
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        (folder / "tmp").mkdir()
        slicreg_folder.oversegment = synthetic.octants
        label_propagation.image_propagator = lambda device: synthetic.PROPAGATOR
        torch.set_num_threads(1)

    def disturbed(self, name: str, argv: list, count: int, check, seconds: float) -> None:
        """A command that is killed again and again; `check` looks at what is there after each time."""
        for _ in range(count):
            sign = self.random.choice(SIGNALS)
            early = self.random.random() < 0.5
            moment = self.random.uniform(0, seconds) if early else self.random.uniform(0.8, 1.05) * seconds
            code = run(argv, sign, moment)
            if code not in (0, -signal.SIGKILL, 130, 143, -signal.SIGTERM, -signal.SIGINT):
                raise Finding(f"{name}: {signal.Signals(sign).name} after {moment:.2f} s: exit code {code}")
            self.counts[f"{name} {'ended before' if code == 0 else signal.Signals(sign).name}"] += 1
            check(sign if code else None)

    def timed(self, argv: list) -> float:
        """Seconds that a command takes; it must go well."""
        began = time.monotonic()
        if code := run(argv):
            raise Finding(f"{argv[0]} ends with {code} though nobody stopped it")
        return time.monotonic() - began

    # ---- the commands --------------------------------------------------------------------------------------

    def register(self, count: int) -> None:
        """`register`: six files of one run, or none; the earlier ones stay until then."""
        grid, out = centred((14, 13, 12), (0.1, 0, 0.2), (9.0, 9.5, 10.0)), self.folder / "registered"
        volumes = {"a": scan(grid, motion(True).map), "b": scan(grid), "c": scan(grid, seed=4)}
        for name, volume in volumes.items():
            save(volume, self.folder / f"{name}.nii.gz")
        seconds, known = 0.0, {}
        argv = {}
        for moving in "bc":
            files = ["--fixed", self.folder / "a.nii.gz", "--moving", self.folder / f"{moving}.nii.gz"]
            argv[moving] = ["register", *files, "--quiet", "--out", out]
            argv[moving] += ["--method", "classical-affine", "--settings", "max_iter=4", "working_size=12"]
            seconds = max(seconds, self.timed(argv[moving]))
            known[moving] = load(out / "warped.nii.gz").array

        def check(sign) -> None:
            if sign == signal.SIGKILL:  # perhaps between two moves, which the next run ends
                sweep(out)
            left = sorted(path.name for path in out.iterdir())
            if sorted(RESULTS) != [name for name in left if not name.startswith(".")]:
                raise Finding(f"register: {left} is there")
            moving = Path(json.loads((out / "metrics.json").read_text())["moving"]).name[0]
            if not np.array_equal(load(out / "warped.nii.gz").array, known[moving]):
                raise Finding("register: files of two runs are mixed")

        for n in range(count):
            self.disturbed("register", argv["bc"[n % 2]], 1, check, seconds)
        self.timed(argv["b"])
        if sorted(path.name for path in out.iterdir()) != sorted(RESULTS):
            raise Finding(f"register leaves {sorted(path.name for path in out.iterdir())}")

    def train(self, count: int) -> None:
        """`train`: resumed again and again, it ends with the weights of a run that nobody stopped."""
        command, seconds = self._trained()
        whole, other = self.folder / "whole", self.folder / "stopped"

        def check(sign) -> None:
            for path in (other / "save").glob("*.pt"):
                read_content(path)

        left = count
        while left > 0:
            for _ in range(5):
                if left > 0:
                    last = (other / "save" / "last.pt").is_file()
                    argv = ["train", "--resume", other, "--quiet"] if last else [*command, other]
                    self.disturbed("train", argv, 1, check, seconds / 2)
                    left -= 1
            if (other / "save" / "last.pt").is_file():
                self.timed(["train", "--resume", other, "--quiet"])
                self._same_weights(whole, other)
                os.rename(other, self.folder / f"stopped-{left}-done")

    def _trained(self) -> tuple[list, float]:
        """Train in the folder "whole"; the command but for its folder, and the seconds it takes."""
        write_pairs(self.folder / "pairs", count=6)
        configuration(self.folder / "pairs", epochs=8, save_period=1).dump(self.folder / "config.yaml")
        command = ["train", self.folder / "config.yaml", "--quiet", "--device", "cpu", "--out"]
        return command, self.timed([*command, self.folder / "whole"])

    def _same_weights(self, whole: Path, other: Path) -> None:
        a, b = (read_model(path / "save" / "last.pt").network.state_dict() for path in (whole, other))
        if not all(torch.equal(value, b[key]) for key, value in a.items()):
            raise Finding("train: a resumed training ends with other weights")
        left, usual = ([path.name for path in run.rglob(".*")] for run in (other, whole))
        if left != usual or presence.ended(other) != presence.ended(whole):
            raise Finding(f"train leaves {left}, and a run that nobody stopped {usual}")
        self.counts["trainings resumed to the same bits"] += 1

    def predict(self, count: int) -> None:
        """`predict`: each folder of results is whole."""
        if not (self.folder / "whole").is_dir():
            self._trained()
        out, model = self.folder / "predicted", self.folder / "whole" / "save" / "last.pt"
        argv = ["predict", model, "--split", "valid", "--quiet", "--device", "cpu", "--out", out]
        seconds = self.timed(argv)
        files = sorted(str(path.relative_to(out / "test")) for path in (out / "test").rglob("*"))

        def check(sign) -> None:
            for path in out.iterdir():
                if path.name.startswith(".unfinished-") and sign in (None, signal.SIGKILL):
                    continue
                if sorted(str(inner.relative_to(path)) for inner in path.rglob("*")) != files:
                    if path.name.startswith(".unfinished-") and sweepable(path):
                        continue  # of an earlier SIGKILL; this run ended before it looked at the folder
                    raise Finding(f"predict: {path.name} is not whole")

        self.disturbed("predict", argv, count, check, seconds)
        self.timed(argv)
        if left := [path.name for path in out.iterdir() if path.name.startswith(".")]:
            raise Finding(f"predict leaves {left}")

    def slicreg(self, count: int) -> None:
        """`slicreg prepare`: called again until it is done, it makes what one call makes."""
        (self.folder / "scans").mkdir()
        first, *others = synthetic.files(self.folder / "scans", save)
        argv = ["slicreg", "prepare", "--template", first, "--scans", *others[:2], "--valid", others[2]]
        argv += ["--layers", "2", "--supervoxels", "8", "--shape", "32", "32", "32", "--spacing", "8"]
        argv += ["--margin", "0", "--quiet", "--out"]
        whole, other = self.folder / "prepared", self.folder / "again"
        seconds = self.timed([*argv, whole])
        left = count
        while left > 0:
            for _ in range(min(4, left)):
                self.disturbed("slicreg", [*argv, other], 1, lambda sign: None, seconds)
                left -= 1
            self.timed([*argv, other])
            found = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in (whole, other)]
            if found[0] != found[1]:
                raise Finding(f"slicreg prepare leaves {found[1]}")
            for name in (path for path in found[0] if path.suffix == ".npz"):
                with np.load(whole / name) as a, np.load(other / name) as b:
                    if not all(np.array_equal(a[key], b[key]) for key in a.files):
                        raise Finding(f"slicreg prepare: {name} differs")
            os.rename(other, self.folder / f"again-{left}-done")

    def groups(self, count: int) -> None:
        """Series, templates, propagated labels: one that goes on makes what an undisturbed one does."""
        grid = centred((14, 13, 12), (0.1, 0, 0.2), (9.0, 9.5, 10.0))
        save_series(series_of(grid, [rigid_motion(2.0 * t) for t in range(4)]), self.folder / "s.nii.gz")
        patients = make_patients(3, (14, 13, 12))
        for number, (image, labels) in enumerate(zip(patients.scans, patients.labels, strict=True)):
            save(image, self.folder / f"p{number}.nii.gz")
            save(labels, self.folder / f"p{number}_seg.nii.gz")
        scans = [self.folder / f"p{number}.nii.gz" for number in range(3)]
        labels = [self.folder / f"p{number}_seg.nii.gz" for number in (1, 2)]
        quick = ["--method", "deformable", "--settings", "levels=1", "iterations=4"]
        commands = {
            "register-series": ["--frames", self.folder / "s.nii.gz", "--to", "mean"],
            "template": ["--scans", *scans[:2], "--rounds", "2", *quick],
            "propagate": ["--scan", scans[0], "--atlases", *scans[1:], "--atlas-segs", *labels, *quick],
        }
        for number, (name, more) in enumerate(commands.items()):
            kills = (count + number) // len(commands)
            if not kills:
                continue
            argv = [name, *more, "--quiet", "--device", "cpu", "--out"]
            whole, other = self.folder / f"{name}-whole", self.folder / f"{name}-stopped"
            seconds = self.timed([*argv, whole])
            for _ in range(kills):
                self.disturbed(
                    name, [*argv, other], 1, lambda sign, w=whole, o=other: sign or same(w, o), seconds
                )
            self.timed([*argv, other])
            same(whole, other)

    def worker(self, count: int) -> None:
        """The worker: its result is whole or absent, and it and its private folder end with whoever asked."""
        grid = centred((14, 13, 12), (0.1, 0, 0.2), (9.0, 9.5, 10.0))
        request = {"fixed": scan(grid), "moving": scan(grid, seed=4), "method": "classical-affine"}
        request |= {"settings": {"max_iter": 4, "working_size": 12}, "device": "cpu"}
        seconds = None
        for _ in range(count + 1):
            job = Scratch(self.folder / "tmp", "deepregslicer-")
            messages.write(job.path / "request.npz", request)
            inner, outer = os.pipe()
            events, told = os.pipe()
            os.set_inheritable(outer, False)
            number = forked(lambda: (os.close(outer), worker.main())[1], stdin=inner, stdout=told)  # noqa: B023
            os.close(inner)
            os.close(told)
            line = {"id": 1, "command": "register", "folder": str(job.path)}
            began = time.monotonic()
            os.write(outer, (json.dumps(line) + "\n").encode())
            if seconds is None:
                with open(events) as lines:
                    last = next(line for line in lines if self._ends(line))
                    seconds = time.monotonic() - began
                if json.loads(last)["event"] != "result":
                    raise Finding(f"worker: {last} in place of a result")
                os.close(outer)
                ended(number)
            else:
                time.sleep(self.random.uniform(0, seconds * 1.05))
                self._gone(number, outer, job)
                os.close(events)
            job.remove()
        if left := list((self.folder / "tmp").glob("deepregslicer-*")):
            raise Finding(f"worker leaves {left}")

    @staticmethod
    def _ends(line: str) -> bool:
        """Whether a line tells of the end of a job; then nothing more will be read."""
        return json.loads(line)["event"] in ("result", "error", "cancelled")

    def _gone(self, number: int, outer: int, job: Scratch) -> None:
        """The worker is killed; or who asked it is gone, of which it knows by the end of its input."""
        if self.random.random() < 0.5:
            os.kill(number, signal.SIGKILL)
            if ended(number) is None:
                raise Finding("worker: it survives SIGKILL")
            os.close(outer)
            if (job.path / "result.npz").exists():
                messages.read(job.path / "result.npz")
            self.counts["worker SIGKILL"] += 1
            return
        os.close(outer)
        if ended(number) is None:
            os.kill(number, signal.SIGKILL)
            raise Finding("worker: it goes on without whoever asked")
        self.counts["worker alone"] += 1


def same(whole: Path, other: Path) -> None:
    """Results of a command that was stopped must be those of one that was not; then they go."""
    if not set(PROPAGATION_RESULTS + TEMPLATE_RESULTS + SERIES_RESULTS) & set(os.listdir(other)):
        raise Finding(f"{other.name}: the command ended well, but left no results")
    found = [known_files(folder) for folder in (whole, other)]
    if odd := sorted(n for n in {*found[0], *found[1]} if found[0].get(n) != found[1].get(n)):
        raise Finding(f"{other.name}: the files are others than of a run that nobody stopped: {odd}")
    shutil.rmtree(other)


def known_files(folder: Path) -> dict[str, bytes]:
    """The results in a folder by name; of those that tell of the time it took, all else."""
    found = {}
    for path in (path for path in folder.rglob("*") if path.is_file() and STEPS not in path.parts):
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps({**json.loads(content), "seconds": 0}).encode()
        found[str(path.relative_to(folder))] = content
    return found


def sweepable(path: Path) -> bool:
    """Whether the next run would remove a private folder; it is removed."""
    return path in sweep(path.parent)


SHARES = {"register": 0.2, "train": 0.2, "predict": 0.15, "slicreg": 0.1, "groups": 0.2, "worker": 0.15}
"""Of the kills, for each part."""


def kill(count: int, seed: int, parts: Iterable[str] = SHARES) -> Counter:
    """About `count` kills, shared among the commands; how many there were of each kind.

    Args:
        count: of all parts.
        seed: of the moments.
        parts: those that are done.

    Raises:
        Finding: something is lost, left or mixed.
    """
    with tempfile.TemporaryDirectory() as name:
        kills = Kills(Path(name), seed)
        for part in parts:
            began = time.monotonic()
            getattr(kills, part)(max(1, round(SHARES[part] * count)))
            print(f"{part}: {time.monotonic() - began:.0f} s; {dict(kills.counts)}", flush=True)
        left = [path.name for path in (Path(name) / "tmp").iterdir() if "inductor" not in path.name]
        if left:
            raise Finding(f"the folder of temporary files keeps {left}")
        return kills.counts


if __name__ == "__main__":
    wanted, chosen = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    print(f"seed {chosen}", flush=True)
    try:
        seen = kill(wanted, chosen, sys.argv[3:] or SHARES)
    except Finding as finding:
        raise SystemExit(f"finding: {finding}") from None
    print(dict(sorted(seen.items())))
