"""Trains every demo on data made here, predicts, draws a picture and writes its figures: `make demos`.

Each demo runs in a process of its own in bench-output/demos, as its page in Docs/demos says: the full
configuration and small.yaml laid over it; two side by side with one thread each, so that the number of cores
changes no figure. It fails if a demo improves neither Dice nor TRE of the pairs that its training was
validated with.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np  # noqa: E402 - the lines above come first
import torch  # noqa: E402
from page import put  # noqa: E402
from PIL import Image  # noqa: E402

from RegCore import load_model  # noqa: E402
from RegCore.evaluation.overview import overview  # noqa: E402
from RegCore.loaders import make_loader  # noqa: E402
from RegCore.networks.models import Prediction  # noqa: E402
from RegCore.registration.register import Registration, register  # noqa: E402
from RegCore.samples.datasets import EXAMPLES  # noqa: E402
from RegCore.samples.demos import PAIRS, make_pair, write_demo  # noqa: E402
from RegCore.space.volume import Volume  # noqa: E402
from RegCore.training import train  # noqa: E402
from RegCore.training.config import Config, load_config  # noqa: E402
from RegCore.training.predict import predict  # noqa: E402

OUTPUT = ROOT / "bench-output" / "demos"
PAGES = ROOT / "Docs" / "demos"
SMALL = "small.yaml"
THREADS, TOGETHER = 1, 2
WIDTH = 1200  # pixels of a picture


def trained_demos() -> dict[str, Path]:
    """The full configuration of each demo by its name."""
    found = sorted(EXAMPLES.glob("demos/*/*.yaml"))
    return {path.stem: path for path in found if path.stem.startswith(path.parent.name)}


def folder_of(name: str) -> str:
    """The name of a demo's folder, data and page."""
    return name if name in PAIRS else trained_demos()[name].parent.name


def folds(config: Path) -> list[Path]:
    """What a cross-validation adds to the configuration, a file for each run."""
    return sorted(config.parent.glob("run*.yaml"))


class Still(torch.nn.Module):
    """A network that leaves all in its place in space, to measure what there was before.

    The grids of both images span the same box, so that voxel i of n of the one is where voxel
    (i + 1/2) m / n - 1/2 of m of the other is: no displacement, where both are of one size.
    """

    def forward(self, fixed_image, moving_image, moving_label=None) -> Prediction:
        sizes = fixed_image.shape[2:], moving_image.shape[2:]
        axes = [(torch.arange(n) + 0.5) * m / n - 0.5 - torch.arange(n) for n, m in zip(*sizes, strict=True)]
        ddf = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        return Prediction(ddf.to(fixed_image).expand(len(fixed_image), *ddf.shape), None, None, None)


def with_labels(files: list[Path]) -> Config:
    """The configuration with labels to measure by, where the training does without."""
    return load_config(files, overrides={"dataset": {part: {"labeled": True} for part in ("valid", "test")}})


