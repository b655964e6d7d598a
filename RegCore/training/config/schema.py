"""What a configuration says: a frozen dataclass for each section of the YAML file, each key with its meaning.

Names and defaults are DeepReg's. The keys that DeepReg lacks stand at the end of `Dataset` and of `Train`,
and nowhere else. A key without a default must be given; ``null`` stands for the default.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from RegCore.loaders.intensity import INTENSITIES, IntensityWindow, MinMax, Percentiles, ZScore
from RegCore.training.config.registries import (
    AUGMENTATION,
    FILE_LOADER,
    IMAGE_LOSS,
    LABEL_LOSS,
    LOADER,
    METHOD,
    NETWORK,
    OPTIMISER,
    REGULARIZATION,
)
from RegCore.training.config.types import Range

Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, above=True)]
Grid = tuple[Count, Count, Count]
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Split:
    """``dataset.train``, ``dataset.valid``, ``dataset.test``: where data are."""

    dir: str | tuple[str, ...]
    """Folder of the data, or several; relative to the working directory, ``~`` is the home folder."""
    format: Annotated[str, FILE_LOADER]
    """Files in it: ``nifti``, ``h5`` or a file loader of one's own."""
    labeled: bool
    """Whether the labels in it are used."""


@dataclass(frozen=True)
class Dataset:
    """``dataset``: which images meet, and on which grid."""

    type: Annotated[str, LOADER]
    """``paired``, ``unpaired``, ``grouped`` or a loader of one's own."""
    train: Split | None = None
    """Pairs to learn from; None, here and below, if the section is absent or names no folder."""
    valid: Split | None = None
    """Pairs to watch the training with."""
    test: Split | None = None
    """Pairs to predict."""
    moving_image_shape: Grid | None = None
    """paired: voxels [I, J, K] that moving images are resized to."""
    fixed_image_shape: Grid | None = None
    """paired: voxels [I, J, K] that fixed images are resized to."""
    image_shape: Grid | None = None
    """unpaired, grouped: voxels [I, J, K] that images are resized to."""
    intra_group_prob: Share | None = None
    """grouped: probability of a pair within a group."""
    intra_group_option: Literal["forward", "backward", "unconstrained"] | None = None
    """grouped: forward if the moving image comes earlier in its group than the fixed one."""
    sample_image_in_group: bool | None = None
    """grouped: one pair for each group in an epoch, or all."""
    sample_label: Literal["sample", "all"] | None = None
    """One label of a pair drawn at random, or each in turn. None: ``sample`` for train, ``all`` otherwise."""
    seed: int | None = None
    """Of the order of pairs, then the same in each epoch. None: new orders for train, 0 otherwise."""
    # Keys that DeepReg lacks.
    labels: Literal["all"] | tuple[int, ...] | tuple[str, ...] | None = None
    """Structures of label maps: ``all``, values or names. None: all, if the labels are label maps."""
    intensity: MinMax | IntensityWindow | Percentiles | ZScore | None = None
    """How intensities become numbers from 0 to 1; kept by the model. None: ``minmax``, as DeepReg."""
    spacing: tuple[Positive, Positive, Positive] | None = None
    """Size in mm of the network's voxels: images are cropped or padded about the body. None: stretched."""
    space: Literal["file", "axes", "header"] | None = None
    """What the places of images in space are used for. None: ``axes``; with ``train.deepreg``: ``file``."""
    skip_bad_files: bool = False
    """Leave out what can't be read, with a warning that names it, instead of stopping."""
    cache: Annotated[float, Range(0)] = 0.0
    """Memory in GB in which images on their grid are kept from epoch to epoch."""
    workers: Natural = 0
    """Processes that read ahead; 0 reads when a batch is asked for."""
    options: dict = field(default_factory=dict)
    """Not a key: the keys that a loader of one's own takes besides these."""


@dataclass(frozen=True)
class Component:
    """Something chosen by its name: a network, an optimiser, an augmentation."""

    name: str
    """A name of the table in question."""
    options: dict = field(default_factory=dict)
    """The other keys of its section: arguments of what the name stands for."""


@dataclass(frozen=True)
class Loss:
    """One loss of ``train.loss``."""

    name: str
    """A name of the tables in `RegCore.losses`."""
    weight: float = 1.0
    """Its factor in the total; 0 leaves it out."""
    options: dict = field(default_factory=dict)
    """The other keys: arguments of the loss."""


