"""The page about a registration: it holds what it is given, fits one sheet, and is written whole."""

import re

import numpy as np
import pytest
from PIL import Image

from RegCore.evaluation import page as pages
from RegCore.space.geometry import InputError

ROWS = [("", "before", "after"), ("Liver", "0.41", "0.93")]


def picture(height=400) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (height, 700, 3), np.uint8)
    return Image.fromarray(noise)


def ink(sheet, box) -> int:
    """Pixels of a part of the page that are not background."""
    part = np.asarray(sheet)[box[1] : box[3], box[0] : box[2]]
    return int((np.abs(part.astype(int) - pages.BACKGROUND).max(-1) > 40).sum())


@pytest.mark.parametrize("height", [100, 400, 3000])
def test_picture_notes_and_tables_are_on_the_page(height):
    words = []
    empty = pages.page("", picture(height), [])
    sheet = pages.page("M to F", picture(height), [("Structures", ROWS), ("Settings", ROWS)], ["Folds."])
    assert sheet.size == (1654, 2339)
    wide = pages.WIDTH
    for part in ((0, 0, wide, 110), (0, 130, wide, pages.HEIGHT)):
        words.append(ink(sheet, part) - ink(empty, part))
    assert min(words) > 200
    halves = [ink(sheet, (x, 0, x + wide // 2, pages.HEIGHT)) for x in (0, wide // 2)]
    of_empty = [ink(empty, (x, 0, x + wide // 2, pages.HEIGHT)) for x in (0, wide // 2)]
    assert all(a > b for a, b in zip(halves, of_empty, strict=True))  # a table in each column


def test_a_table_that_is_too_long_ends_on_the_page_and_says_so(monkeypatch):
    texts = []
    real = pages.write

    def write(sheet, place, text, *more):
        texts.append((text, place))
        return real(sheet, place, text, *more)

    monkeypatch.setattr(pages, "write", write)
    many = [("", "before", "after"), *((f"Segment {n}", "1", "2") for n in range(100))]
    pages.page("M to F", picture(), [("Structures", many)])
    assert max(place[1] for _, place in texts) < pages.HEIGHT
    last = texts[-1][0]
    shown = sum(text.startswith("Segment ") for text, _ in texts)
    assert re.fullmatch(rf"\.\.\. and {100 - shown} more", last) and shown > 20


def test_both_files_are_written_and_can_be_read(tmp_path):
    sheet = pages.page("M to F", picture(), [("Structures", ROWS)])
    written = pages.save_page(sheet, tmp_path / "new" / "M to F 1.5")
    assert [path.name for path in written] == ["M to F 1.5.png", "M to F 1.5.pdf"]
    assert np.array_equal(np.asarray(Image.open(written[0])), np.asarray(sheet))
    pdf = written[1].read_bytes()
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") == 1
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)
    assert [round(float(side) / 72 * 25.4) for side in box.groups()] == [210, 297]  # A4 in mm
    assert sorted(path.name for path in written[0].parent.iterdir()) == ["M to F 1.5.pdf", "M to F 1.5.png"]


def test_a_folder_that_is_a_file_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the report can't be written"):
        pages.save_page(pages.page("a", picture(), []), tmp_path / "file" / "report")
