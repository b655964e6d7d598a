"""Five hundred damaged files of all formats: each gets a sentence or a result."""

from Testing.fuzz import fuzz


def test_damaged_files_get_a_sentence_or_a_result():
    outcomes, findings = fuzz(500)
    assert findings == []
    assert sum(outcomes.values()) == 500 and outcomes["sentence"] > 250 and outcomes["read"] > 25