@dataclass(frozen=True)
class Losses:
    """``train.loss``: each section one loss or a list of them."""

    image: tuple[Annotated[Loss, IMAGE_LOSS], ...] = ()
    """Of the fixed and the warped moving image; not used by the method conditional."""
    label: tuple[Annotated[Loss, LABEL_LOSS], ...] = ()
    """Of the fixed and the warped moving label; not used without labels."""
    regularization: tuple[Annotated[Loss, REGULARIZATION], ...] = ()
    """Of the displacement; not used by the method conditional."""


@dataclass(frozen=True)
class Preprocess:
    """``train.preprocess``: batches and what is done to them."""

    batch_size: Count
    """Pairs in a step."""
    shuffle_buffer_num_batch: Natural
    """Batches in the buffer from which the next pair is drawn; 0 keeps the order of the loader."""
    num_parallel_calls: Annotated[int, Range(-1)] = -1
    """DeepReg's number of threads that prepare data. Accepted, without effect: see ``dataset.workers``."""
    data_augmentation: tuple[Annotated[Component, AUGMENTATION], ...] = ()
    """Random changes of the training pairs, one or a list; null: none. Without this key: affine."""


@dataclass(frozen=True)
class EarlyStopping:
    """``train.early_stopping``: end when the validation loss no longer falls."""

    patience: Count
    """Epochs without a better one after which the training ends."""
    min_delta: Annotated[float, Range(0)] = 0.0
    """What an epoch must be better by, to count."""


@dataclass(frozen=True)
class Cosine:
    """From the learning rate down half a cosine (Loshchilov and Hutter, ICLR 2017), after a linear rise."""

    warmup_epochs: Natural = 0
    """Epochs of the rise from 0."""
    final_factor: Share = 0.0
    """Part of the learning rate that is left at the end."""


@dataclass(frozen=True)
class Step:
    """The learning rate times a factor, every so many epochs."""

    every: Count
    """Epochs from one change to the next."""
    factor: Positive = 0.1
    """What the rate is multiplied by."""


@dataclass(frozen=True)
class OneCycle:
    """Up to the learning rate and down to almost 0 along cosines (Smith and Topin, 2019)."""

    rise: Share = 0.3
    """Part of the training in which the rate rises."""
    start_factor: Positive = 0.04
    """Part of the learning rate at the start."""
    final_factor: Share = 4e-6
    """Part of the learning rate at the end."""


@dataclass(frozen=True)
class Plateau:
    """The learning rate times a factor, whenever the validation loss no longer falls."""

    patience: Count = 10
    """Epochs without a better one before the change."""
    factor: Positive = 0.1
    """What the rate is multiplied by."""
    min_delta: Annotated[float, Range(0)] = 0.0
    """What an epoch must be better by, to count."""


SCHEDULES: dict[str, type] = {"cosine": Cosine, "step": Step, "one_cycle": OneCycle, "plateau": Plateau}
BY_NAME = (SCHEDULES, INTENSITIES)
"""Tables of sections whose keys depend on their name."""


@dataclass(frozen=True)
class Train:
    """``train``: the network, what it learns by, and how long."""

    method: Annotated[str, METHOD]
    """``ddf``, ``dvf``, ``conditional`` or a method of one's own."""
    backbone: Annotated[Component, NETWORK]
    """Name and arguments of ``unet``, ``local``, ``global``, ``keypoints`` or a network of one's own."""
    loss: Losses
    """What is made small."""
    optimizer: Annotated[Component, OPTIMISER]
    """A name of Keras with its arguments: ``{name: Adam, learning_rate: 1.0e-4}``."""
    preprocess: Preprocess
    """Batches and augmentation."""
    epochs: Count
    """How often all pairs are seen."""
    save_period: Count
    """Epochs from one checkpoint to the next."""
    update_freq: Literal["epoch", "batch"] | Count = "epoch"
    """How often values are written for TensorBoard: each epoch, each batch, or after so many batches."""
    # Keys that DeepReg lacks.
    seed: int | None = None
    """Of weights, order, labels and augmentation. None: another one in each training."""
    early_stopping: EarlyStopping | None = None
    """End before the last epoch."""
    learning_rate_schedule: Cosine | Step | OneCycle | Plateau | None = None
    """How the learning rate changes: ``{name: cosine, …}``, a name of `SCHEDULES`."""
    accumulate: Count = 1
    """Batches whose gradients are summed into one step."""
    mixed_precision: Literal["auto", "off", "bf16"] = "off"
    """bf16: bfloat16 where it is safe; auto: where a trial shows it faster. On AMX predictions, too."""
    deepreg: bool = False
    """Compute what DeepReg computes also where it is wrong, such as zeros at index 0 of each axis."""
