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

MODELS = (4, 6)
SEEDS = 1
EPOCHS = 5
ROUNDS = 5
WORKERS = 0
"""Of stock, for which none is faster on two cores."""
GOAL = 6.0


def measure() -> Section:
    """Both in turns."""
    swept, stocked = [], []
    for _ in range(ROUNDS):
        swept.append(sweep())
        stocked.append(stock())
    runs = len(MODELS) * SEEDS
    times = statistics.median(ratios(stocked, swept))
    row = {
        "sweep": f"{runs * 3600 / statistics.median(swept):.0f} runs per hour",
        "stock, one at a time": f"{runs * 3600 / statistics.median(stocked):.0f} runs per hour",
        "times as many": ratio(stocked, swept),
    }
    models = " and ".join(map(str, MODELS))
    text = f"""\
Models {models}, {counted(SEEDS, "seed")} each, {EPOCHS} epochs a run, {ROUNDS} rounds in turns. The
sweep trains on a worker per core with one thread each, and records each run in a store; the stock
pipeline takes all cores for one run after the other, each in a process of its own, and records
nothing.

Goal: {GOAL:g} times as many."""
    missed = [] if times >= GOAL else [f"{times:.2f} times as many, not {GOAL:g}"]
    return Section("Runs per hour", text, [pd.DataFrame([row])], missed)


def sweep() -> float:
    """Seconds of a sweep on an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        tracking.open_store()
        options = [f"MODELS={' '.join(map(str, MODELS))}", f"SEEDS={SEEDS}"]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "mnist_exp", "sweep", *options, f"EPOCHS={EPOCHS}"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return time.perf_counter() - start


def stock() -> float:
    """Seconds of the same runs, one after the other."""
    start = time.perf_counter()
    for number in MODELS:
        for seed in range(1, 1 + SEEDS):
            with in_process(ENVIRONMENT) as process:
                process.submit(train, number, seed).result()
    return time.perf_counter() - start


def train(number: int, seed: int) -> None:
    """A run through the stock pipeline."""
    pipeline = Stock(loading.load_iteration(number).recipe, workers=WORKERS, seed=seed)
    for _ in range(EPOCHS):
        pipeline.epoch()
