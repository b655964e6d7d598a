"""Measures one step of training beside DeepReg, MONAI and voxelmorph, in one run.

Each measure is a process of its own with two threads: lncc (9 voxels) and bending energy, each program's own
Adam, batch of 1, random images; the least processor seconds of several steps, and the greatest memory of the
process. MONAI and voxelmorph are measured where --peers names a Python that has them, DeepReg where --deepreg
names one; DeepReg's recorded figures come from another machine and stand beside for comparison only.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from Testing.benchmarks.page import put  # noqa: E402 - the path comes first

THREADS = 2
RECORDED = {  # DeepReg on its own machine: processor seconds, MiB
    ("unet", 64): (1.19, 1227),
    ("local", 64): (2.53, 1272),
    ("unet", 128): (9.5, 4830),
    ("local", 128): (20.2, 5496),
}
CHANNELS = 16
WAYS = ("float32", "bfloat16", "float32, checkpointed", "bfloat16, checkpointed")


def ours(kind: str, way: str):
    """Network, loss of images and field, and optimiser, as `regcore train` has them."""
    from RegCore.losses import bending, lncc
    from RegCore.networks.architectures import NETWORKS
    from RegCore.registration.optimisers import make_optimiser
    from RegCore.resampler import warp_image_ddf

    options = {"extract_levels": [0, 1, 2, 3]} if kind == "local" else {"depth": 3}
    net = NETWORKS[kind](
        num_channel_initial=CHANNELS, activation_checkpointing="checkpointed" in way, **options
    )

    def loss(x, ddf):
        fixed, moving = x[:, 1:].contiguous(), x[:, :1].contiguous()
        return (lncc(fixed, warp_image_ddf(moving, ddf)) + bending(ddf)).sum()

    return net, loss, make_optimiser({"name": "Adam", "learning_rate": 1e-4}, net.parameters())


def monai(kind: str, way: str):
    """The same of MONAI."""
    from monai.losses import BendingEnergyLoss, LocalNormalizedCrossCorrelationLoss
    from monai.networks.blocks import Warp
    from monai.networks.nets import LocalNet, RegUNet
    from torch.optim import Adam

    options = {"spatial_dims": 3, "in_channels": 2, "num_channel_initial": CHANNELS, "out_channels": 3}
    net = LocalNet(extract_levels=(0, 1, 2, 3), **options) if kind == "local" else RegUNet(depth=3, **options)
    warp, similarity, bending = (
        Warp(),
        LocalNormalizedCrossCorrelationLoss(kernel_size=9),
        BendingEnergyLoss(),
    )

    def loss(x, ddf):
        return similarity(warp(x[:, :1], ddf), x[:, 1:]) + bending(ddf)

    return net, loss, Adam(net.parameters(), 1e-4)


def voxelmorph(kind: str, way: str):
    """Voxelmorph's own U-Net, as wide on each level, with its own losses: it has no bending energy."""
    from neurite.nn.modules import NCC, SpatialGradient
    from torch.optim import Adam
    from voxelmorph.nn.models import VxmPairwise

    features = [CHANNELS * 2**level for level in range(4)]
    pairwise = VxmPairwise(3, 1, 1, nb_features=features, integration_steps=0)
    similarity, smoothness = NCC(9), SpatialGradient()

    def loss(x, ddf):
        warped = pairwise.spatial_transformer(x[:, :1], ddf)
        return smoothness(ddf) - similarity(warped, x[:, 1:]).mean()

    return lambda x: pairwise(x[:, :1], x[:, 1:]), loss, Adam(pairwise.parameters(), 1e-4)


def steps_of(size: int) -> int:
    """How many steps are made, of which the fastest counts."""
    return 4 if size < 128 else 2


PROGRAMS = {"DeepRegSlicer": ours, "MONAI": monai, "voxelmorph": voxelmorph}


