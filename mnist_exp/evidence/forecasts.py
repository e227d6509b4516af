"""What iterations foretold of their scores in numbers, and whether it came so.

In the docstring of an iteration, after `Expect:`, a forecast reads as in "worst of the last five
99.38 % to 99.50 %" or "final 99.45 % to 99.55 %, an 80 % interval". The numbers are those of the
tables: the worst of the last epochs of all seeds, and the mean of their final accuracies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.evidence.verdict import Verdict
from mnist_exp.notebook import entries
from mnist_exp.notebook.entries import Entry

EXAMPLE = "worst of the last five 99.38 % to 99.50 %, an 80 % interval"
LOWEST = 0.5
"""Less than this, a fraction, is no accuracy that anybody foretells, but a difference."""
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PERCENT = r"(\d{1,3}(?:\.\d+)?)"
RANGE = rf"{PERCENT}\s*%?\s*(?:to|and|-|–)\s*{PERCENT}\s*%"
INTERVAL = r"(\d{1,2}) ?% interval"
FORECAST = re.compile(
    rf"\b(?:worst of the last (?P<last>\w+)(?: epochs)?|final(?: accuracy)?)"
    rf"(?:,|:)?(?: between| from)? {RANGE}(?:[,;]? \(?an? {INTERVAL}\)?)?",
    re.IGNORECASE,
)
HIGH = r"(?:9\d(?:\.\d+)?|100)"
SUSPECT = re.compile(
    rf"(?:[^\s.]\S* ){{0,6}}(?:{HIGH}\s*%?\s*(?:to|and|-|–)\s*{PERCENT}\s*%"
    rf"|{PERCENT}\s*%?\s*(?:to|and|-|–)\s*{HIGH}\s*%|an? {INTERVAL})"
    rf"|worst of (?:\S+ ){{1,6}}?{PERCENT} ?%",
    re.IGNORECASE,
)
"""What looks like a forecast, with the words before it: of an accuracy, which is high."""


@dataclass(frozen=True)
class Forecast:
    """That a figure lies from `low` to `high` (fractions, both included), with a chance of `level`
    (a fraction) or, where it is None, with no chance that it says."""

    text: str = field(compare=False)
    of_final: bool
    """Of the mean of the final accuracies; else of the worst of the last epochs."""
    low: float
    high: float
    level: float | None

    def measured(self, verdict: Verdict) -> float | None:
        """The figure that it is about, a fraction; None where there is none."""
        if self.of_final:
            return None if math.isnan(verdict.final_accuracy) else verdict.final_accuracy
        return verdict.worst.accuracy if verdict.worst else None

    def holds(self, measured: float) -> bool:
        return self.low - 1e-9 <= measured <= self.high + 1e-9


@dataclass(frozen=True)
class Foretold:
    """A forecast of an iteration, with what was `measured` (a fraction) of it; None where no run
    counts. It was `told_late` where the first of those runs does not have it."""

    model: int
    forecast: Forecast
    measured: float | None
    told_late: bool = False

    @property
    def came(self) -> bool | None:
        """Whether it came so; None as long as nobody can say."""
        if self.measured is None or self.told_late:
            return None
        return self.forecast.holds(self.measured)


def read_forecasts(text: str, last_epochs: int) -> tuple[tuple[Forecast, ...], tuple[str, ...]]:
    """The forecasts in a text, and what looks like one and cannot be read.

    `last_epochs` are those that the target looks at: there are no others to foretell the worst of.
    """
    forecasts: list[Forecast] = []
    unread: list[str] = []

    def take(match: re.Match[str]) -> str:
        last, low, high, level = match.groups()
        start, end = (round(float(bound) / 100, 8) for bound in (low, high))
        if max(start, end) < LOWEST:
            return match[0]
        numbers = (str(last_epochs), *WORDS[last_epochs - 1 : last_epochs])
        if (last and last.lower() not in numbers) or not 0 <= start < end <= 1:
            unread.append(match[0])
        else:
            chance = int(level) / 100 if level else None
            forecasts.append(Forecast(match[0], last is None, start, end, chance))
        return ". "

    rest = FORECAST.sub(take, text)
    unread += [match[0].lstrip(".,; ") for match in SUSPECT.finditer(rest)]
    return tuple(forecasts), tuple(unread)


def unread_forecasts(entry: Entry, last_epochs: int) -> tuple[str, ...]:
    """What looks like a forecast of an iteration and cannot be read, a sentence each without its
    full stop."""
    return tuple(
        f'no forecast is read from "{text}": it reads as in "{EXAMPLE}", or "final" in the place '
        "of the worst"
        for text in read_forecasts(entry.sections.get("Expect", ""), last_epochs)[1]
    )


@dataclass(frozen=True)
class Forecasts:
    """What iterations foretold."""

    scored: tuple[Foretold, ...] = ()
    unread: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """What `unread_forecasts` says of iterations."""

    def __bool__(self) -> bool:
        return bool(self.scored or self.unread)


def score_forecasts(
    iterations: Mapping[int, Entry], verdicts: Iterable[Verdict], first_runs: Mapping[int, str],
    last_epochs: int,
) -> Forecasts:  # fmt: skip
    """All forecasts of iterations, with what came of them; `first_runs` are the ids of the runs of
    each that began first of those that count."""
    judged = {verdict.model: verdict for verdict in verdicts}
    scored, unread = [], {}
    for number, entry in iterations.items():
        forecasts, _ = read_forecasts(entry.sections.get("Expect", ""), last_epochs)
        if sentences := unread_forecasts(entry, last_epochs):
            unread[number] = sentences
        verdict = judged.get(number)
        told = None
        if forecasts and verdict:
            told = _told_before(first_runs[number], number, last_epochs)
        for forecast in forecasts:
            measured = forecast.measured(verdict) if verdict else None
            late = told is not None and forecast not in told
            scored.append(Foretold(number, forecast, measured, late))
    return Forecasts(tuple(scored), unread)


def _told_before(run_id: str, number: int, last_epochs: int) -> tuple[Forecast, ...] | None:
    """The forecasts in the file of an iteration as a run kept it; None where it kept none."""
    kept = tracking.source(run_id, number)
    try:
        return (
            kept
            and read_forecasts(
                entries.parse(kept[0], number, helpers=kept[1]).sections["Expect"], last_epochs
            )[0]
        )
    except ExpectedError:  # of another program
        return None
