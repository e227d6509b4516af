"""An epoch here, by either engine, and in the stock pipeline."""

import dataclasses
import statistics
from typing import Any

import pandas as pd
import torch

from benchmarks.measure import Contender, in_turns, median_seconds, ratio, ratios
from benchmarks.section import Section
from benchmarks.stock import ENVIRONMENT, Stock
from mnist_exp import data
from mnist_exp.notebook import loading

MODELS = (2, 3, 4, 5, 6, 1)
ROUNDS = 5
SOME = {1: 20}
"""Steps that are timed where an epoch takes too long; without the evaluation."""
TRIAL, TRIALS = 100, 3
"""Steps from which the better number of workers is seen, and how often they are timed."""
GOALS = {2: 4.0, 3: 4.0, 4: 6.0, 5: 6.0, 6: 6.0}
"""Of model 1 there is none: its layers are so wide that torch's own kernels compute it."""

process: dict[str, Any] = {}
"""What a contender has made ready in its process."""


def measure() -> Section:
    """All models, in turns."""
    rows, missed = [], []
    for number in MODELS:
        seconds, workers = one(number)
        own, stock = seconds["compiled"], seconds["stock"]
        rows.append(
            {
                "model": str(number),
                "here": median_seconds(own),
                "stock": median_seconds(stock),
                "workers": str(workers),
                "stock / here": ratio(stock, own),
                "goal": f"{GOALS[number]:g}" if number in GOALS else "",
                "ENGINE=torch": median_seconds(seconds["torch"]),
                "ENGINE=torch / here": ratio(seconds["torch"], own),
            }
        )
        times = statistics.median(ratios(stock, own))
        if times < GOALS.get(number, 0):
            missed.append(
                f"model {number} is {times:.2f} times as fast as stock, not {GOALS[number]:g}"
            )
    text = f"""\
Seconds of a training epoch on 60,000 digits and an evaluation on 10,000, on all cores, {ROUNDS}
rounds in turns. *Stock* is torchvision's MNIST with transforms of single images behind a
DataLoader, and a plain loop, with the number of workers, 0 or 2, that is faster. *ENGINE=torch* is
the same training here, computed by torch. Of model 1, {SOME[1]} steps are timed, without
evaluation; its layers are so wide that torch's own kernels compute it here, too.

Goals: as many times as fast as stock."""
    return Section("An epoch", text, [pd.DataFrame(rows)], missed)


def one(number: int) -> tuple[dict[str, list[float]], int]:
    """Seconds per round by either engine and of stock, and the workers that stock needs."""
    trial = in_turns(
        {
            str(workers): Contender(
                prepare_stock, (number, workers, TRIAL), turn_stock, ENVIRONMENT
            )
            for workers in (0, 2)
        },
        TRIALS,
    )
    workers = int(min(trial, key=lambda name: statistics.median(trial[name])))
    steps = SOME.get(number)
    chosen = {
        engine: Contender(prepare_own, (number, engine, steps), turn_own)
        for engine in ("compiled", "torch")
    }
    chosen["stock"] = Contender(prepare_stock, (number, workers, steps), turn_stock, ENVIRONMENT)
    return in_turns(chosen, ROUNDS), workers


def prepare_stock(number: int, workers: int, steps: int | None) -> None:
    process["steps"] = steps
    process["stock"] = Stock(loading.load_iteration(number).recipe, workers=workers)


def turn_stock() -> float:
    return float(process["stock"].epoch(process["steps"]))


def prepare_own(number: int, engine: Any, steps: int | None = None, part: int = 1) -> None:
    """Make ready epochs of so many steps, without evaluation; or of whole epochs or a part, as 3
    for a third of the digits."""
    from mnist_exp.training.loop import Training  # which changes how memory is kept

    own = loading.load_iteration(number).recipe
    train, test = (digits[: len(digits) // part] for digits in data.load())
    if steps:
        train, test = train[: steps * own.batch_size], test[:1]
    endless = dataclasses.replace(own, epochs=10**6)
    training = Training(
        endless, train, test, seed=1, device=torch.device("cpu"), engine=engine
    )  # fmt: skip
    process["epochs"] = training.epochs()


def turn_own() -> float:
    return float(next(process["epochs"]).seconds)
