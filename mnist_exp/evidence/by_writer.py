"""Whose digits are wrong, and how sure an accuracy is where writers are counted, not digits.

The digits of a writer are alike: who writes a 4 as others do a 9 does so again. So 10,000 digits
tell less than 10,000 questions would that have nothing to do with each other. Errors are clustered
by writer, as in Miller, "Adding error bars to evals" (2024, arXiv 2411.00640).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnist_exp import tracking
from mnist_exp.data.writers import Writers, writers
from mnist_exp.tracking.names import Table

NORMAL = 1.96
"""Standard errors to either side in which 95 % of a normal distribution lie."""
SERIES: Mapping[int, str] = {0: "employees", 4: "students"}
"""Who wrote: employees of the census bureau, and students of a high school."""


@dataclass(frozen=True)
class ErrorsByWriter:
    """What the seeds of an iteration get wrong after their last epochs, by who wrote it."""

    seeds: int
    accuracy: float
    """A fraction: the mean over the seeds."""
    standard_error: float
    """Of the accuracy, as one over such writers: clustered by writer."""
    of_digits: float
    """What it would be if the digits of a writer were no more alike than those of others."""
    writers: pd.DataFrame
    """One row per writer, those with the most errors first: `writer`, the number in NIST's
    database; `series`; how many `digits` are of that writer; and how many of them are `wrong`, the
    mean over the seeds."""

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95 %, for the accuracy on digits of such writers."""
        half = NORMAL * self.standard_error
        return self.accuracy - half, self.accuracy + half

    def rate(self, series: int) -> float:
        """Which part of the digits of a series is wrong; NaN where there are none."""
        own = self.writers[self.writers["series"] == series]
        return float(own["wrong"].sum() / own["digits"].sum()) if len(own) else math.nan


def errors_by_writer(wrong: NDArray[np.float64], of: Writers, seeds: int) -> ErrorsByWriter:
    """The errors of so many seeds; `wrong` is the part of them that gets each digit wrong, (N,),
    and `of` says who wrote it."""
    table = pd.DataFrame({"writer": of.number, "series": of.series, "wrong": wrong})
    count, rate = len(table), float(wrong.mean())
    table["residual"] = table["wrong"] - rate
    by_writer = table.groupby("writer")
    # The residuals of a writer are added before they are squared: whether they go together counts.
    clustered = math.sqrt(float((by_writer["residual"].sum() ** 2).sum())) / count
    alone = math.sqrt(float((table["residual"] ** 2).sum())) / count
    rows = by_writer.agg(
        series=("series", "first"), digits=("wrong", "size"), wrong=("wrong", "sum")
    )
    rows = rows.sort_values(["wrong", "digits"], ascending=[False, True], kind="stable")
    return ErrorsByWriter(seeds, 1 - rate, clustered, alone, rows.reset_index())


def errors_of_seeds(wrong: Sequence[NDArray[np.float64]]) -> ErrorsByWriter | None:
    """The errors of seeds, each as `wrong_digits` gives them; None of none."""
    if not wrong:
        return None
    return errors_by_writer(np.mean(wrong, axis=0), writers("test"), len(wrong))


def wrong_digits(run: pd.Series) -> NDArray[np.float64] | None:
    """1 for each test digit that a run gets wrong after its last epoch, and 0 for the others; None
    where it does not hold them, or others.

    `run` has `run_id`, `evaluation_images` and `final_accuracy`. Raises KeyError, IndexError,
    TypeError or ValueError where someone has changed what it holds.
    """
    count = len(writers("test").number)
    if run["evaluation_images"] != count or math.isnan(run["final_accuracy"]):
        return None
    table = tracking.table(run["run_id"], Table.MISCLASSIFIED)
    if table is None or len(table) != round((1 - run["final_accuracy"]) * count):
        return None
    wrong = np.zeros(count)
    wrong[table["index"].to_numpy(dtype=np.int64)] = 1
    return wrong
