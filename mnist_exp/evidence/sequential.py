"""At what rate do seeds pass? A test that may be looked at after each seed.

Whoever adds seeds until an interval looks right fools himself: that interval holds for a number of
seeds that was settled beforehand. Here the evidence against a rate is a bet on each seed that would
win nothing on average if seeds passed at that rate. So a fortune of 1 becomes 20 with a probability
of at most 1 in 20, whenever one stops: Ville's inequality, as in Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting" (2024).
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from scipy.special import betainc, betaln

ENOUGH = 20.0
"""The fortune from which on a rate is ruled out: wrongly in at most 1 of 20 sweeps."""
MOST = 1_000
"""Further seeds that are counted."""


class Settled(StrEnum):
    """What is known of a rate."""

    PASSED = "passed"
    FAILED = "failed"
    GO_ON = "go on"


@dataclass(frozen=True)
class PassRate:
    """Whether seeds pass at a `rate` (a fraction between 0 and 1, both excluded) or more often,
    after `passed` and `failed` of them."""

    rate: float
    passed: int
    failed: int

    @property
    def answer(self) -> Settled:
        if fortune_above(self.rate, self.passed, self.failed) >= ENOUGH:
            return Settled.PASSED
        below = _mixed(1 - self.rate, self.failed, self.passed)
        return Settled.FAILED if below >= math.log(ENOUGH) else Settled.GO_ON

    @property
    def further(self) -> int | None:
        """How many further seeds would settle that it passed, if all of them passed; None for
        more than MOST."""
        return next(
            (n for n in range(MOST) if fortune_above(self.rate, self.passed + n, self.failed)
             >= ENOUGH),
            None,
        )  # fmt: skip


def fortune_above(rate: float, passed: int, failed: int) -> float:
    """What a fortune of 1 became by bets that seeds pass more often than at `rate`.

    While none fails, all is bet on each: as few seeds are enough as for the exact bound, 29 for
    90 %. Such a bet loses all at the first that fails. But that bound is overshot, since there are
    only whole seeds, and as much as is not needed is kept for a bet that bears failures.
    """
    kept = 1 - ENOUGH * rate ** clean_row(rate)
    clean = 0.0 if failed else rate**-passed
    return (1 - kept) * clean + kept * math.exp(min(_mixed(rate, passed, failed), 700))


def clean_row(rate: float) -> int:
    """How many seeds rule out that they pass no more often than at `rate`, if none fails."""
    row = math.ceil(-math.log(ENOUGH) / math.log(rate))
    return row if rate**-row >= ENOUGH else row + 1  # as rounding may have it


def _mixed(rate: float, passed: int, failed: int) -> float:
    """The logarithm of what a fortune of 1 became by bets that the rate is above `rate`: the mean
    over all rates above it, each as likely as another, of how much more likely they make what was
    seen."""
    seen = (1 + passed, 1 + failed)
    return (
        float(betaln(*seen)) + _log_above(rate, *seen) - math.log1p(-rate)
        - passed * math.log(rate) - failed * math.log1p(-rate)
    )  # fmt: skip


def _log_above(rate: float, a: int, b: int) -> float:
    """The logarithm of the part of a beta distribution that is above `rate`."""
    part = float(betainc(b, a, 1 - rate))
    return math.log(part) if part > 0 else -math.inf
