"""Where tests find things: the repository, their data, real cases that may lie beside the repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "Testing" / "Data"
RECORDED = DATA / "golden"  # what DeepReg gave for inputs of ours
DEEPREG = DATA / "deepreg"  # its own data; the paths in its configurations begin here
SHARED = ROOT.parent / "shared"
REAL = sorted(SHARED.glob("data/*/"))  # folders of real registration cases; none in a clone
