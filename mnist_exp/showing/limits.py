"""Between which accuracies a figure is drawn: limits that come from what was reached."""

from collections.abc import Iterable

import pandas as pd

FURTHEST = 0.1
"""A figure of curves does not reach further below the best, as a fraction: a training that failed
would flatten the rest."""
REACH = 0.003
"""How far below the bar, as a fraction, an accuracy is near it."""


def near(accuracies: Iterable[float], bar: float | None, reach: float = REACH) -> list[float]:
    """Those not further than `reach` below the bar or, if none is or there is no bar, below the
    best."""
    known = [accuracy for accuracy in accuracies if accuracy == accuracy]
    from_bar = [accuracy for accuracy in known if bar is not None and accuracy >= bar - reach]
    return from_bar or [accuracy for accuracy in known if accuracy >= max(known) - reach]


def around(accuracies: Iterable[float], bar: float | None) -> tuple[float, float]:
    """The lowest and the highest of some accuracies, with some room; with the bar between them,
    unless it is so far above that the rest would be flat."""
    low, high = min(shown := list(accuracies)), max(shown)
    spread = max(high - low, 0.001)
    if bar is not None and low - spread <= bar <= high + spread:
        low, high = min(low, bar), max(high, bar)
    return low - 0.12 * spread, min(1.0, high + 0.12 * spread)


def of_curves(history: pd.DataFrame, accuracy: str, bar: float | None) -> tuple[float, float]:
    """Around the bar or, where they are lower, around the accuracies of the second half of the
    trainings: `history` has a row per run and `epoch`, at least one with an `accuracy`."""
    scored = history.dropna(subset=accuracy)
    settled = scored.loc[scored["epoch"] > scored["epoch"].max() / 2, accuracy]
    return around(near(settled, None, FURTHEST), bar)
