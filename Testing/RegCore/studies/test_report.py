"""The table and the page of a study: figures, verdicts, order, names of every kind; the page in a browser."""

import base64
import csv
import io
import json
import os
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from RegCore.cli import main
from RegCore.space.geometry import InputError
from RegCore.studies.report import MOST_THUMBNAILS, report_on, write_report
from RegCore.studies.rows import columns_of, figures_of, verdict_of, worst_first
from Testing import browser
from Testing.RegCore.studies.data import write_pairs

ROLES = ("fixed", "moving", "fixed-seg", "moving-seg")
ODD = 'Müller </script><script>alert("x")</script> & "q" 100%#?'


def summary(name, status="done", verdict="better", **figures):
    error = "moving.nii: is damaged <b>" if status == "failed" else ""
    words = {"id": name, "status": status, "verdict": verdict, "error": error, "method": "auto", "notes": ""}
    return words | figures


def study(folder, count=5):
    """A study with summaries and small pictures; one pair failed, one has an odd name."""
    found = [
        summary(f"pair {n}", dice_mean_before=0.5, dice_mean_after=0.6 + 0.3 * n / count, seconds=float(n))
        for n in range(count)
    ]
    found += [
        summary("lost", "failed", "failed"),
        summary("worse", verdict="worse", ncc_before=0.9, ncc_after=0.4),
    ]
    found += [summary(ODD.replace("/", "∕"), dice_mean_before=0.1, dice_mean_after=0.99, tre_mm_after=1.5)]
    for number, one in enumerate(found):
        if one["status"] == "done":
            place = folder / "pairs" / one["id"]
            place.mkdir(parents=True)
            colour = (255, 40 * number % 256, 0)
            Image.new("RGB", (88, 132), colour).save(place / "thumbnail.jpg")
    write_report(folder, found)
    return found


