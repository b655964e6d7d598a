"""Results that are kept with their nodes, and found again in a scene that was loaded."""

from dataclasses import dataclass

from .logic import RegistrationResult
from .nodes import keeping


@dataclass(frozen=True)
class RecalledRun:
    """A registration of which a scene that was loaded tells; the fields are those of a RegistrationRun."""

    result: RegistrationResult
    inputs: tuple
    notes: tuple[str, ...]
    mapping = None  # which is in the node of the transform alone

    @property
    def fixed(self):
        """The fixed volume."""
        return self.inputs[0]

    @property
    def moving(self):
        """The moving volume."""
        return self.inputs[1]


def keep_result(run, about: dict) -> None:
    """Keep what came of a run with its nodes. about: further values that JSON can say, by their names."""
    keeping.keep(run.result, run.inputs, {**about, "notes": list(run.notes)})


def recall_result(node) -> tuple[RecalledRun, dict] | None:
    """What `keep_result` kept with a node: the run, and the further values; None if there is nothing."""
    kept = keeping.recall(node)
    if kept is None:
        return None
    made = {name: kept.nodes[name] for name in keeping.OUTPUTS}
    result = RegistrationResult(**made, **kept.figures, applied=kept.applied, warped_along=kept.along)
    inputs = tuple(kept.nodes[name] for name in keeping.INPUTS)
    return RecalledRun(result, inputs, tuple(kept.about.get("notes", ()))), kept.about
