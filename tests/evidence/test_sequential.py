"""The test of the rate at which seeds pass, which may be looked at after each seed."""

from functools import cache

import numpy as np
import pytest

from mnist_exp.evidence.sequential import PassRate, Settled, clean_row
from mnist_exp.evidence.verdict import pass_rate_interval

LONGEST = 250


@cache
def answers(rate: float) -> dict[tuple[int, int], Settled]:
    """By how many seeds passed and failed."""
    return {
        (passed, n - passed): PassRate(rate, passed, n - passed).answer
        for n in range(1, LONGEST + 1) for passed in range(n + 1)
    }  # fmt: skip


def ever(wrong: Settled, rate: float) -> float:
    """How often a sweep that may stop after each seed says `wrong`, where seeds pass at `rate`:
    worked out from the chances of each count, of those that have not said so before."""
    said = answers(rate)
    chance = {(0, 0): 1.0}
    stopped = 0.0
    for _ in range(LONGEST):
        later: dict[tuple[int, int], float] = {}
        for (passed, failed), own in chance.items():
            for counts, part in (((passed + 1, failed), rate), ((passed, failed + 1), 1 - rate)):
                if said[counts] is wrong:
                    stopped += own * part
                else:
                    later[counts] = later.get(counts, 0.0) + own * part
        chance = later
    return stopped


@pytest.mark.parametrize("rate", [0.5, 0.74, 0.9, 0.95])
def test_who_stops_when_he_pleases_is_wrong_in_one_of_twenty_at_most(rate: float) -> None:
    assert 0.03 < ever(Settled.PASSED, rate) <= 0.05
    assert 0.005 < ever(Settled.FAILED, rate) <= 0.05


def test_so_it_is_in_ten_thousand_sweeps() -> None:
    rate, said = 0.9, answers(0.9)
    passed = (np.random.default_rng(1).random((10_000, LONGEST)) < rate).cumsum(axis=1)
    ever_passed = sum(
        any(said[int(p), n - int(p)] is Settled.PASSED for n, p in enumerate(row, start=1))
        for row in passed
    )
    # The chance is worked out above; of 10,000, it is met to one in a hundred sweeps or so.
    assert ever_passed / 10_000 == pytest.approx(ever(Settled.PASSED, rate), abs=0.007)


@pytest.mark.parametrize(("rate", "row"), [(0.74, 10), (0.9, 29), (0.95, 59)])
def test_a_clean_row_costs_no_more_than_the_exact_bound(rate: float, row: int) -> None:
    # One-sided: the lower end of a two-sided interval of 90 %, which is 5 % ** (1 / row).
    assert 0.05 ** (1 / row) >= rate > 0.05 ** (1 / (row - 1))
    assert clean_row(rate) == row
    assert PassRate(rate, row, 0).answer is Settled.PASSED
    assert PassRate(rate, row - 1, 0).answer is Settled.GO_ON
    assert [PassRate(rate, n, 0).further for n in (0, row - 3, row)] == [row, 3, 0]
    assert pass_rate_interval(row, row)[0] < rate  # which allows for both sides


def test_a_seed_that_fails_asks_for_more_and_does_not_end_it() -> None:
    one = PassRate(0.9, 29, 1)
    assert one.answer is Settled.GO_ON
    further = one.further
    assert further is not None
    assert further > 29
    assert PassRate(0.9, 29 + further, 1).answer is Settled.PASSED
    assert PassRate(0.9, 28 + further, 1).answer is Settled.GO_ON


def test_few_that_pass_settle_that_it_failed() -> None:
    assert PassRate(0.9, 5, 5).answer is Settled.FAILED
    assert PassRate(0.9, 8, 2).answer is Settled.GO_ON
    assert PassRate(0.5, 5, 5).answer is Settled.GO_ON
    assert PassRate(0.9, 0, 0).answer is Settled.GO_ON


def test_counts_of_any_size_are_judged() -> None:
    assert PassRate(0.5, 100_000, 1_000).answer is Settled.PASSED
    assert PassRate(0.999, 1_000, 100_000).answer is Settled.FAILED
    assert PassRate(0.9999, 0, 0).further is None
