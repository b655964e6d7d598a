"""Where a training stands: the place, the sums of the epoch that is under way, the history."""

import math
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch

from RegCore.space.geometry import InputError
from RegCore.training.processes import Group


@dataclass(frozen=True)
class Place:
    """epoch: epochs done. sample: samples used of the present one. steps: of the optimiser, in all."""

    epoch: int = 0
    sample: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Totals:
    """Sums of what is logged and how many samples each is of; a metric that a sample lacks is not counted."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def of(parts: Mapping[str, torch.Tensor]) -> "Totals":
        """parts: ``(B,)`` each; NaN of a metric counts as missing, of a loss as it is."""
        sums, counts = {}, {}
        for name, values in parts.items():
            there = ~values.isnan() if name.startswith("metric/") else torch.ones_like(values, dtype=bool)
            sums[name], counts[name] = float(values[there].double().sum()), int(there.sum())
        return Totals(sums, counts)

    def plus(self, other: "Totals") -> "Totals":
        names = {**self.sums, **other.sums}
        return Totals(
            {n: self.sums.get(n, 0.0) + other.sums.get(n, 0.0) for n in names},
            {n: self.counts.get(n, 0) + other.counts.get(n, 0) for n in names},
        )

    def means(self) -> dict[str, float]:
        return {n: s / self.counts[n] if self.counts[n] else math.nan for n, s in self.sums.items()}

    def over(self, group: Group) -> "Totals":
        """Of all processes."""
        counts = group.total(self.counts)
        return Totals(group.total(self.sums), {name: int(count) for name, count in counts.items()})


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds besides the weights and the optimiser's averages.

    seed: of order, labels, augmentation and first weights. half: whether the network computes in bfloat16,
    None before it is known. history: a row of figures for each epoch done.
    """

    seed: int
    place: Place = Place()
    totals: Totals = Totals()
    half: bool | None = None
    history: list[dict] = field(default_factory=list)

    @staticmethod
    def new(seed: int | None) -> "TrainingState":
        return TrainingState(secrets.randbits(31) if seed is None else seed)

    @property
    def losses(self) -> list[float]:
        """Validation loss of each epoch, or training loss where there is no validation."""
        return [row.get("val_loss", row["loss"]) for row in self.history]

    def to_dict(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping) -> "TrainingState":
        """Undoes `to_dict`. Raises InputError for other contents."""
        try:
            rest = {k: v for k, v in values.items() if k not in ("place", "totals")}
            return TrainingState(place=Place(**values["place"]), totals=Totals(**values["totals"]), **rest)
        except (KeyError, TypeError) as error:
            raise InputError(f"the place of the training is not readable: {error}") from None
