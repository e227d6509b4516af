"""Whether the engines are as accurate as each other, over whole runs of the same seeds.

`python -m benchmarks.agreement` trains what the table of runs lacks, which takes hours, and can be
interrupted: the same command goes on. With `published` it first enters the published runs by torch
of the same code and seeds: they speak for torch as well, though on another processor the same seed
gives other numbers. `make bench` compares what is there.
"""

import csv
import dataclasses
import multiprocessing
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from benchmarks.section import Section
from mnist_exp import ROOT, data
from mnist_exp.common.words import counted
from mnist_exp.notebook import loading
from mnist_exp.runs import checkout

FILE = Path(__file__).with_name("agreement_of_engines.csv")
RESULTS = ROOT / "experiments" / "results"
COLUMNS = ("model", "seed", "engine", "final", "worst_of_last_5", "seconds", "commit")
"""Accuracies are fractions of the test digits; `commit` is that of the code."""
MODELS = {6: range(1, 11), 14: range(101, 111), 21: range(101, 111)}
"""The models, and their seeds."""
ENGINES = ("compiled", "torch")
LAST = 5
MARGIN = 0.05
"""Points that the mean difference may be away from zero, with its whole interval."""

Run = tuple[int, int, str]
"""Model, seed and engine."""


def measure() -> Section:
    """The difference of the final accuracies, seed by seed."""
    runs = recorded()
    rows, missed = [], []
    for number, seeds in MODELS.items():
        own = runs[(runs["model"] == number) & runs["seed"].isin(seeds)]
        final = 100 * own.pivot_table(values="final", index="seed", columns="engine")
        pairs = final.reindex(columns=ENGINES).dropna()
        if len(pairs) < len(seeds):
            missed.append(f"of model {number}, {counted(len(pairs), 'seed')} of {len(seeds)} ran")
        if len(pairs) < 2:
            continue
        mean, low, high = interval(pairs["compiled"] - pairs["torch"])
        rows.append(
            {
                "model": str(number),
                "seeds": str(len(pairs)),
                **{engine: f"{pairs[engine].mean():.3f} %" for engine in ENGINES},
                "difference": f"{mean:+.3f} ({low:+.3f} to {high:+.3f})",
            }
        )
        if max(-low, high) > MARGIN:
            missed.append(f"model {number} may differ by {max(-low, high):.3f} points")
    text = f"""\
The mean test accuracy after the last epoch of whole runs with the kernels and with ENGINE=torch,
and the mean of the differences seed by seed, in points (95 % interval, t). The runs are in
[{FILE.name}]({FILE.name}).

Goal: intervals within {MARGIN} points of zero, on ten seeds each."""
    return Section("The same accuracy", text, [pd.DataFrame(rows)] if rows else [], missed)


def interval(differences: pd.Series) -> tuple[float, float, float]:
    """The mean, and where it lies with 95 % confidence."""
    if np.ptp(differences) == 0:
        return (float(differences.mean()),) * 3
    found = stats.ttest_1samp(differences, 0).confidence_interval()
    return float(differences.mean()), float(found.low), float(found.high)


def recorded() -> pd.DataFrame:
    """The runs so far."""
    return pd.read_csv(FILE) if FILE.exists() else pd.DataFrame(columns=list(COLUMNS))


def missing() -> list[Run]:
    """The runs that the table lacks, those of a seed side by side."""
    there = set(recorded()[["model", "seed", "engine"]].itertuples(index=False, name=None))
    wanted = [
        (model, seed, engine)
        for model, seeds in MODELS.items() for seed in seeds for engine in ENGINES
    ]  # fmt: skip
    return [run for run in wanted if run not in there]


def train_missing(runs: Iterable[Run], workers: int = 2) -> None:
    """Train runs, on a thread each, and enter each at its end."""
    commit = (checkout.commit() or "unknown")[:10]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as processes:
        for found in processes.map(train, runs):
            enter(found | {"commit": commit})


def enter(row: dict[str, Any]) -> None:
    """Add a run to the table."""
    is_new = not FILE.exists()
    with FILE.open("a", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            table.writeheader()
        table.writerow(row)
    print(row, flush=True)


def published(wanted: Iterable[Run]) -> Iterator[dict[str, Any]]:
    """The rows of those of the runs that were published, computed by torch."""
    runs = pd.read_csv(RESULTS / "runs.csv", low_memory=False)
    epochs = pd.read_csv(RESULTS / "history.csv").groupby("run_id")
    runs = runs[(runs["params.split"] == "test") & (runs["tags.overrides"] == "none")]
    if "params.engine" in runs:
        runs = runs[runs["params.engine"].fillna("torch") == "torch"]
    for model, seed, engine in wanted:
        code = loading.load_iteration(model).code_sha256
        own = runs[(runs["tags.code_sha256"] == code) & (runs["params.seed"] == seed)]
        if engine == "torch" and len(own):
            newest = own.sort_values("start_time").iloc[-1]
            history = epochs.get_group(newest["run_id"]).sort_values("epoch")
            yield {
                "model": model, "seed": seed, "engine": engine,
                "final": history["test_accuracy"].iloc[-1],
                "worst_of_last_5": history["test_accuracy"].iloc[-LAST:].min(),
                "seconds": round(history["epoch_seconds"].sum(), 1),
                "commit": newest["tags.git_commit"][:10],
            }  # fmt: skip


def train(run: Run, epochs: int | None = None, digits: int = 60_000) -> dict[str, Any]:
    """A row of the table: a whole run, or one of fewer epochs or digits."""
    from mnist_exp.training.loop import Training  # which changes how memory is kept

    model, seed, engine = run
    own = loading.load_iteration(model).recipe
    own = dataclasses.replace(own, epochs=epochs or own.epochs)
    train, test = data.load()
    device: Any = {"device": torch.device("cpu"), "engine": engine}
    results = list(Training(own, train[:digits], test, seed=seed, **device).epochs())
    accuracies = [result.evaluation.accuracy for result in results]
    return {
        "model": model, "seed": seed, "engine": engine, "final": accuracies[-1],
        "worst_of_last_5": min(accuracies[-LAST:]),
        "seconds": round(sum(result.seconds for result in results), 1),
    }  # fmt: skip


if __name__ == "__main__":
    if "published" in sys.argv[1:]:
        for row in published(missing()):
            enter(row)
    train_missing(missing())
