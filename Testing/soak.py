"""Kills a training ten times at random moments and compares its end with one that ran through: `make soak`.

The moments are drawn anew in each run and printed with their seed. Ends with exit code 1 if a weight differs.
"""

import argparse
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402 - the path comes first

from RegCore.networks.model_file import read_content, read_model  # noqa: E402
from RegCore.training import train  # noqa: E402
from Testing.RegCore.training.runs import configuration, write_pairs  # noqa: E402

KILLS, EPOCHS = 10, 150


def killed(folder: Path, config: Path, moments: random.Random) -> None:
    """A run that is started again after each kill until it ends by itself."""
    out = folder / "killed"
    for number in range(1000):
        if (out / "save" / "last.pt").is_file():
            command = ["--resume", str(out)]
        else:
            command = [str(config), "--out", str(out)]
        process = subprocess.Popen([sys.executable, "-m", "RegCore", "train", *command, "--quiet"])
        if number < KILLS:
            wait = moments.uniform(3.0, 8.0)
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                print(f"kill {number + 1} after {wait:.1f} s: {place(out / 'save' / 'last.pt')}", flush=True)
                continue
        if process.wait() == 0:
            return
        raise SystemExit(f"the training ended with {process.returncode}")


def place(last: Path) -> str:
    """Where the newest checkpoint stands, in words."""
    if not last.is_file():
        return "before the first checkpoint"
    return f"epochs done {read_content(last)['training']['state']['place']['epoch']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=secrets.randbits(16), help="of the moments")
    seed = parser.parse_args().seed
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pairs(folder / "pairs", count=8)
        config = configuration(folder / "pairs", epochs=EPOCHS, save_period=1)
        config.dump(folder / "config.yaml")
        began = time.monotonic()
        whole = train(config, log_dir=folder, exp_name="whole")
        print(f"a run that nobody stops takes {time.monotonic() - began:.0f} s")
        killed(folder, folder / "config.yaml", random.Random(seed))
        ends = [
            read_model(run / "save" / "last.pt").network.state_dict()
            for run in (whole.folder, folder / "killed")
        ]
        differing = [key for key, value in ends[0].items() if not torch.equal(value, ends[1][key])]
        if differing:
            raise SystemExit(f"{len(differing)} weights differ, {differing[0]} first")
        print("all weights are the same to the bit")


if __name__ == "__main__":
    main()
