"""RegCore: registration of medical images by deep learning and optimisation, without a user interface.

Importing the package imports neither torch nor any reader of files: each public name is fetched from its
room when it is first used, so that a program that lacks torch can still ask what is missing. Editors and type
checkers read the imports below instead, which name the same rooms.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from RegCore.deepreg.checkpoint import import_checkpoint as import_checkpoint
    from RegCore.evaluation.overview import overview as overview
    from RegCore.io import load as load
    from RegCore.io import save as save
    from RegCore.io.points import load_landmarks as load_landmarks
    from RegCore.io.points import load_points as load_points
    from RegCore.io.series import load_series as load_series
    from RegCore.io.series import save_series as save_series
    from RegCore.loaders import images_from_volumes as images_from_volumes
    from RegCore.loaders import make_loader as make_loader
    from RegCore.loaders import pairs_from_volumes as pairs_from_volumes
    from RegCore.networks.model_file import Model as Model
    from RegCore.networks.model_file import save_model as save_model
    from RegCore.networks.models import Prediction as Prediction
    from RegCore.networks.models import build_model as build_model
    from RegCore.progress import Cancelled as Cancelled
    from RegCore.progress import Progress as Progress
    from RegCore.registration import METHODS as METHODS
    from RegCore.registration.learned import load_model as load_model
    from RegCore.registration.register import Registration as Registration
    from RegCore.registration.register import register as register
    from RegCore.resampler import warp as warp
    from RegCore.samples.phantom import make_phantom as make_phantom
    from RegCore.space.geometry import Geometry as Geometry
    from RegCore.space.geometry import InputError as InputError
    from RegCore.space.series import Series as Series
    from RegCore.space.transforms import AffineTransform as AffineTransform
    from RegCore.space.transforms import DisplacementField as DisplacementField
    from RegCore.space.volume import Volume as Volume
    from RegCore.studies.propagation import Propagation as Propagation
    from RegCore.studies.propagation import propagate as propagate
    from RegCore.studies.series import SeriesRegistration as SeriesRegistration
    from RegCore.studies.series import register_series as register_series
    from RegCore.studies.template import GroupTemplate as GroupTemplate
    from RegCore.studies.template import build_template as build_template
    from RegCore.training import train as train
    from RegCore.training.config import Config as Config
    from RegCore.training.config import load_config as load_config
    from RegCore.training.plugins import load_plugin as load_plugin
    from RegCore.training.predict import predict as predict

__version__ = "0.1.0"

_HOME = {
    "Geometry": "space.geometry",
    "InputError": "space.geometry",
    "Volume": "space.volume",
    "Series": "space.series",
    "AffineTransform": "space.transforms",
    "DisplacementField": "space.transforms",
    "load": "io",
    "save": "io",
    "load_landmarks": "io.points",
    "load_points": "io.points",
    "load_series": "io.series",
    "save_series": "io.series",
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
    "SeriesRegistration": "studies.series",
    "register_series": "studies.series",
    "GroupTemplate": "studies.template",
    "build_template": "studies.template",
    "Propagation": "studies.propagation",
    "propagate": "studies.propagation",
    "predict": "training.predict",
    "make_phantom": "samples.phantom",
    "train": "training",
    "overview": "evaluation.overview",
    "Cancelled": "progress",
    "Progress": "progress",
}
__all__ = ["__version__", *sorted(_HOME)]


if not TYPE_CHECKING:  # a checker that sees it takes every misspelt name for Any

    def __getattr__(name: str) -> object:
        """Fetch a public name from the module that holds it (PEP 562)."""
        if name not in _HOME:
            raise AttributeError(f"module 'RegCore' has no attribute {name!r}")
        value = getattr(import_module(f"RegCore.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
