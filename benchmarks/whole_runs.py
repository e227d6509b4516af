"""Whole runs that are compared with each other, and the table that keeps them.

Each is trained in a process of its own, on a thread, and entered at its end: where one is killed,
or all are, nothing else is lost.
"""

import csv
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import course
from mnist_exp import ROOT, data
from mnist_exp.notebook import loading
from mnist_exp.runs import checkout

FILE = Path(__file__).with_name("agreement_of_engines.csv")
RESULTS = ROOT / "experiments" / "results"
COLUMNS = ("model", "seed", "engine", "final", "worst_of_last_5", "seconds", "commit")
"""Accuracies are fractions of the test digits; `commit` is that of the code."""
LAST = 5
COURSE = "course"
"""The engine of a run by the course's own code, which is no engine of ours."""

Run = tuple[int, int, str]
"""Model, seed and engine."""


def recorded() -> pd.DataFrame:
    """The runs so far."""
    return pd.read_csv(FILE) if FILE.exists() else pd.DataFrame(columns=list(COLUMNS))


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
    """The rows of those of the runs that were published, computed by torch.

    They speak for torch as well, though on another processor the same seed gives other numbers."""
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


def train_all(
    runs: Iterable[Run], epochs: int | None = None, digits: int = 60_000, workers: int = 2
) -> None:
    """Train runs, so many at a time, and enter each; a line says which were lost."""
    commit = (checkout.commit() or "unknown")[:10]
    context = multiprocessing.get_context("spawn")
    waiting, running = list(runs), dict[Connection, Run]()
    while waiting or running:
        while waiting and len(running) < workers:
            receiver, sender = context.Pipe(duplex=False)
            run = waiting.pop(0)
            arguments = (sender, run, epochs, digits)
            context.Process(target=_in_process, args=arguments, daemon=True).start()
            sender.close()  # so that the end of the process is heard
            running[receiver] = run
        ready = wait(list(running))
        for receiver in [one for one in running if one in ready]:
            model, seed, engine = running.pop(receiver)
            try:
                enter(receiver.recv() | {"commit": commit})
            except EOFError:
                lost = f"model {model}, seed {seed}, {engine}: its process has ended without a row"
                print(f"{lost}; the same command trains it again", file=sys.stderr)


def _in_process(sender: Connection, *arguments: Any) -> None:
    """Train a run for the process that started this one, to which Ctrl-C is left, and not
    without it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    sender.send(train(*arguments))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def train(run: Run, epochs: int | None = None, digits: int = 60_000) -> dict[str, Any]:
    """A row of the table: a whole run, or one of fewer epochs or digits."""
    model, seed, engine = run
    start = time.perf_counter()
    if engine == COURSE:
        accuracies = list(course.accuracies(model, seed, epochs or course.EPOCHS, digits))
    else:
        accuracies = list(_our_accuracies(run, epochs, digits))
    return {
        "model": model, "seed": seed, "engine": engine, "final": accuracies[-1],
        "worst_of_last_5": min(accuracies[-LAST:]),
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def _our_accuracies(run: Run, epochs: int | None, digits: int) -> Iterator[float]:
    from mnist_exp.training.loop import Training  # which changes how memory is kept

    model, seed, engine = run
    own = loading.load_iteration(model).recipe
    own = dataclasses.replace(own, epochs=epochs or own.epochs)
    train, test = data.load()
    device: Any = {"device": torch.device("cpu"), "engine": engine}
    for result in Training(own, train[:digits], test, seed=seed, **device).epochs():
        yield result.evaluation.accuracy
