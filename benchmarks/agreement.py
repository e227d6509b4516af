"""Whether what is faster is as accurate: real runs here and in the stock pipeline."""

import dataclasses
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pandas as pd
import torch
from scipy import stats

from benchmarks.section import Section
from benchmarks.stock import Stock
from mnist_exp import data
from mnist_exp.notebook import loading

MODEL = 6
"""It has dropout, rotation, batch normalisation and a schedule."""
SEEDS = 20
EPOCHS = 3
MARGIN = 0.1
"""Points that the means may differ by: about what inexact sums in batch normalisation cost."""


def measure() -> Section:
    """The test accuracies of runs of both kinds, on as many seeds, two at once."""
    with ProcessPoolExecutor(2, get_context("spawn"), one_thread) as processes:
        seeds = range(1, 1 + SEEDS)
        both = [processes.map(train, seeds) for train in (here, in_stock)]
        own, stock = ([100 * accuracy for accuracy in each] for each in both)
    series = pd.DataFrame({"here": own, "stock": stock})
    welch = stats.ttest_ind(own, stock, equal_var=False)
    interval = welch.confidence_interval()
    p = stats.mannwhitneyu(own, stock).pvalue
    table = series.agg(["mean", "std", "min", "max"]).map("{:.3f} %".format)
    text = f"""\
Test accuracy of model {MODEL} after {EPOCHS} epochs on {SEEDS} seeds, here and in the stock
pipeline with torch's own dropout and PIL's rotation. The means differ by
{series["here"].mean() - series["stock"].mean():+.3f} points (95 % interval {interval.low:+.3f} to
{interval.high:+.3f}, Welch); the Mann-Whitney test gives p = {p:.2f}.

Goal: an interval within {MARGIN} points of zero. That says nothing of runs to their end."""
    widest = max(-interval.low, interval.high)
    missed = [] if widest <= MARGIN else [f"the means may differ by {widest:.3f} points"]
    return Section("The same accuracy", text, [table.rename_axis("").reset_index()], missed)


def one_thread() -> None:
    """Prepare a process that has a neighbour."""
    torch.set_num_threads(1)


def here(seed: int, digits: int = 60_000, epochs: int = EPOCHS) -> float:
    """The test accuracy (a fraction) of a run of this project on randomly chosen digits."""
    from mnist_exp.training.loop import Training

    train, test = data.load()
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:digits]
    own = dataclasses.replace(loading.load_iteration(MODEL).recipe, epochs=epochs)
    *_, last = Training(own, train[chosen], test, seed=seed, device=torch.device("cpu")).epochs()
    return last.evaluation.accuracy


def in_stock(seed: int, batches: int | None = None, epochs: int = EPOCHS) -> float:
    """The same, through the stock pipeline."""
    pipeline = Stock(loading.load_iteration(MODEL).recipe, workers=0, seed=seed)
    for _ in range(epochs):
        pipeline.epoch(batches)
    return pipeline.evaluate() / 10_000
