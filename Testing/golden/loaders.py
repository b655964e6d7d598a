"""Loaders: the orders of samples that DeepReg's loaders gave, on its own test data and on groups made up.

The entries have no arrays.
"""

from functools import partial
from pathlib import Path
from random import Random

import numpy as np

from RegCore.loaders import FILE_LOADERS, LOADERS, Loader, images_from_volumes
from RegCore.loaders.images import RoleImages
from RegCore.loaders.intensity import MinMax
from RegCore.loaders.samplers import all_pairs, label_indices
from RegCore.space.geometry import InputError
from Testing.paths import DEEPREG


def _loader(kind: str, kwargs: dict) -> Loader:
    options = dict(kwargs)
    folders = options.pop("data_dir_paths")
    labeled, label_sampling = options.pop("labeled"), options.pop("sample_label") or "sample"
    if "num_images_per_group" in options:
        sizes = options.pop("num_images_per_group")
        groups = [group for group, size in enumerate(sizes) for _ in range(size)]
        images = [np.zeros((2, 2, 2), np.uint8)] * len(groups)
        return images_from_volumes(images, groups=groups, sample_label=label_sampling, **options)
    files = partial(FILE_LOADERS[options.pop("format")], [str(DEEPREG / folder) for folder in folders])
    options |= {"labeled": labeled, "sample_label": label_sampling, "skip_bad_files": False}
    return LOADERS[kind](files, **options)


def _facts(kind: str):
    def run(case: dict, arrays: dict) -> dict:
        try:
            loader = _loader(kind, case["kwargs"])
        except InputError as error:
            return {"exception": "ValueError", "message": str(error)}
        found = {
            "num_samples": len(loader),
            "num_indices": loader.num_indices,
            "epochs": [_plain(loader.sample_indices(e)) for e in range(len(case["epochs"]))],
            "moving_image_shape": list(loader.moving_image_shape),
            "fixed_image_shape": list(loader.fixed_image_shape),
        }
        if kind == "grouped":
            found |= {"num_groups": len(loader.groups), "num_images_per_group": loader.sizes}
            found["group_struct"] = loader.groups
            probability, option, sampled = loader.options
            pairs = None if sampled else _plain(all_pairs(loader.sizes, probability == 1, option))
            found["sample_indices"] = pairs
        if "moving_ids" in case:
            found["moving_ids"] = [_recorded_name(name) for name in loader.moving.images.names]
        if "samples_head" in case:
            found["samples_head"] = _head(loader, len(case["samples_head"]))
        return {name: value for name, value in found.items() if name in case}

    return run


def _plain(value):
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _recorded_name(name: tuple[str, ...]) -> list[str]:
    return [Path(name[0]).relative_to(DEEPREG).as_posix(), *name[1:]]


def _head(loader: Loader, count: int) -> list[dict]:
    """The first samples before anything is resized, as they were recorded."""
    head = []
    for sample in loader.samples()[:count]:
        moving, fixed = (
            _original(side, index, sample.label)
            for side, index in ((loader.moving, sample.moving), (loader.fixed, sample.fixed))
        )
        found = {"indices": [float(i) for i in (*sample.indices, sample.label)]}
        found |= {"moving_shape": moving[0].shape, "fixed_shape": fixed[0].shape}
        found |= {"moving_mean": moving[0].mean(), "fixed_mean": fixed[0].mean()}
        if loader.labeled:
            found["moving_label_shape"] = moving[1].shape
            found |= {"moving_label_mean": moving[1].mean(), "fixed_label_mean": fixed[1].mean()}
        head.append(found)
    return head


def _original(side: RoleImages, index: int, label: int) -> tuple[np.ndarray, np.ndarray | None]:
    image = MinMax()(side.images.read(index)[0], "image")
    if side.labels is None:
        return image, None
    labels, _ = side.labels.read(index)
    return image, labels if labels.ndim == 3 else labels[..., label]


def _check(case: dict, found: dict) -> None:
    """Refused where DeepReg refuses, in one sentence; else equal, the means of the first samples closely."""
    assert ("exception" in found) == ("exception" in case), found.get("message")
    if "exception" in case:
        assert found["exception"] == case["exception"] and found["message"].count("\n") == 0
        return
    for mine, theirs in zip(found.pop("samples_head", []), case.get("samples_head", []), strict=True):
        for name, value in theirs.items():
            np.testing.assert_allclose(mine[name], value, case["rtol"], case["atol"], err_msg=name)
    for name, value in found.items():
        assert value == case[name], f"{name}: found {value}, DeepReg has {case[name]}"


def _label_indices(case: dict, arrays: dict) -> dict:
    """DeepReg draws from Python's global numbers; ours from numbers given to it."""
    count, rng = case["kwargs"]["num_labels"], Random(0)
    drawn = [label_indices(count, "sample", rng)[0] for _ in case["sample_after_random_seed_0"]]
    return {"all": label_indices(count, "all", rng), "sample_after_random_seed_0": drawn}


FUNCTIONS = {
    **{f"{kind.capitalize()}DataLoader": _facts(kind) for kind in ("paired", "unpaired", "grouped")},
    "deepreg.dataset.util.get_label_indices": _label_indices,
}
CHECKS = dict.fromkeys(FUNCTIONS, _check)
