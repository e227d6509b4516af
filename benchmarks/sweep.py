"""Runs per hour: a sweep, and the same runs through the stock pipeline one after the other."""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import pandas as pd

from benchmarks.measure import in_process, ratio, ratios
from benchmarks.section import Section
from benchmarks.stock import ENVIRONMENT, Stock
from mnist_exp import tracking
from mnist_exp.common.words import counted
from mnist_exp.notebook import loading

MODEL = 6
SEEDS = 2
ROUNDS = 3
WORKERS = 0
"""Of stock, for which none is faster on two cores."""
GOAL = 6.0


def measure() -> Section:
    """Both in turns."""
    swept, stocked = [], []
    for _ in range(ROUNDS):
        swept.append(sweep())
        stocked.append(stock())
    times = statistics.median(ratios(stocked, swept))
    row = {
        "sweep": f"{SEEDS * 3600 / statistics.median(swept):.0f} runs per hour",
        "stock, one at a time": f"{SEEDS * 3600 / statistics.median(stocked):.0f} runs per hour",
        "times as many": ratio(stocked, swept),
    }
    text = f"""\
Whole runs of model {MODEL}, of {counted(SEEDS, "seed")}, {ROUNDS} rounds in turns. The sweep
trains on a worker per core with one thread each, and records each run in a store; the stock
pipeline takes all cores for one run after the other, each in a process of its own, and records
nothing: one is timed, and counted {SEEDS} times.

Goal: {GOAL:g} times as many."""
    missed = [] if times >= GOAL else [f"{times:.2f} times as many, not {GOAL:g}"]
    return Section("Runs per hour", text, [pd.DataFrame([row])], missed)


def sweep() -> float:
    """Seconds of a sweep on an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        tracking.open_store()
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "mnist_exp", "sweep", f"MODELS={MODEL}", f"SEEDS={SEEDS}"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return time.perf_counter() - start


def stock() -> float:
    """Seconds of as many runs, one after the other."""
    start = time.perf_counter()
    with in_process(ENVIRONMENT) as process:
        process.submit(train).result()
    return SEEDS * (time.perf_counter() - start)


def train() -> None:
    """A run through the stock pipeline."""
    recipe = loading.load_iteration(MODEL).recipe
    pipeline = Stock(recipe, workers=WORKERS)
    for _ in range(recipe.epochs):
        pipeline.epoch()