class Elements(HTMLParser):
    """The elements of a page; every one that is opened must be closed in order."""

    EMPTY = {"meta", "input", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.count, self.data = [], {}, ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.count[tag] = self.count.get(tag, 0) + 1
        assert not [v for k, v in attributes if k in ("src", "href") and v], "something is fetched"
        if tag not in self.EMPTY:
            self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == ("script", {"type": "application/json", "id": "data"}):
            self.data += data


def test_the_page_is_one_sound_file_with_every_row_and_name(tmp_path):
    found = study(tmp_path)
    page = Elements((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.count["script"] == 2 and "link" not in page.count
    data = json.loads(page.data)
    assert len(data["rows"]) == len(found) and {row[0] for row in data["rows"]} == {s["id"] for s in found}
    columns = [*data["words"], *(figure["column"] for figure in data["figures"])]
    for row, one in zip(data["rows"], worst_first(found), strict=True):
        assert {k: v for k, v in zip(columns, row, strict=True) if v not in (None, "")} == pytest.approx(
            {k: v for k, v in one.items() if v != "" and k != "status"}
        )
    assert len(data["thumbnails"]) == len(found) - 1
    for picture in data["thumbnails"].values():
        content = base64.b64decode(picture.removeprefix("data:image/jpeg;base64,"))
        assert Image.open(io.BytesIO(content)).size == (88, 132)
    assert data["places"][0] == "" and data["places"][1] == "pairs/worse"


def test_the_table_holds_every_figure_worst_first(tmp_path):
    study(tmp_path)
    with open(tmp_path / "results.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["lost", "worse", ODD.replace("/", "∕"), *(f"pair {n}" for n in range(5))]
    assert [row["id"] for row in rows] == names
    assert rows[3] | {"seconds": ""} == rows[3] | {"dice_mean_after": "0.6", "ncc_after": "", "seconds": ""}
    assert rows[0]["error"] == "moving.nii: is damaged <b>" and rows[1]["ncc_after"] == "0.4"


def test_figures_become_columns_without_what_is_not_defined():
    metrics = {
        "dice": {"before": {1: 0.5, 2: float("nan")}, "after": {1: 0.75, 2: 0.5}},
        "dice_mean": {"before": 0.5, "after": 0.625},
        "ncc": {"before": np.float64(0.25).item(), "after": None},
        "fold_percent": 0.0,
        "seconds": 3,
        "notes": ["a sentence"],
    }
    figures = figures_of(metrics, {1: "liver"})
    assert figures == {
        "dice_mean_before": 0.5, "dice_mean_after": 0.625, "ncc_before": 0.25, "fold_percent": 0.0,
        "seconds": 3.0, "dice_liver_before": 0.5, "dice_liver_after": 0.75, "dice_label 2_after": 0.5,
    }  # fmt: skip
    assert columns_of([{"id": "x", **figures}])[1:] == [
        *("dice_mean_before", "dice_mean_after", "ncc_before", "fold_percent", "seconds"),
        *("dice_label 2_after", "dice_liver_before", "dice_liver_after"),
    ]


def test_verdicts_go_by_landmarks_and_overlap_then_by_similarity():
    up, down = {"tre_mm_before": 4.0, "tre_mm_after": 1.0}, {"dice_mean_before": 0.8, "dice_mean_after": 0.5}
    worse = {"nmi_before": 1.5, "nmi_after": 1.1}
    assert verdict_of(up | worse) == "better" and verdict_of(down) == "worse"
    assert verdict_of(up | down) == "mixed" and verdict_of(worse) == "worse"
    assert verdict_of({"ncc_before": 0.5, "ncc_after": 0.5}) == "same" and verdict_of({}) == "same"


def test_only_the_worst_of_very_many_get_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("RegCore.studies.report.MOST_THUMBNAILS", 3)
    assert MOST_THUMBNAILS >= 100
    study(tmp_path)
    data = json.loads(Elements((tmp_path / "report.html").read_text(encoding="utf-8")).data)
    assert len(data["thumbnails"]) == 2 and "worse" in data["thumbnails"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """What `regcore register` writes."""
    folder = tmp_path_factory.mktemp("result")
    write_pairs(folder, 1)
    files = [f"--{name}={folder}/case0/{name.replace('-', '_')}.nii.gz" for name in ROLES]
    quick = ["--method=classical-affine", "--settings", "max_iter=2", "--device=cpu", "--quiet"]
    assert main(["register", *files, f"--out={folder / 'result'}", *quick]) == 0
    return folder / "result"


def test_a_report_is_made_of_earlier_results(result, tmp_path, capsys):
    for name in ("one", "deep/two"):
        shutil.copytree(result, tmp_path / "results" / name)
    assert main(["report", str(tmp_path / "results")]) == 0
    assert "about 2 results" in capsys.readouterr().out
    data = json.loads(Elements((tmp_path / "results" / "report.html").read_text(encoding="utf-8")).data)
    assert sorted(row[0] for row in data["rows"]) == ["deep/two", "one"]
    assert set(data["thumbnails"]) == {"deep/two", "one"} and set(data["places"]) == {"deep/two", "one"}
    with open(tmp_path / "results" / "results.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figures = json.loads((result / "metrics.json").read_text())
    assert float(rows[0]["dice_mean_after"]) == pytest.approx(figures["dice_mean"]["after"], rel=1e-5)
    assert "dice_label 1_after" in rows[0]


@pytest.mark.parametrize("text", ["", "[]", '{"dice": 3}'])
def test_what_is_no_result_is_named(tmp_path, text):
    with pytest.raises(InputError, match="gone: there is no such folder"):
        report_on(tmp_path / "gone")
    with pytest.raises(InputError, match="there is no result of a registration in this folder"):
        report_on(tmp_path)
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(InputError, match="metrics.json: these are no figures of a registration"):
        report_on(tmp_path)


# ---- in a browser ------------------------------------------------------------------------------------------

NAMES = "[...document.querySelectorAll('#body tr')].map(row => row.dataset.id)"


@pytest.mark.skipif(browser.program() is None, reason="there is no Chromium on this machine")
def test_the_page_is_sorted_filtered_and_photographed_in_a_browser(tmp_path):
    found = study(tmp_path, 150)
    with browser.Page(tmp_path / "report.html") as page:
        names = [one["id"] for one in worst_first(found)]
        assert page.value(NAMES) == names[:100]
        assert page.value("document.getElementById('where').textContent") == f"1 to 100 of {len(found)}"
        page.value("document.getElementById('next').click()")
        assert page.value(NAMES) == names[100:]
        click = "document.querySelector('#head button[data-column=\"{}\"]').click()"
        seconds = page.value("WORDS + data.figures.findIndex(figure => figure.column === 'seconds')")
        page.value(click.format(seconds))
        page.value(click.format(seconds))  # downwards
        assert page.value(NAMES)[:3] == ["pair 149", "pair 148", "pair 147"]
        assert page.value("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "descending"
        page.value("document.querySelector('#tools button[data-verdict=failed]').click()")
        assert page.value(NAMES) == ["lost"]
        assert "is damaged <b>" in page.value("document.querySelector('#body tr').textContent")
        page.value("document.querySelector('#tools button[data-verdict=failed]').click()")
        search = "text => { const field = document.getElementById('search'); field.value = text; "
        search += "field.dispatchEvent(new Event('input')); }"
        page.value(f"({search})('MÜLLER')")
        assert page.value(NAMES) == [ODD.replace("/", "∕")]
        link = page.value("document.querySelector('#body a').href")
        assert link.endswith("/overview.png") and "%3Cscript%3E" in link and "#" not in link
        bars = "document.querySelectorAll('figure[data-key=dice_mean] rect').length"
        assert page.value(bars) == 2  # one pair: a bar before, a bar after
        page.value(f"({search})('')")
        assert page.value(bars) > 10
        assert page.value("[...document.images].every(image => image.complete && image.naturalWidth === 88)")
        page.picture(tmp_path / "page.png")
        assert page.problems() == []
    picture = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert picture.shape[1] == 1400 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_a_folder_whose_name_is_no_utf_8(tmp_path):
    """As on discs of other times; the byte is shown as �, and whoever reads the page finds UTF-8."""
    folder = tmp_path / os.fsdecode(b"M\xfcller")
    study(tmp_path / "made")
    (tmp_path / "made").rename(folder)
    write_report(folder, [summary(os.fsdecode(b"M\xfcller")), summary(os.fsdecode("Größe".encode()))])
    for name in ("results.csv", "report.html"):
        text = (folder / name).read_text(encoding="utf-8")
        assert "M\ufffdller" in text and "Größe" in text
