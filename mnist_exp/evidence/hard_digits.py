"""Which digits all seeds of an iteration get wrong, and which only some: what is hard, and what is
luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binom

from mnist_exp.evidence.mistakes import Mistakes


@dataclass(frozen=True)
class HardDigits:
    """What several seeds of one iteration get wrong of the same digits, taken together."""

    seeds: int
    """How many runs this is of."""
    counts: pd.DataFrame
    """How often each digit (a row, `truth`) was taken for which (a column, `guess`) by all of them:
    10 x 10 whole numbers."""
    digits: pd.DataFrame
    """One row per digit that any gets wrong, the hardest first: its `index` in the evaluated
    digits, `truth`, how many `seeds` get it wrong, the most frequent wrong `guess`, and the mean
    `probability` that is given to wrong guesses (a fraction)."""
    images: np.ndarray
    """These digits, in the same order: uint8 (N, 28, 28)."""
    spread: pd.DataFrame
    """One row for each number of `seeds` from 1 to all: how many `digits` just so many get wrong,
    and how many would be `by_luck`, did each seed's mistakes fall on any digits alike."""
    scatter: float
    """The standard deviation of the accuracies of the seeds (a fraction); NaN for one."""
    lucky_scatter: float
    """What it would be if each digit were wrong by chance, at its own rate and independently of
    the others. A larger one is a difference between seeds. NaN for one seed."""


def together(found: Sequence[Mistakes]) -> HardDigits:
    """What these runs, one per seed, get wrong together.

    Raises ValueError where there is none, or where they were not evaluated on the same digits.
    """
    if not found:
        raise ValueError("there are no mistakes to take together")
    totals = [mistakes.counts.sum(axis=1) for mistakes in found]
    wrong = pd.concat([mistakes.misclassified for mistakes in found], ignore_index=True)
    by_digit = wrong.groupby("index")
    alike = all(total.equals(totals[0]) for total in totals)
    if not alike or (by_digit["truth"].nunique() > 1).any():
        raise ValueError("the mistakes are not of the same digits")
    digits = pd.DataFrame(
        {
            "truth": by_digit["truth"].first(),
            "seeds": by_digit.size(),
            "guess": by_digit["guess"].agg(lambda guesses: guesses.mode().iloc[0]),
            "probability": by_digit["probability"].mean(),
        }
    ).reset_index()
    digits = digits.sort_values(
        ["seeds", "probability"], ascending=False, kind="stable", ignore_index=True
    )
    images = np.concatenate([mistakes.images for mistakes in found])
    first = wrong.drop_duplicates("index").set_index("index").index
    place = dict(zip(first, np.flatnonzero(~wrong.duplicated("index")), strict=True))
    counts = sum((mistakes.counts for mistakes in found[1:]), found[0].counts)
    spread = _spread(digits["seeds"], len(found), len(wrong), int(totals[0].sum()))
    totals_wrong = np.array([len(mistakes.misclassified) for mistakes in found])
    return HardDigits(
        len(found), counts, digits, images[[place[index] for index in digits["index"]]], spread,
        *_scatter(totals_wrong, digits["seeds"].to_numpy(), int(totals[0].sum())),
    )  # fmt: skip


def _scatter(wrong: np.ndarray, seeds: np.ndarray, evaluated: int) -> tuple[float, float]:
    """The standard deviation of accuracies, of so many `wrong` digits in each run, and by chance,
    where each digit is wrong in so many of the `seeds`.

    The variance of a number of independent digits is the sum of their variances, which k of n seeds
    estimate without bias by k (n - k) / (n (n - 1)).
    """
    runs = len(wrong)
    if runs < 2:
        return float("nan"), float("nan")
    variance = (seeds * (runs - seeds)).sum() / (runs * (runs - 1))
    return float(wrong.std(ddof=1)) / evaluated, float(np.sqrt(variance)) / evaluated


def _spread(seeds: pd.Series, runs: int, wrong: int, evaluated: int) -> pd.DataFrame:
    """How many digits each number of seeds gets wrong. By luck it would be binomial: each of the
    `evaluated` digits is wrong in each of the runs with the mean rate of the `wrong` ones."""
    numbers = np.arange(1, runs + 1)
    found = seeds.value_counts().reindex(numbers, fill_value=0)
    by_luck = evaluated * binom.pmf(numbers, runs, wrong / (runs * evaluated))
    return pd.DataFrame({"seeds": numbers, "digits": found.to_numpy(), "by_luck": by_luck})
