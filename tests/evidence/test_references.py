"""Figures of others, beside a store made by hand."""

import pandas as pd
import pytest
from handmade import record_run

from mnist_exp.evidence import comparison, references

pytestmark = pytest.mark.usefixtures("store")


def test_figures_of_the_course_stand_beside_the_measured_range() -> None:
    record_run(6, seed=1, errors=[500] * 10 + [70, 60, 60, 60, 60])
    record_run(6, seed=2, errors=[500] * 10 + [59, 55, 60, 60, 60])
    table = references.course_figures(comparison.compare()).set_index("quantity")
    assert table["seeds"].tolist() == [2, 2, 2]
    # Of the course's log of model 6: best train 98.93, best test 99.45, worst of the last 99.41.
    assert table["course"].to_dict() == {
        "best train": 0.9893, "best test": 0.9945, "worst of last 5": 0.9941,
    }  # fmt: skip
    assert table.loc["best test", ["low", "high"]].tolist() == [0.994, 0.9945]
    assert table.loc["worst of last 5", ["low", "high"]].tolist() == [0.993, 0.994]
    assert table["inside"].to_dict() == {
        "best train": False, "best test": True, "worst of last 5": False,
    }  # fmt: skip


def test_the_log_of_the_course_is_whole() -> None:
    table = pd.read_csv(references.COURSE_FIGURES, comment="#")
    assert table.groupby("model")["epoch"].apply(list).tolist() == [list(range(1, 16))] * 6
    last = table[(table["model"] == 6) & (table["epoch"] > 10)]["test_accuracy"]
    assert last.tolist() == [99.43, 99.42, 99.41, 99.42, 99.45]