def measure(program: str, kind: str, size: int, way: str) -> dict:
    """Processor seconds of a step and memory, in this process."""
    import torch

    if program == "DeepRegSlicer":
        from RegCore.evaluation.memory import keep_freed_memory

        keep_freed_memory()  # as `regcore train` does
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    net, loss, optimiser = PROGRAMS[program](kind, way)
    x = torch.rand(1, 2, size, size, size)
    best = float("inf")
    for _ in range(steps_of(size)):
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=way.startswith("bfloat16")):
            ddf = net(x)
        optimiser.zero_grad()
        loss(x, ddf.float().contiguous()).backward()
        optimiser.step()
        best = min(best, time.process_time() - began)
    return {"seconds": best, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


DEEPREG = """
import os, sys, time, resource, json
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads({threads})
tf.config.threading.set_inter_op_parallelism_threads(1)
from deepreg.loss.deform import BendingEnergy
from deepreg.loss.image import LocalNormalizedCrossCorrelationLoss
from deepreg.model import layer
from deepreg.model.backbone import LocalNet, UNet
n = {size}
options = dict(image_size=(n, n, n), num_channel_initial={channels}, out_kernel_initializer="zeros")
options.update(out_activation=None, out_channels=3)
net = LocalNet(extract_levels=[0, 1, 2, 3], **options) if "{kind}" == "local" else UNet(depth=3, **options)
warp, image, field = layer.Warping((n, n, n)), LocalNormalizedCrossCorrelationLoss(), BendingEnergy()
optimiser, x = tf.keras.optimizers.Adam(1e-4), tf.random.uniform((1, n, n, n, 2))

@tf.function
def step(x):
    with tf.GradientTape() as tape:
        ddf = net(x, training=True)
        loss = tf.reduce_sum(image(x[..., 1], warp([ddf, x[..., 0]])) + field(ddf))
    grads = tape.gradient(loss, net.trainable_variables)
    optimiser.apply_gradients(zip(grads, net.trainable_variables))
    return loss

best = 1e9
for _ in range({steps}):
    began = time.process_time()
    step(x).numpy()
    best = min(best, time.process_time() - began)
print(json.dumps(dict(seconds=best, mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)))
"""


def in_process(command: list[str]) -> dict | None:
    """The figures that a process prints last; None where it lacks a package."""
    threads = {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "passive"}  # one that spins counts as work
    environment = {**os.environ, **threads}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "ModuleNotFoundError" in done.stderr or "ImportError" in done.stderr:
        return None
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def all_measures(sizes: list[int], deepreg: str | None, peers: str) -> list[tuple]:
    """(program, way, kind, size, figures) for everything that can be measured here."""
    found = []
    for size in sizes:
        for kind in ("unet", "local"):
            asked = [("DeepRegSlicer", way) for way in WAYS] + [("MONAI", "float32")]
            asked += [("voxelmorph", "float32")] if kind == "unet" else []
            for program, way in asked:
                print(f"{program} {kind} {size} {way} ...", file=sys.stderr, flush=True)
                python = sys.executable if program == "DeepRegSlicer" else peers
                command = [python, __file__, "--one", program, kind, str(size), way]
                found.append((program, way, kind, size, in_process(command)))
            if deepreg:
                facts = {
                    "threads": THREADS,
                    "size": size,
                    "channels": CHANNELS,
                    "kind": kind,
                    "steps": steps_of(size) + 1,
                }
                text = DEEPREG
                for key, value in facts.items():
                    text = text.replace("{" + key + "}", str(value))
                found.append(("DeepReg", "float32", kind, size, in_process([deepreg, "-c", text])))
    return [entry for entry in found if entry[-1] is not None]


def table(found: list[tuple]) -> str:
    """A line for each measure; ratios to DeepReg in the same run where it was there."""
    lines = [
        "| network | program | processor s | of DeepReg's | MiB | of DeepReg's |",
        "|---|---|---|---|---|---|",
    ]
    theirs = {(kind, size): f for program, _, kind, size, f in found if program == "DeepReg"}
    for program, way, kind, size, figures in found:
        base = theirs.get((kind, size))
        ratios = [f"{figures[k] / base[k]:.2f}" if base else "" for k in ("seconds", "mib")]
        name = f"{program}, {way}" if program == "DeepRegSlicer" else program
        cells = f"{figures['seconds']:.2f} | {ratios[0]} | {figures['mib']} | {ratios[1]}"
        lines.append(f"| {kind} {size}³ | {name} | {cells} |")
    for (kind, size), (seconds, mib) in RECORDED.items():
        if any((kind, size) == entry[2:4] for entry in found):
            lines.append(f"| {kind} {size}³ | DeepReg on the machine of its record | {seconds} | | {mib} | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--one", nargs=4, metavar=("PROGRAM", "KIND", "SIZE", "WAY"), help="measure this here"
    )
    parser.add_argument("--deepreg", metavar="PYTHON", help="Python with tensorflow and deepreg")
    parser.add_argument(
        "--peers", default=sys.executable, metavar="PYTHON", help="Python with monai, voxelmorph"
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[64], help="voxels along each axis")
    parser.add_argument("--write", action="store_true", help="put the table into Docs/benchmarks.md")
    arguments = parser.parse_args()
    if arguments.one:
        program, kind, size, way = arguments.one
        print(json.dumps(measure(program, kind, int(size), way)))
        return
    text = table(all_measures(arguments.sizes, arguments.deepreg, arguments.peers))
    print(text)
    if arguments.write:
        put("training step", text)


if __name__ == "__main__":
    main()
