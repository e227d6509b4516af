"""When a sweep stops that asks after each seed how often they pass."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

from mnist_exp.evidence import sequential
from mnist_exp.evidence.sequential import PassRate, Settled
from mnist_exp.evidence.verdict import TARGET_MET
from mnist_exp.runs import stopping
from mnist_exp.runs.job import Job
from mnist_exp.runs.stopping import Stopping
from mnist_exp.runs.worker import JobResult


def ended(seed: int, *, passes: bool = True, model: int = 9, **how: object) -> JobResult:
    verdict = TARGET_MET if passes else "target not met"
    return JobResult(Job(model, seed, "test", None, ""), "a", 1, 0.995, verdict, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rate", "row"), [(0.74, 10), (0.9, 29), (0.95, 59)])
def test_where_all_pass_it_stops_with_the_exact_bound(rate: float, row: int) -> None:
    counted = Stopping(rate)
    for seed in range(1, row):
        counted.add(ended(seed))
    assert not counted.settled(9)
    counted.add(ended(row))
    assert counted.asked(9) == PassRate(rate, row, 0)
    assert counted.asked(9).answer is Settled.PASSED
    assert counted.settled(9)
    assert not counted.settled(10)  # another iteration of the same sweep


def test_where_many_fail_it_stops_sooner_and_what_was_not_trained_says_nothing() -> None:
    counted = Stopping(0.9, passed={9: 2}, failed={9: 2})
    for seed in (1, 2, 3):
        counted.add(ended(seed, passes=False, failure="its process was ended by signal 9"))
        counted.add(ended(seed, passes=False, spared=True))
    assert not counted.settled(9)
    counted.add(ended(4, passes=False))
    assert counted.asked(9).answer is Settled.FAILED


def sweep(rate: float, workers: int, rng: np.random.Generator) -> Iterator[Stopping]:
    """A sweep of 100 seeds that pass just so often, as it stands after each that ends: so many are
    trained at once, and any of them may be the first to end."""
    counted, waiting, under_way = Stopping(rate), list(range(100, 0, -1)), [0] * workers
    while under_way:
        seed = under_way.pop(rng.integers(len(under_way)))
        counted.add(ended(seed, passes=rng.random() < rate))
        if waiting and not counted.settled(9):
            under_way.append(waiting.pop())
        yield counted


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "workers"), [(0.74, 1), (0.9, 3)])
def test_of_ten_thousand_sweeps_one_in_twenty_passes_wrongly_at_most(
    rate: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for slow in ("fortune_above", "_mixed"):
        monkeypatch.setattr(sequential, slow, cache(getattr(sequential, slow)))
    monkeypatch.setattr(stopping, "PassRate", cache(PassRate))
    rng = np.random.default_rng(24)
    wrong = sum(
        any(counted.asked(9).answer is Settled.PASSED for counted in sweep(rate, workers, rng))
        for _ in range(10_000)
    )
    assert 0.03 < wrong / 10_000 <= 0.05
