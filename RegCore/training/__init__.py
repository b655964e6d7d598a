"""Training networks: `train`, from a configuration to a model file, on one or several processes.

The names are fetched when they are first used: `RegCore.training.presets` can be imported without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from RegCore.training.folder import checkpoint_at
    from RegCore.training.loop import Trained, train

__all__ = ["Trained", "checkpoint_at", "train"]
_HOME = {"Trained": "loop", "train": "loop", "checkpoint_at": "folder"}


def __getattr__(name: str):
    """Fetch a public name from the module that holds it (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'RegCore.training' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"RegCore.training.{_HOME[name]}"), name)
    return value
