"""What the validation split said, beside what the test split says: stores made by hand."""

from pathlib import Path

import pytest
from handmade import record_run

from mnist_exp.data.splits import IMAGES
from mnist_exp.evidence import comparison
from mnist_exp.evidence.choosing import effects_beside, scores_beside
from mnist_exp.reporting.contents import contents_of
from mnist_exp.reporting.page import write_page

pytestmark = pytest.mark.usefixtures("store")


def on_both(model: int, wrong: int, *, last: int, first: int = 0) -> None:
    """Three seeds of a recipe, with so many digits wrong on the test split, on the last digits and,
    if that is given, on the first fold of writers."""
    for seed in (1, 2, 3):
        record_run(model, [wrong + seed] * 15, seed=seed + 100)
        record_run(model, [last + seed] * 15, seed=seed, split="validation", fold="last")
        if first:
            record_run(
                model, [first + seed] * 15, seed=seed, split="validation", fold="1",
                validation_images=IMAGES["1"],
            )  # fmt: skip


def test_scores_stand_beside_those_of_the_test_digits() -> None:
    on_both(5, 70, last=50, first=80)
    on_both(6, 60, last=40)
    found = scores_beside(comparison.compare())
    assert [(one.model, one.fold, one.seeds, one.test_seeds) for one in found] == [
        (5, "last", 3, 3), (5, "1", 3, 3), (6, "last", 3, 3),
    ]  # fmt: skip
    assert [one.above for one in found] == pytest.approx(
        [0.0020, 72 / 10_000 - 82 / IMAGES["1"], 0.0020]
    )


def test_effects_stand_beside_those_on_the_test_digits() -> None:
    on_both(5, 70, last=70, first=70)
    on_both(6, 60, last=40)
    (found,) = effects_beside(comparison.compare())
    assert (found.fold, found.chosen.baseline) == ("last", 5)
    assert found.chosen.mean == pytest.approx(0.0030)
    assert found.tested.mean == pytest.approx(0.0010)


def test_runs_of_other_code_and_unfinished_ones_say_nothing() -> None:
    record_run(6, [60] * 15)
    record_run(6, [40] * 15, split="validation", tags={"code_sha256": "before the change"})
    record_run(6, [40] * 4, seed=2, split="validation", status="FAILED")
    record_run(6, [40] * 4, seed=3, split="validation", tags={"overrides": "epochs=4"})
    found = comparison.compare()
    assert scores_beside(found) == effects_beside(found) == ()
    assert contents_of(found).choosing is None


def test_an_iteration_that_is_not_tested_says_nothing() -> None:
    record_run(5, [60] * 15)
    record_run(6, [40] * 15, split="validation")
    assert scores_beside(comparison.compare()) == ()


def test_a_comparison_on_the_validation_split_shows_nothing_of_the_test() -> None:
    on_both(6, 60, last=40)
    found = comparison.compare(split="validation", fold="last")
    assert contents_of(found).choosing is None


def test_a_report_says_how_far_off_the_split_was(tmp_path: Path) -> None:
    on_both(5, 70, last=70, first=70)
    on_both(6, 60, last=40)
    found = comparison.compare()
    part = contents_of(found).choosing
    assert part
    assert part.what == (
        "On the last digits, whose writers are trained on, too, 2 recipes differed from the test "
        "digits by +0.10 points on average, from +0.00 to +0.20; 1 gain over another was off by "
        "0.20 points. On fold 1, of writers of its own, 1 recipe differed from the test digits by "
        "+0.001 points."
    )
    page = write_page(found, tmp_path / "comparison.html")
    markdown = (tmp_path / "comparison_files" / "comparison.md").read_text()
    for text in (page.read_text(), markdown):
        assert "Did what was chosen by foretell the test?" in text
        assert "by 0.20 points" in text
