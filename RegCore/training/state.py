"""The state of a training: its position, the means of the present epoch so far, the history."""

import hashlib
import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import torch

from RegCore.space.geometry import InputError
from RegCore.training.history import judged_by
from RegCore.training.objective import may_be_missing
from RegCore.training.processes import Group

FORMER = {"place": "position", "totals": "means", "half": "bf16"}  # names in older checkpoints


@dataclass(frozen=True)
class Position:
    """How far a training is."""

    epoch: int = 0
    """Epochs done."""
    sample: int = 0
    """Samples used of the present epoch."""
    steps: int = 0
    """Steps of the optimiser in all."""


@dataclass(frozen=True)
class RunningMeans:
    """Means of what is logged, kept as sums and counts; a metric that a sample lacks is not counted."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def of(parts: Mapping[str, torch.Tensor]) -> "RunningMeans":
        """The means of a batch.

        Args:
            parts: ``(B,)`` each; NaN of what `may_be_missing` counts as missing, other NaN stay.
        """
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for name, values in parts.items():
            there = ~values.isnan() if may_be_missing(name) else torch.ones_like(values, dtype=torch.bool)
            sums[name], counts[name] = float(values[there].double().sum()), int(there.sum())
        return RunningMeans(sums, counts)

    def plus(self, other: "RunningMeans") -> "RunningMeans":
        """The means over the samples of both."""
        names = {**self.sums, **other.sums}
        return RunningMeans(
            {n: self.sums.get(n, 0.0) + other.sums.get(n, 0.0) for n in names},
            {n: self.counts.get(n, 0) + other.counts.get(n, 0) for n in names},
        )

    def values(self) -> dict[str, float]:
        """The means themselves; NaN of what no sample has.

        Where samples lack a part of the loss, the mean of the whole is the sum of the means of its parts: a
        sample without a label would else count as one whose label costs nothing.
        """
        means = {n: s / self.counts[n] if self.counts[n] else math.nan for n, s in self.sums.items()}
        parts = [n for n in means if n.startswith("loss/") and n.endswith("_weighted")]
        there = [means[n] for n in parts if self.counts[n]]
        lacking = any(self.counts[n] < self.counts["loss"] for n in parts)
        if lacking and there and math.isfinite(means["loss"]):  # else that is what is to be told
            means["loss"] = sum(there)
        return means

    def over(self, group: Group) -> "RunningMeans":
        """The means over the samples of all processes."""
        counts = group.total({name: float(count) for name, count in self.counts.items()})
        return RunningMeans(group.total(self.sums), {name: int(count) for name, count in counts.items()})


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds besides the weights and the optimiser's averages."""

    seed: int
    """Of order, labels, augmentation and first weights."""
    position: Position = Position()
    """How far the training is."""
    means: RunningMeans = RunningMeans()
    """Of what was logged in the present epoch."""
    bf16: bool | None = None
    """Whether the network computes in bfloat16; None before that is known."""
    history: list[dict] = field(default_factory=list)
    """A row of metrics for each epoch done."""
    inherited: int = 0
    """Rows of the history that another run made, whose checkpoint this one began with."""
    data: dict[str, list] = field(default_factory=dict)
    """For "train" and "valid": how many images there are, and a digest of their names."""

    @staticmethod
    def new(seed: int | None) -> "TrainingState":
        """The state before the first step; without a seed one is drawn."""
        return TrainingState(secrets.randbits(31) if seed is None else seed)

    def with_data(self, names: Mapping[str, list[str]]) -> "TrainingState":
        """The state of a training on images of these names; the names themselves may tell who they are of."""
        digests = {k: hashlib.sha256(json.dumps(sorted(v)).encode()).hexdigest() for k, v in names.items()}
        return replace(self, data={split: [len(names[split]), digests[split]] for split in names})

    def other_data(self, now: "TrainingState") -> list[str]:
        """In what the images of another state differ, in words."""
        found = []
        for split, (count, digest) in now.data.items():
            before, known = self.data.get(split, (count, digest))
            if before != count:
                found.append(f"images of dataset.{split}, {count} in place of {before}")
            elif known != digest:
                found.append(f"names of images of dataset.{split}")
        return found

    @property
    def losses(self) -> list[float]:
        """What each epoch is judged by, see `judged_by`."""
        return [judged_by(row) for row in self.history]

    @property
    def is_best(self) -> bool:
        """Whether the last epoch is the best that this run has made so far."""
        return self.losses[-1] <= min(self.losses[self.inherited :])

    def to_dict(self) -> dict:
        """Plain values for a checkpoint."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping) -> "TrainingState":
        """Undoes `to_dict`; also reads the names that checkpoints had before.

        Raises:
            InputError: other contents.
        """
        try:
            rest = {FORMER.get(name, name): value for name, value in values.items()}
            position, means = Position(**rest.pop("position")), RunningMeans(**rest.pop("means"))
            return TrainingState(position=position, means=means, **rest)
        except (KeyError, TypeError) as error:
            raise InputError(f"the state of the training can't be read: {error}") from None
