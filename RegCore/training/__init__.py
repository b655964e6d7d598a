"""Training networks: `train`, from a configuration to a model file, on one or several processes."""

from RegCore.training.folder import checkpoint_at
from RegCore.training.loop import Trained, train

__all__ = ["Trained", "checkpoint_at", "train"]
