"""The part of a report that tells hard digits from luck: what all seeds get wrong together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mnist_exp.common.words import counted
from mnist_exp.evidence import hard_digits, mistakes
from mnist_exp.evidence.comparison import Comparison
from mnist_exp.evidence.hard_digits import HardDigits
from mnist_exp.reporting.networks import as_a_run_writes_it, digit_address

MOST = 40
"""Digits that are shown; with many seeds, hundreds are wrong once."""


@dataclass(frozen=True)
class HardDigit:
    """A digit that some of the seeds get wrong."""

    index: int
    truth: int
    guess: int
    seeds: int
    image: str
    """As an address that holds it all."""


@dataclass(frozen=True)
class HardPart:
    """What all seeds of an iteration get wrong together."""

    what: str
    """How much that is, in sentences."""
    seeds: int
    spread: pd.DataFrame
    """Texts: how many digits each number of seeds gets wrong, and how many would be by luck."""
    digits: tuple[HardDigit, ...]
    """The hardest first."""
    left_out: str
    """What is not among them; empty where nothing is."""
    counts: pd.DataFrame
    """10 x 10: how often all seeds took each digit for which."""


def hard_digits_of(
    comparison: Comparison, labels: Mapping[int, str], model: int | None = None
) -> HardPart | None:
    """What the seeds of an iteration, by default that of the best run, get wrong together; None
    when fewer than two of its runs that count hold their mistakes."""
    if model is None:
        best = comparison.best_run()
        if best is None:
            return None
        model = int(best["model"])
    found = held_together(comparison, model)
    return _part(found, labels[model], comparison.split) if found and found.seeds > 1 else None


def held_together(comparison: Comparison, model: int) -> HardDigits | None:
    """What those runs of an iteration that count and hold their mistakes get wrong together; None
    where none does."""
    runs = comparison.counting[comparison.counting["model"] == model]
    found, run_id = [], ""
    for run_id in runs["run_id"]:
        with as_a_run_writes_it(run_id):
            found.append(mistakes.mistakes_of(run_id))
    held = [wrong for wrong in found if wrong is not None]
    with as_a_run_writes_it(run_id):  # of any of them, which are not of the same digits
        return hard_digits.together(held) if held else None


def _part(found: HardDigits, name: str, split: str) -> HardPart:
    wrong, always = len(found.digits), int(found.spread["digits"].iloc[-1])
    lucky = found.spread["by_luck"].iloc[-1]
    what = (
        f"{name[:1].upper()}{name[1:]}: {counted(wrong, f'{split} digit')} "
        f"{'is' if wrong == 1 else 'are'} wrong for at least one of {found.seeds} seeds, and "
        f"{always:,} for all of them, of which luck would explain {lucky:.1f}. "
        f"Their accuracies scatter by {100 * found.scatter:.3f} points; by luck alone, each digit "
        f"being wrong as often as it is, they would by {100 * found.lucky_scatter:.3f}."
    )
    rows: Any = found.digits.head(MOST).rename(columns={"index": "place"}).itertuples()
    return HardPart(
        what,
        found.seeds,
        pd.DataFrame(
            {
                "seeds that get it wrong": found.spread["seeds"].map(str),
                "digits": found.spread["digits"].map("{:,}".format),
                "by luck": found.spread["by_luck"].map("{:,.1f}".format),
            }
        ),
        tuple(
            HardDigit(row.place, row.truth, row.guess, row.seeds, digit_address(image))
            for row, image in zip(rows, found.images[:MOST], strict=True)
        ),
        f"And {wrong - MOST:,} more, which fewer seeds get wrong." if wrong > MOST else "",
        found.counts,
    )
