"""Registration of two volumes: `register` and its methods, linear, deformable, classical and learned."""

from RegCore.space.names import Lazy, LazyTable

_HERE = "RegCore.registration.methods"
METHODS = LazyTable(
    {
        "auto": Lazy(_HERE, "auto"),
        "rigid": Lazy(_HERE, "rigid"),
        "affine": Lazy(_HERE, "affine"),
        "deformable": Lazy(_HERE, "deformable"),
        "classical-affine": Lazy(_HERE, "classical_affine"),
        "classical-nonrigid": Lazy(_HERE, "classical_nonrigid"),
    }
)
"""Name -> function of a `RegCore.registration.methods.Task` that gives the transform.

The one list of methods, for the command line and the panel as well. A new method is one more entry.
"""
OPTIONAL = ("fixed_seg", "moving_seg", "fixed_mask", "moving_mask", "landmarks", "initial")
"""Roles of the files that a registration may get besides "fixed" and "moving"."""
