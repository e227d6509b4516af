"""Which step made a difference?"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mnist_exp.common.words import counted, points

FEWEST_PAIRS = 3
"""With fewer seeds in common, no interval is given for the difference of two iterations."""


@dataclass(frozen=True)
class Effect:
    """How much an accuracy of an iteration differs from that of another (fractions), paired by
    seed: the mean over the seeds they share, with a 95 % interval (None where there are too few to
    tell)."""

    model: int
    baseline: int
    seeds: tuple[int, ...]
    mean: float
    interval: tuple[float, float] | None

    @property
    def worse(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.interval is not None and self.interval[1] < 0

    @property
    def better(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.interval is not None and self.interval[0] > 0

    def __str__(self) -> str:
        pairs = counted(len(self.seeds), "pair")
        if not self.seeds:
            return "not enough seeds to tell (0 pairs)"
        mean = points(self.mean)
        if self.interval is None:
            return f"not enough seeds to tell ({pairs}, mean {mean})"
        low, high = map(points, self.interval)
        return f"{mean} points, 95 % interval {low} to {high} ({pairs})"


def effect(
    runs: pd.DataFrame, model: int, baseline: int, by: str = "model", on: str = "final_accuracy"
) -> Effect:
    """The effect of `model` against `baseline` on one of the `scores` of runs that count: one run
    of each and seed. They may be told apart by another column of whole numbers than the iteration.

    The interval is a bootstrap of the mean of the paired differences (percentiles of 9,999
    resamples, always the same ones). With few pairs it is too narrow: of three it is the range of
    the differences, which holds the true mean in about three of four cases.
    """
    found = runs.pivot(index="seed", columns=by, values=on)
    pairs = found.reindex(columns=[model, baseline]).dropna()
    differences = (pairs[model] - pairs[baseline]).to_numpy()
    interval = None
    if len(differences) >= FEWEST_PAIRS:
        from scipy import stats  # half a second, which most commands need not wait for

        bounds = stats.bootstrap(
            (differences,), np.mean, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        # Rounded, since a difference of none may come out as -1e-17, which is not worse.
        interval = round(float(bounds.low), 9), round(float(bounds.high), 9)
    mean = float(differences.mean()) if len(differences) else float("nan")
    return Effect(model, baseline, tuple(pairs.index), mean, interval)
