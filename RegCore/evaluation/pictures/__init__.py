"""One picture that shows what a registration did: three planes, before and after, and the deformation."""

from RegCore.evaluation.pictures.canvas import overview

__all__ = ["overview"]