def measured(model, config: Config, split: str, folder: Path, *, nifti: bool = False) -> dict[str, float]:
    """Mean Dice, mean distance of centroids in mm and share of folds over the pairs and labels of a split."""
    done = predict(model, config, split=split, log_dir=folder.parent, exp_name=folder.name, save_nifti=nifti)
    with open(done.folder / "metrics_mm.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {"dice": "label_dice", "tre_mm": "label_tre_mm", "folds": "fold_percent"}
    return {
        key: float(np.mean([float(row[name]) for row in rows if row[name]])) for key, name in names.items()
    }


def run_training(files: list[Path], folder: Path) -> dict:
    """Train as the files say, and measure on the pairs for validation and for tests."""
    began = time.process_time()
    done = train(load_config(files), log_dir=folder.parent, exp_name=folder.name)
    seconds = time.process_time() - began
    config, model = with_labels(files), load_model(done.model)
    found = {"seconds": seconds, "model": str(done.model)}
    still = replace(model, network=Still())
    for split in ("valid", "test"):
        found[split] = {
            "before": measured(still, config, split, folder / f"before-{split}"),
            "after": measured(model, config, split, folder / f"after-{split}", nifti=split == "test"),
        }
    return found


def label_map(channels: list[Volume]) -> Volume:
    """One volume of labels 1, 2 … from a volume for each."""
    array = np.max([(n + 1) * (one.array >= 0.5) for n, one in enumerate(channels)], 0)
    return Volume(array.astype(np.uint8), channels[0].geometry, "labels")


def typical_pair(folders: list[Path]) -> tuple[Path, list[int]]:
    """The training, by its folder, and the pair for tests, by its indices, of median gain in Dice."""
    gains = []
    for folder in folders:
        sums = defaultdict(float)
        for when, sign in (("before", -1), ("after", 1)):
            with open(folder / f"{when}-test" / "test" / "metrics_mm.csv", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    sums[row["pair_index"]] += sign * float(row["label_dice"])
        gains += [(gain, str(folder), pair) for pair, gain in sums.items()]
    _, folder, pair = sorted(gains)[len(gains) // 2]
    return Path(folder), json.loads(pair)


def volumes_of(config: Config, indices: list[int]) -> dict[str, Volume]:
    """A pair for tests with all its labels, as its files hold it."""
    loader = make_loader(config.to_dict()["dataset"], "test")
    found = [loader.volumes(sample) for sample in loader.samples() if list(sample.indices) == indices]
    labels = {
        f"{side}_labels": label_map([v[f"{side}_label"] for v in found]) for side in ("fixed", "moving")
    }
    return {"fixed": found[0]["fixed_image"], "moving": found[0]["moving_image"], **labels}


def draw(registration: Registration, pair: dict[str, Volume], name: str) -> None:
    """The picture of a page: before and after, outlines, deformation."""
    picture = overview(registration, *(pair[k] for k in ("fixed", "moving", "fixed_labels", "moving_labels")))
    size = (WIDTH, round(picture.height * WIDTH / picture.width))
    picture = picture.resize(size, Image.Resampling.LANCZOS).quantize(128, dither=Image.Dither.NONE)
    picture.save(PAGES / f"{name}.png", optimize=True)


def draw_typical(folders: list[Path], config: Config, name: str) -> None:
    """The picture of a demo, of a pair that gained neither much nor little."""
    folder, indices = typical_pair(folders)
    pair = volumes_of(config, indices)
    draw(load_model(folder / "save" / "best.pt").register(**pair, device="cpu"), pair, name)


def centroid_distance(one: Volume, other: Volume) -> float:
    """Mean distance of the centroids of the structures in two label maps, mm."""
    places = [
        [
            volume.geometry.to_world(np.argwhere(volume.array == label).mean(0))
            for label in np.unique(one.array)[1:]
        ]
        for volume in (one, other)
    ]
    return float(np.linalg.norm(np.subtract(*places), axis=1).mean())


def run_pair(name: str) -> dict:
    """A demo without training: the figures of `register` with the method in its name."""
    pair = {key.replace("label", "labels").replace("_image", ""): v for key, v in make_pair(name).items()}
    method = "classical-affine" if name.endswith("affine") else "classical-nonrigid"
    images = {side: pair[side] for side in ("fixed", "moving")}
    labels = {key: volume for key, volume in pair.items() if key not in images}
    began = time.process_time()
    done = register(method=method, device="cpu", **images, **labels)
    seconds = time.process_time() - began
    draw(done, pair, name)
    found = {
        when: {
            "dice": done.metrics["dice_mean"][when],
            "tre_mm": centroid_distance(pair["fixed_labels"], there),
        }
        for when, there in (("before", pair["moving_labels"]), ("after", done.warped_labels))
    }
    found["after"]["folds"] = done.metrics["fold_percent"]
    return {"seconds": seconds, "valid": found}


def run_demo(name: str) -> dict:
    """Everything for one demo in this process, in bench-output/demos; its figures."""
    torch.set_num_threads(THREADS)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    os.chdir(OUTPUT)
    began = time.perf_counter()
    if name in PAIRS:
        return {**run_pair(name), "total": time.perf_counter() - began}
    config = trained_demos()[name]
    write_demo(config.parent.name)
    files = [config, config.with_name(SMALL)]
    runs = {Path("logs") / f"{name}-{run.stem}": [*files, run] for run in folds(config)}
    runs = runs or {Path("logs") / name: files}
    found = [run_training(described, folder) for folder, described in runs.items()]
    draw_typical(list(runs), with_labels(files), name)
    return {**mean_of(found), "runs": len(found), "total": time.perf_counter() - began}


def mean_of(runs: list[dict]) -> dict:
    """The mean figures of several trainings; seconds of all."""
    figures = {
        split: {
            when: {
                key: float(np.mean([run[split][when][key] for run in runs])) for key in runs[0][split][when]
            }
            for when in ("before", "after")
        }
        for split in ("valid", "test")
    }
    return {"seconds": sum(run["seconds"] for run in runs), **figures}


# ---- tables ------------------------------------------------------------------------------------------------

HEAD = ["| demo | processor s | Dice | TRE mm | Dice, test | TRE mm, test | folds % |", "|---" * 7 + "|"]


def change(part: dict | None, key: str, digits: int) -> str:
    """``before → after``, the latter bold."""
    if part is None or key not in part["after"]:
        return ""
    before, after = (f"{part[when][key]:.{digits}f}" for when in ("before", "after"))
    return f"{before} → **{after}**"


def line(name: str, found: dict) -> str:
    """The line of a demo."""
    runs = f" ({found['runs']} runs)" if found.get("runs", 1) > 1 else ""
    test = found.get("test")
    folding = f"{found['valid']['after']['folds']:.2f}" if "folds" in found["valid"]["after"] else ""
    cells = [f"[{name}]({folder_of(name)}.md){runs}", f"{found['seconds']:.0f}"]
    cells += [change(part, *what) for part in (found["valid"], test) for what in (("dice", 3), ("tre_mm", 2))]
    return f"| {' | '.join([*cells, folding])} |"


def better(found: dict) -> bool:
    """Whether Dice or TRE of the validation improved."""
    before, after = found["valid"]["before"], found["valid"]["after"]
    return after["dice"] > before["dice"] or after.get("tre_mm", np.inf) < before.get("tre_mm", 0.0)


def write_pages(known: dict[str, dict]) -> None:
    """The table of Docs/demos/README.md, and on each page its own lines."""
    put(
        "demos",
        "\n".join([*HEAD, *(line(name, found) for name, found in known.items())]),
        PAGES / "README.md",
    )
    folders = {name: folder_of(name) for name in known}
    for folder in dict.fromkeys(folders.values()):
        lines = [line(name, known[name]) for name in known if folders[name] == folder]
        put("figures", "\n".join([*HEAD, *lines]), PAGES / f"{folder}.md")


def run_apart(demos: list[str]) -> None:
    """Some demos one after the other, each in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": str(ROOT)}
    for name in demos:
        subprocess.run([sys.executable, __file__, "--one", name], env=environment, check=True)
        print(line(name, json.loads((OUTPUT / f"{name}.json").read_text(encoding="utf-8"))), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", metavar="DEMO", help="run this demo here")
    what = f"demos that run side by side ({TOGETHER} by default)"
    parser.add_argument("--together", type=int, default=TOGETHER, metavar="N", help=what)
    parser.add_argument("demos", nargs="*", help="the demos to run, all by default")
    arguments = parser.parse_args()
    names = [*trained_demos(), *PAIRS]
    unknown = [name for name in arguments.demos if name not in names]
    if unknown:
        parser.error(f"there is no demo {unknown[0]!r}; there are {', '.join(names)}")
    if arguments.one:
        found = run_demo(arguments.one)
        (OUTPUT / f"{arguments.one}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        return 0
    lanes = {}  # demos that share their data come one after the other
    for name in arguments.demos or names:
        lanes.setdefault(folder_of(name), []).append(name)
    longest_first = sorted(lanes.values(), key=lambda lane: not lane[0].endswith("cv"))
    with ThreadPoolExecutor(arguments.together) as pool:
        list(pool.map(run_apart, longest_first))
    paths = {name: OUTPUT / f"{name}.json" for name in names}
    known = {
        name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()
    }
    if len(known) == len(names):
        write_pages(known)
    worse = [name for name in arguments.demos or names if not better(known[name])]
    if worse:
        print(f"neither Dice nor TRE improved: {', '.join(worse)}", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
