"""The parts of the module: nodes in, a child process that computes, nodes out, and the panels."""

from .paths import make_regcore_importable

make_regcore_importable()
