"""`predict`: a trained network on all pairs of a data set, what it predicts and how good that is as files."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from RegCore.evaluation.figures import IN_SPACE
from RegCore.evaluation.results import prepared_folder
from RegCore.io import save
from RegCore.io.files import timed_folder
from RegCore.io.scratch import in_turn, scratch
from RegCore.io.yaml import merge, read_files
from RegCore.loaders import Batches, Loader, Sample, make_loader
from RegCore.networks.device import choose_device
from RegCore.networks.model_file import Model
from RegCore.networks.models import ConditionalModel, Prediction, warped
from RegCore.progress import Progress, silent
from RegCore.registration.learned import load_model, pair_of, predict_batch, transform_of, warn_if_unlike
from RegCore.resampler import warp
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.names import READABLE
from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume
from RegCore.training import predict_tables as tables
from RegCore.training.config import Config, in_present_sections, load_config
from RegCore.training.folder import next_free_folder
from RegCore.training.predict_figures import in_space, is_placeholder, on_network_grid
from RegCore.training.predict_outputs import Formats, pair_name, write_affine, write_in_space, write_tensors

log = logging.getLogger(__name__)
FOLDER = "test"  # DeepReg's name, whatever the split


@dataclass(frozen=True)
class Predicted:
    """What a prediction leaves.

    Args:
        folder: its files.
        metrics: a dict for each pair and label, with the columns of ``metrics.csv``.
    """

    folder: Path
    metrics: list[dict]


@dataclass
class _Work:
    """What the loop works on; `known` are the answers for the pairs of the last batch."""

    trained: Model
    loader: Loader
    folder: Path
    formats: Formats
    deepreg: bool
    known: dict[tuple, tuple[Prediction, Transform | None]] = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)
    rows_mm: list[dict] = field(default_factory=list)
    placeholders: list[str] = field(default_factory=list)


def predict(
    model: str | Path | Model,
    config: Config | Mapping | str | Path | Sequence | None = None,
    *,
    split: str,
    log_dir: str | Path = "logs",
    exp_name: str = "",
    batch_size: int = 1,
    save_nifti: bool = True,
    save_png: bool = False,
    device: str = "auto",
    workers: int | None = None,
    progress: Progress = silent,
) -> Predicted:
    """Register the pairs of a data set with a trained network, measure, and write everything down.

    Args:
        model: a model file, a checkpoint ``save/ckpt-2`` (ours or DeepReg's), or a model in memory.
        config: where the data are: a configuration, or YAML files of one. By default the ``config.yaml``
            beside the checkpoint's folder ``save``, else what the model keeps of its training. Without a
            section ``train`` it is laid over that, as a file of its own would be.
        split: "train", "valid" or "test".
        log_dir, exp_name: the files are put into ``log_dir/exp_name/test``, as DeepReg does for every split;
            the time of day without a name. What was there is moved aside to ``test-1``.
        batch_size: pairs that the network sees at a time.
        save_nifti: write images, labels and fields as NIfTI, transforms and warped images besides.
        save_png: write their slices as PNG.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        workers: processes that read data; by default what ``dataset.workers`` says.
        progress: told after each batch; raising `Cancelled` ends the work, and nothing is written.

    Returns:
        A `Predicted`.

    Raises:
        InputError: one sentence on what can't be used: model, configuration, data, folder.

    Examples:
        >>> import RegCore
        >>> from RegCore.samples.datasets import write_examples
        >>> write_examples(".", patients=2)  # small data sets and configurations
        >>> config = RegCore.load_config("config/unpaired_labeled_ddf.yaml")
        >>> trained = RegCore.train(config, exp_name="first", max_epochs=1, device="cpu")
        >>> predicted = RegCore.predict(trained.model, split="test", exp_name="first", device="cpu")
        >>> len(predicted.metrics)  # one dict for each pair and structure
        3
    """
    trained, config = _given(model, config, choose_device(device))
    loader = _loader(trained, config, split)
    batches = Batches(loader, batch_size, workers=config.dataset.workers if workers is None else workers)
    deepreg = bool(trained.config["train"].get("deepreg", False))
    with ExitStack() as stack:
        named = Path(log_dir).expanduser() / exp_name
        folder = named if exp_name else stack.enter_context(timed_folder(named))
        folder = stack.enter_context(prepared_folder(folder))
        try:
            with scratch(folder) as side:
                work = _Work(trained, loader, side / FOLDER, Formats(save_nifti, save_png), deepreg)
                work.folder.mkdir()
                _predict_all(work, batches, progress)
                _write_tables(work)
                with in_turn(folder):
                    _put_in_place(work.folder, folder / FOLDER)
        except InputError as error:
            raise InputError(str(error).replace(f"{side}{os.sep}", f"{folder}{os.sep}")) from error
        except OSError as error:
            raise InputError(f"{folder}: the results can't be written ({error.strerror or error})") from error
        finally:
            batches.close()
    return Predicted(folder / FOLDER, work.rows)


# ---- what was given ----------------------------------------------------------------------------------------


def _given(model, config, device: str) -> tuple[Model, Config]:
    """The network on the device, and the configuration that says where the data are."""
    config = _completed(model, config)
    if isinstance(model, Model):
        trained = model
        trained.network.to(device).eval()
    else:
        trained = load_model(model, None if config is None else config.to_dict(), device)
    if config is None:
        where = "the model" if isinstance(model, Model) else model
        config = Config.from_dict(trained.config, f"the configuration that {where} keeps")
    return trained, config


def _completed(model, config) -> Config | None:
    """The configuration that was given, laid over that of the training if it has no section ``train``.

    None if there is none but what the model keeps.
    """
    beside = None if isinstance(model, Model) else _beside(Path(model).expanduser())
    if config is None:
        return None if beside is None else load_config(beside)
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        values = dict(config)
    else:
        files = [config] if isinstance(config, str | Path) else list(config)
        values, _ = read_files(files, None, in_present_sections)
        if "train" in values:
            return load_config(files)
        if beside is not None:
            return load_config([beside, *files])
    if "train" in values:
        return Config.from_dict(values)
    if beside is not None:
        kept = load_config(beside).to_dict()
    else:
        kept = (model if isinstance(model, Model) else load_model(model, device="cpu")).config
    return Config.from_dict(merge(kept, values), "what was given over the configuration of the model")


def _beside(checkpoint: Path) -> Path | None:
    """The configuration that a training wrote beside the folder of its checkpoints, if there is one."""
    found = checkpoint.parent.parent / "config.yaml"
    return found if checkpoint.parent.name == "save" and found.is_file() else None


def _loader(trained: Model, config: Config, split: str) -> Loader:
    """The pairs of a split, each label of each in turn, the order fixed unless the configuration says else.

    Raises InputError if the network was not trained for them.
    """
    config.split(split)
    was = trained.config["train"]
    for key, there, wanted in (
        ("method", config.train.method, was["method"]),
        ("backbone.name", config.train.backbone.name, was["backbone"]["name"]),
    ):
        if there != wanted:
            raise InputError(
                f"{config.source}: train.{key} is {there}, but the model was trained with {wanted}"
            )
    dataset = config.to_dict()["dataset"]
    for key, value in (("sample_label", "all"), ("seed", 0)):
        dataset[key] = value if dataset.get(key) is None else dataset[key]
    deepreg = bool(was.get("deepreg", False))
    trained_on = trained.config.get("dataset") or {}
    for key in ("intensity", "spacing"):
        dataset[key] = trained_on.get(key)
    dataset["space"] = dataset.get("space") or trained_on.get("space")
    loader = make_loader(dataset, split, deepreg=deepreg, axes=trained.axes, unknown_is_background=True)
    if loader is None:  # `Config.split` has said so
        raise InputError(f"{config.source}: dataset.{split}.dir is missing, so there are no data to use")
    sizes = {"fixed": loader.fixed_image_shape, "moving": loader.moving_image_shape}
    for side, wanted in (("fixed", trained.fixed_size), ("moving", trained.moving_size)):
        if tuple(sizes[side]) != tuple(wanted):
            raise InputError(
                f"{config.source}: {side} images are resized to {tuple(sizes[side])}, but the network was"
                f" trained with {tuple(wanted)}"
            )
    if trained.axes is not None and loader.axes not in (None, trained.axes):
        text = "the voxel axes of fixed and moving images run along %s, but in the training along %s"
        log.warning(text, " and ".join(loader.axes), " and ".join(trained.axes))
    return loader


# ---- the loop ----------------------------------------------------------------------------------------------


def _predict_all(work: _Work, batches: Batches, progress: Progress) -> None:
    plan = batches.plan()
    total = plan[-1][0]
    progress(0.0, "predicting", {"pairs": total})
    for (done, samples), batch in zip(plan, filter(None, batches.epoch()), strict=True):
        answers = _answers(work, samples, batch)
        for number, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
            alone = {k: v[number : number + 1] for k, v in batch.items() if k != "next_sample"}
            _one(work, sample, alone, *answer)
        progress(done / total, "predicting", {"pairs": total})
    if work.placeholders:
        text = "labels that are empty in the fixed or the moving image count nowhere: %d (%s)"
        log.warning(text, len(work.placeholders), work.placeholders[0])


def _answers(
    work: _Work, samples: Sequence[Sample], batch: Mapping
) -> list[tuple[Prediction, Transform | None]]:
    """The prediction and the transform for each sample; one for all labels of a pair unless they count."""
    conditional = isinstance(work.trained.network, ConditionalModel)
    keys = [(*s.indices, s.label) if conditional else s.indices for s in samples]
    new = {key: number for number, key in reversed(list(enumerate(keys))) if key not in work.known}
    if new:
        rows = list(new.values())
        label = batch["moving_label"][rows] if "moving_label" in batch else None
        answer = predict_batch(work.trained, batch["fixed_image"][rows], batch["moving_image"][rows], label)
        for place, (key, number) in enumerate(new.items()):
            grids = batch["fixed_geometry"][number], batch["moving_geometry"][number]
            try:
                one = pair_of(answer, place)
                transform = None if one.ddf is None else transform_of(one, 0, *grids)
            except InputError as error:
                raise InputError(f"{pair_name(samples[number].indices)}: {error}") from error
            work.known[key] = one, transform
    work.known = {key: work.known[key] for key in keys}
    return [work.known[key] for key in keys]


def _one(
    work: _Work, sample: Sample, batch: Mapping, prediction: Prediction, transform: Transform | None
) -> None:
    """Measure one sample and write its files; those of the pair with its first label."""
    border = "zero_boundary" if work.deepreg else "edge"
    image, label = warped(prediction, batch["moving_image"], batch.get("moving_label"), border=border)
    names = {"pair_index": list(sample.indices), "label_index": sample.label}
    if work.loader.structures and sample.label >= 0:
        names["label_name"] = work.loader.structures[sample.label]
    work.rows.append(on_network_grid(batch, image, label, deepreg=work.deepreg) | names)
    grids = {side: batch[f"{side}_geometry"][0] for side in ("fixed", "moving")}
    folder = work.folder / pair_name(sample.indices)
    if not folder.exists():
        images = {name: batch[name] for name in ("fixed_image", "moving_image")}
        sides = {name.removesuffix("_image"): image for name, image in images.items()}
        warn_if_unlike(work.trained, sides, f"{pair_name(sample.indices)}: ")
        fields = {"pred_fixed_image": image, "ddf": prediction.ddf, "dvf": prediction.dvf}
        write_tensors(folder, images | fields, grids, work.formats)
        if prediction.theta is not None:
            write_affine(folder, prediction.theta[0])
        if transform is not None and work.formats.nifti:
            moving = work.loader.moving.image_volume(sample.moving)
            write_in_space(folder, transform, warp(moving, transform, batch["fixed_file_geometry"][0]))
            _write_label_map(work, sample, transform, batch["fixed_file_geometry"][0], folder)
    if label is not None:
        labels = {name: batch[name] for name in ("fixed_label", "moving_label")}
        folder = folder / f"label_{sample.label}"
        write_tensors(folder, labels | {"pred_fixed_label": label}, grids, work.formats)
    nothing = label is not None and is_placeholder(batch) and not work.deepreg
    if nothing:
        work.placeholders.append(f"{pair_name(sample.indices)}, label {sample.label}")
    if transform is not None:
        pair = (None, None) if label is None else _labels_in_space(work, sample, transform, folder)
        work.rows_mm.append(in_space(transform, *((None, None) if nothing else pair)) | names)


def _write_label_map(work: _Work, sample: Sample, transform: Transform, onto: Geometry, folder: Path) -> None:
    """The moving label map as a whole, all its structures with their values and names, if it is one."""
    labels = work.loader.moving.label_map(sample.moving)
    if labels is not None:
        ending = ".seg.nrrd" if labels.segments else ".nii.gz"
        save(warp(labels, transform, onto), folder / f"warped_labels{ending}")


def _labels_in_space(
    work: _Work, sample: Sample, transform: Transform, folder: Path
) -> tuple[Volume, Volume]:
    """The fixed label as its file holds it, and the moving one warped onto its grid, written as well."""
    fixed = work.loader.fixed.label_volume(sample.fixed, sample.label)
    moving = work.loader.moving.label_volume(sample.moving, sample.label)
    warped_label = warp(moving, transform, fixed.geometry)
    if work.formats.nifti:
        save(warped_label, folder / "warped_label.nii.gz")
    return fixed, warped_label


# ---- the end -----------------------------------------------------------------------------------------------


def _write_tables(work: _Work) -> None:
    texts = {
        "metrics.csv": tables.samples(work.rows),
        "metrics_stats_per_label.csv": tables.per_label(work.rows),
        "metrics_stats_overall.csv": tables.overall(work.rows),
    }
    if work.rows_mm:
        texts["metrics_mm.csv"] = tables.samples(work.rows_mm, IN_SPACE)
    for name, text in texts.items():
        (work.folder / name).write_text(text, encoding="utf-8", errors=READABLE, newline="\n")


def _put_in_place(made: Path, folder: Path) -> None:
    """Move the finished folder to its place; an earlier one keeps everything under a name with a number."""
    if folder.exists():
        aside = next_free_folder(folder)
        os.replace(folder, aside)
        log.warning("%s holds an earlier prediction, which is now %s", folder, aside)
    os.replace(made, folder)
