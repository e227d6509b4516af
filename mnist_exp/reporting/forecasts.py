"""The part of a report that scores forecasts: what iterations foretold, and what came."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from mnist_exp.common.words import counted, percent
from mnist_exp.evidence.comparison import Comparison
from mnist_exp.evidence.forecasts import Foretold
from mnist_exp.evidence.verdict import pass_rate_interval


@dataclass(frozen=True)
class ForecastPart:
    """What iterations foretold, and what came of it."""

    what: str
    """How many came, and how often intervals held, in sentences."""
    table: pd.DataFrame
    """Texts, one row per forecast."""
    unread: tuple[str, ...]
    """What looks like a forecast and cannot be read, in sentences."""


def forecasts_of(comparison: Comparison, labels: Mapping[int, str]) -> ForecastPart | None:
    """None where nobody foretold anything in numbers."""
    told = comparison.forecasts
    if not told:
        return None
    unread = [
        f"{labels[number][:1].upper()}{labels[number][1:]}: {sentence}."
        for number, sentences in told.unread.items()
        for sentence in sentences
    ]
    rows = [
        {
            "model": labels[one.model].removeprefix("model "),
            "forecast": one.forecast.text,
            "measured": "–" if one.measured is None else percent(one.measured),
            "came": _came(one),
        }
        for one in told.scored
    ]
    return ForecastPart(_what(told.scored), pd.DataFrame(rows), tuple(unread))


def _came(one: Foretold) -> str:
    if one.told_late:
        return "not scored: it was told after the first run"
    return {True: "hit", False: "missed", None: "open"}[one.came]


def _what(scored: Sequence[Foretold]) -> str:
    closed = [one for one in scored if one.came is not None]
    if not closed:
        return "No forecast can be scored yet."
    sentences = [f"{sum(map(_is_hit, closed))} of {counted(len(closed), 'forecast')} came."]
    for level in sorted({one.forecast.level for one in closed if one.forecast.level}):
        own = [one for one in closed if one.forecast.level == level]
        hits = sum(map(_is_hit, own))
        low, high = (100 * bound for bound in pass_rate_interval(hits, len(own)))
        sentences.append(
            f"Intervals of {100 * level:.0f} % held in {hits} of {counted(len(own), 'case')}: "
            f"such intervals hold in {low:.0f} to {high:.0f} % (exact, 95 %)."
        )
    return " ".join(sentences)


def _is_hit(one: Foretold) -> bool:
    return one.came is True
