"""Where tests find things: the repository, their own data, and what may lie beside the repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "Testing" / "Data"
SHARED = ROOT.parent / "shared"
