"""RegCore: registration of medical images by deep learning and optimisation, without a user interface.

Importing the package imports neither torch nor any reader of files: each public name is fetched from its
room when it is first used, so that a program that lacks torch can still ask what is missing.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "Geometry": "space.geometry",
    "InputError": "space.geometry",
    "Volume": "space.volume",
    "AffineTransform": "space.transforms",
    "DisplacementField": "space.transforms",
    "load": "io",
    "save": "io",
    "load_landmarks": "io",
    "warp": "resampler",
    "images_from_volumes": "loaders",
    "make_loader": "loaders",
    "pairs_from_volumes": "loaders",
    "Prediction": "networks.models",
    "build_model": "networks.models",
    "Model": "networks.model_file",
    "load_model": "registration.learned",
    "save_model": "networks.model_file",
    "import_checkpoint": "deepreg.checkpoint",
    "Config": "training.config",
    "load_config": "training.config",
    "load_plugin": "training.plugins",
    "METHODS": "registration",
    "Registration": "registration.register",
    "register": "registration.register",
    "predict": "training.predict",
    "make_phantom": "samples.phantom",
    "train": "training",
    "overview": "evaluation.overview",
    "Cancelled": "progress",
    "Progress": "progress",
}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str):
    """Fetch a public name from the module that holds it (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'RegCore' has no attribute {name!r}")
    value = getattr(import_module(f"RegCore.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
