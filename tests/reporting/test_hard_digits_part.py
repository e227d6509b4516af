"""The part of the report that tells hard digits from luck."""

from pathlib import Path

import pytest
from handmade import add_evidence, record_run

from mnist_exp.evidence import comparison
from mnist_exp.reporting.hard_digits import hard_digits_of
from mnist_exp.reporting.page import write_page

LABELS = {6: "model 6"}


@pytest.mark.usefixtures("store")
def test_it_says_how_many_seeds_get_a_digit_wrong() -> None:
    for seed in (1, 2, 3):
        run = record_run(6, seed=seed)
        if seed < 3:
            add_evidence(run)  # each takes the same two of 52 digits for others
    part = hard_digits_of(comparison.compare([6]), LABELS)
    assert part.seeds == 2
    # Both of two seeds are wrong with (2/52)²: of 52 digits, 0.08.
    assert part.what == (
        "Model 6: 2 test digits are wrong for at least one of 2 seeds, and 2 for all of them, "
        "of which luck would explain 0.1. Their accuracies scatter by 0.000 points; by luck alone, "
        "each digit being wrong as often as it is, they would by 0.000."
    )
    assert part.spread["digits"].tolist() == ["0", "2"]
    assert [(digit.index, digit.truth, digit.seeds) for digit in part.digits] == [
        (9, 2, 2), (7, 4, 2),
    ]  # fmt: skip
    assert (part.counts.loc[4, 9], part.counts.loc[4, 4]) == (2, 10)


@pytest.mark.usefixtures("store")
def test_page_and_markdown_have_it(tmp_path: Path) -> None:
    for seed in (1, 2):
        add_evidence(record_run(6, seed=seed))
    page = write_page(comparison.compare([6]), tmp_path / "report.html")
    written = (tmp_path / "report_files" / "report.md").read_text()
    for text in (page.read_text(), written):
        assert "2 test digits are wrong for at least one of 2 seeds" in text
    assert "\n- 9, a 2 taken for " in written


@pytest.mark.usefixtures("store")
def test_one_seed_tells_nothing() -> None:
    add_evidence(record_run(6))
    assert hard_digits_of(comparison.compare([6]), LABELS) is None
