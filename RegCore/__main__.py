"""``python -m RegCore``: the command ``regcore``."""

import os
import sys

# `python -m` looks for modules in the working directory first, where data of other people may lie
if sys.path and sys.path[0] in ("", os.getcwd()) and "PYTHONSAFEPATH" not in os.environ:
    del sys.path[0]

from RegCore.cli import main  # noqa: E402 - only now

if __name__ == "__main__":
    sys.exit(main())
