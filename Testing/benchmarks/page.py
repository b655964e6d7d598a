"""Puts a table into its place in Docs/benchmarks.md, or in another page, between comments that name it."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "Docs" / "benchmarks.md"


def put(name: str, text: str, page: Path = PAGE) -> None:
    """Replace what stands between ``<!-- name: begin -->`` and ``<!-- name: end -->``.

    Raises SystemExit where the page has no such place.
    """
    old = page.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {name}: begin -->\n).*?(\n<!-- {name}: end -->)", re.DOTALL)
    if not pattern.search(old):
        raise SystemExit(f"{page}: there is no place for the table {name}")
    page.write_text(pattern.sub(lambda found: f"{found[1]}{text.strip()}{found[2]}", old), encoding="utf-8")
