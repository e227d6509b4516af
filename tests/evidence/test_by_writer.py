"""Errors by writer, of digits whose writers are known."""

import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from handmade import record_run

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.data.writers import Writers, writers
from mnist_exp.evidence import comparison
from mnist_exp.evidence.by_writer import errors_by_writer
from mnist_exp.reporting.by_writer import told_interval, writers_errors, writers_part
from mnist_exp.reporting.cards import card
from mnist_exp.reporting.contents import contents_of
from mnist_exp.reporting.page import write_page
from mnist_exp.tracking import names

THREE = Writers(np.array([7, 7, 8, 8, 9, 9]), np.array([0, 0, 4, 4, 4, 4]))


def test_errors_of_a_writer_go_together() -> None:
    own = errors_by_writer(np.array([1.0, 1, 0, 0, 0, 0]), THREE, 1)
    assert own.accuracy == pytest.approx(2 / 3)
    # Residuals of 2/3 twice, and of -1/3 four times: their sums are 4/3, -2/3 and -2/3.
    assert own.standard_error == pytest.approx(math.sqrt(24 / 9) / 6)
    assert own.of_digits == pytest.approx(math.sqrt(12 / 9) / 6)
    half = 1.96 * math.sqrt(24 / 9) / 6
    assert own.interval == pytest.approx((2 / 3 - half, 2 / 3 + half))


def test_where_each_writer_has_one_digit_nothing_is_clustered() -> None:
    apart = Writers(np.arange(6), np.zeros(6, dtype=int))
    own = errors_by_writer(np.array([1.0, 1, 0, 0, 0, 0]), apart, 1)
    assert own.standard_error == pytest.approx(own.of_digits)


def test_it_is_the_formula_that_was_published() -> None:
    """Miller (2024), section 2.2: the variance of single questions, and of each two of a cluster
    the product of their residuals."""
    of = writers("test")
    wrong = (np.random.default_rng(1).random((3, len(of.number))) < 0.01).mean(axis=0)
    residual = (1 - wrong) - (1 - wrong).mean()
    pairs = sum(
        np.outer(own, own).sum() - (own**2).sum()
        for own in (residual[of.number == number] for number in set(of.number))
    )
    count = len(wrong)
    published = math.sqrt((residual**2).sum() / (count - 1) / count + pairs / count**2)
    own = errors_by_writer(wrong, of, 3)
    assert own.standard_error == pytest.approx(published, rel=1e-4)  # which is of n - 1


def test_series_and_writers_have_their_errors() -> None:
    own = errors_by_writer(np.array([0.5, 0, 1, 0.25, 0, 0]), THREE, 4)
    assert (own.rate(0), own.rate(4)) == pytest.approx((0.25, 1.25 / 4))
    assert own.writers.to_numpy().tolist() == [[8, 4, 2, 1.25], [7, 0, 2, 0.5], [9, 4, 2, 0]]


def hold(run_id: str, wrong: np.ndarray) -> None:
    """Let a run hold that these digits are wrong."""
    table = pd.DataFrame({"index": wrong, "truth": 4, "guess": 9, "probability": 0.5})
    tracking.RunWriter(run_id, "1", 0).log_table(table, "misclassified")


@pytest.mark.usefixtures("store")
def test_a_report_has_them_where_runs_hold_their_mistakes(tmp_path: Path) -> None:
    of = writers("test")
    number, most = max(
        ((n, int((of.number == n).sum())) for n in set(of.number)), key=lambda pair: pair[1]
    )
    own = np.flatnonzero(of.number == number)[:40]
    others = np.flatnonzero(of.number != number)
    students = others[of.series[others] == 4]
    hold(record_run(6, [60] * 15, seed=1), np.concatenate([own, students[:20]]))
    hold(record_run(6, [50] * 15, seed=2), np.concatenate([own, students[:10]]))
    record_run(5, [60] * 15)
    found = comparison.compare()
    errors = writers_errors(found)
    assert list(errors) == [6]
    assert (errors[6].seeds, errors[6].accuracy) == (2, pytest.approx(0.9945))
    assert errors[6].standard_error > 2 * errors[6].of_digits
    part = writers_part(found, {5: "model 5", 6: "model 6"}, errors)
    assert part is not None
    assert part.what == (
        f"Model 6: half of the errors of 2 seeds are on digits of 1 of {len(set(of.number))} "
        "writers."
    )
    assert part.hardest.iloc[0].tolist() == [
        f"{number}", {0: "employees", 4: "students"}[int(of.series[own[0]])], f"{most}", "40.0",
        f"{100 * 40 / most:.2f} %",
    ]  # fmt: skip
    (row,) = part.table.to_dict("records")
    assert row["seeds"] == "2 of 2"
    assert row["95 % interval by writer"] == told_interval(errors[6], 2)
    text = card(found, found.verdicts[1])
    assert f"interval of the final accuracy is {told_interval(errors[6], 2)}." in text
    page = write_page(found, tmp_path / "report.html")
    written = (tmp_path / "report_files" / "report.md").read_text()
    for shown in (page.read_text().replace("\N{NO-BREAK SPACE}", " "), written):
        assert shown.count(told_interval(errors[6], 2)) >= 2
        assert "half of the errors of 2 seeds are on digits of 1 of" in shown


@pytest.mark.usefixtures("store")
def test_an_accuracy_has_no_interval_of_some_of_its_seeds() -> None:
    wrong = np.arange(60)
    hold(record_run(6, [60] * 15, seed=1), wrong)
    hold(record_run(6, [50] * 15, seed=2), wrong)  # which are not those of its last epoch
    found = comparison.compare()
    (verdict,) = contents_of(found).verdicts.to_dict("records")
    assert "95 % interval by writer" not in verdict
    part = contents_of(found).writers
    assert part is not None
    assert part.table["seeds"].tolist() == ["1 of 2"]
    assert part.table["95 % interval by writer"].tolist() == ["–"]
    text = card(found, found.verdicts[0])
    assert "Of 1 of 2 seeds, " in text
    assert "interval of the final accuracy" not in text
    hold(record_run(6, [60] * 15, seed=2), wrong)
    (verdict,) = contents_of(comparison.compare()).verdicts.to_dict("records")
    assert verdict["95 % interval by writer"] == "99.23 to 99.57 %"


@pytest.mark.usefixtures("store")
def test_a_run_without_a_last_score_has_no_errors_by_writer() -> None:
    run_id = record_run(6, [60] * 15)
    hold(run_id, np.arange(60))
    again = {names.errors("test"): 50, names.accuracy("test"): 0.995}  # of the last epoch
    tracking.RunWriter(run_id, "1", 0).log_metrics(again, 15, time.time())
    assert math.isnan(comparison.compare().counting["final_accuracy"].item())
    assert writers_errors(comparison.compare()) == {}


@pytest.mark.usefixtures("store")
def test_a_table_that_cannot_be_read_is_that_of_its_run() -> None:
    hold(record_run(6, [60] * 15, seed=1), np.arange(60))
    broken = record_run(6, [60] * 15, seed=2)
    hold(broken, np.arange(20_000, 20_060))
    with pytest.raises(ExpectedError, match=broken):
        writers_errors(comparison.compare())


@pytest.mark.usefixtures("store")
def test_where_none_holds_them_nothing_is_said(tmp_path: Path) -> None:
    record_run(6, split="validation")
    record_run(6)
    assert writers_errors(comparison.compare()) == {}
    assert writers_errors(comparison.compare(split="validation")) == {}
    page = write_page(comparison.compare(), tmp_path / "report.html")
    assert "by writer" not in page.read_text()
