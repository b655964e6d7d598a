"""Five hundred damaged files of all formats: each gets a sentence or a result."""

import pytest

from Testing import fuzz


def test_damaged_files_get_a_sentence_or_a_result():
    outcomes, findings = fuzz.fuzz(500)
    assert findings == []
    assert sum(outcomes.values()) == 500 and outcomes["sentence"] > 250 and outcomes["read"] > 25


@pytest.mark.parametrize(
    ("last", "counts", "found"),
    [
        ("1 c.h5 ~", {"read": 2, "not compared": 1}, []),
        ("1 c.h5 ", {"read": 2}, ["1 c.h5 : did not end"]),
        ("1 c.h5 ~another transform", {"read": 2, "bad sentence": 1}, ["1 c.h5 ~another transform"]),
    ],
    ids=["SimpleITK hangs", "RegCore hangs", "they disagree"],
)
def test_a_hang_counts_only_where_it_is_ours(monkeypatch, last, counts, found):
    whole = not last.endswith(("~", " "))

    def run_child(folder, seed, start, count):
        return (["0 a.h5 ~read", last, *["2 p.csv read"] * whole], "did not end") if start == 0 else (
            ["2 p.csv read"], "exit 0")  # fmt: skip

    monkeypatch.setattr(fuzz, "_run_child", run_child)
    assert fuzz.fuzz(3) == (counts, found)
