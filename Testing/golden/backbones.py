"""DeepReg's networks: answers, gradients, moving averages, numbers of weights and where they begin."""

import inspect

import numpy as np
import torch

from RegCore import networks
from RegCore.deepreg.keras_weights import from_state, to_state
from Testing.golden.layout import channels_first, channels_last


def build(name: str, options: dict, in_channels: int = 2):
    """A network by DeepReg's class name and options, its levels in DeepReg's order."""
    options = dict(options)
    kind, size = getattr(networks, name), options.pop("image_size")
    if "deepreg" in inspect.signature(kind).parameters:
        options["deepreg"] = True
    return kind(size, in_channels=in_channels, **options)


def answers(network, x, arrays, layout=channels_last) -> dict:
    """Outputs and the gradient of sum(out^2) at inference, outputs and weights after one call in training.

    network: with the weights ``w:<path>`` of the arrays; layout: of the outputs, by DeepReg.
    """
    weights = {name[2:]: array for name, array in arrays.items() if name.startswith("w:")}
    network.load_state_dict(to_state(weights, network))
    made = {}
    for mode in ("infer", "train"):
        network.train(mode == "train")
        x = x.detach().requires_grad_(True)
        out = network(x)
        several = isinstance(out, tuple)
        for i, part in enumerate(out if several else (out,)):
            plain = part.detach().numpy() if part.ndim != 5 else layout(part)
            made[f"out_{mode}_{i}" if several else f"out_{mode}"] = plain
        if mode == "infer":
            sum((part**2).sum() for part in (out if several else (out,))).backward()
            made["grad_x_infer"] = channels_last(x.grad)
    return made | {f"w_after_train:{path}": array for path, array in from_state(network).items()}


def _network(name: str):
    def run(case, arrays):
        x = channels_first(arrays["x"])
        return answers(build(name, case["kwargs"], x.shape[1]), x, arrays)

    return run


def _counts(case, arrays) -> dict:
    made = []
    for entry in case["counts"]:
        options = {
            **entry["kwargs"],
            "image_size": entry["image_size"],
            "out_channels": entry["out_channels"],
        }
        network = build(entry["backbone"], options, entry["in_channels"])
        moving = [b for name, b in network.named_buffers() if "running" in name]
        trainable = sum(p.numel() for p in network.parameters())
        made.append({**entry, "trainable": trainable, "total": trainable + sum(b.numel() for b in moving)})
    return {"counts": made}


def _first_weights(case, arrays) -> dict:
    """Statistics of a new LocalNet's weights by path; its shape is read off the recorded ones."""
    shapes = {entry["path"]: entry["shape"] for entry in case["stats"]}
    levels = [path for path in shapes if path.startswith("output_block") and path.endswith("kernel")]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.LocalNet(
            num_channel_initial=shapes["encode_convs.0.0.layer.kernel"][-1],
            extract_levels=list(range(len(levels))),
            deepreg=True,
            **case["kwargs"],
        )
    return {
        "stats": [
            {
                "path": path,
                "shape": list(w.shape),
                **{f: getattr(w, f)() for f in ("min", "max", "mean", "std")},
            }
            for path, w in from_state(network).items()
        ]
    }


def _same_statistics(case: dict, found: dict) -> None:
    """Shapes agree; so do range and spread, as far as samples of this size can."""
    ours = {entry["path"]: entry for entry in found["stats"]}
    assert set(ours) == {entry["path"] for entry in case["stats"]}
    for theirs in case["stats"]:
        mine, count = ours[theirs["path"]], np.prod(theirs["shape"])
        assert mine["shape"] == theirs["shape"]
        limit = max(abs(theirs["min"]), abs(theirs["max"]))
        rtol = 0.5 / count**0.5 if theirs["std"] > 0 else 0
        np.testing.assert_allclose(mine["std"], theirs["std"], rtol=10 * rtol, err_msg=theirs["path"])
        np.testing.assert_allclose(mine["mean"], theirs["mean"], atol=8 * limit / count**0.5 * (rtol > 0))
        np.testing.assert_allclose(mine["max"], theirs["max"], rtol=20 / count if rtol else 0)


FUNCTIONS = {
    **{f"backbone:{name}": _network(name) for name in ("UNet", "LocalNet", "GlobalNet")},
    "count_params": _counts,
    "initialisers": _first_weights,
}
CHECKS = {"initialisers": _same_statistics}
