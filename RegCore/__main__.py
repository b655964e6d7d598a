"""``python -m RegCore``: the command ``regcore``."""

import sys

from RegCore.cli import main

if __name__ == "__main__":
    sys.exit(main())
