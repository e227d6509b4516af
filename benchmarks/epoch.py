"""An epoch here, in the stock pipeline, and as the bare computation."""

import dataclasses
import statistics
import time
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F

from benchmarks.measure import Contender, in_turns, ratio, ratios
from benchmarks.section import Section
from benchmarks.stock import ENVIRONMENT, Stock
from mnist_exp import data, recipe
from mnist_exp.notebook import loading

MODELS = (2, 3, 4, 5, 6, 1)
ROUNDS = 5
STEPS = 469
"""Of an epoch on all training digits."""
SOME = {1: 40}
"""Steps that are timed where an epoch takes too long; without the evaluation."""
TRIAL = 100
"""Steps from which the better number of workers is seen."""
GOALS = {1: 1.5, 2: 1.5, 3: 1.5, 4: 3.0, 5: 3.0, 6: 3.0}
MOST_ABOVE_FLOOR = 1.1

process: dict[str, Any] = {}
"""What a contender has made ready in its process."""


def measure() -> Section:
    """All models, in turns."""
    rows, missed = [], []
    for number in MODELS:
        own, floor, stock, workers = one(number)
        rows.append(
            {
                "model": str(number),
                "here": f"{statistics.median(own):.1f} s",
                "stock": f"{statistics.median(stock):.1f} s",
                "workers": str(workers),
                "stock / here": ratio(stock, own),
                "floor": f"{statistics.median(floor):.1f} s",
                "here / floor": ratio(own, floor),
            }
        )
        times = statistics.median(ratios(stock, own))
        if times < GOALS[number]:
            missed.append(
                f"model {number} is {times:.2f} times as fast as stock, not {GOALS[number]}"
            )
        above = statistics.median(ratios(own, floor))
        if above > MOST_ABOVE_FLOOR:
            missed.append(f"an epoch of model {number} takes {above:.2f} times its floor")
    text = f"""\
Seconds of a training epoch on 60,000 digits and an evaluation on 10,000, on all cores, {ROUNDS}
rounds in turns. *Stock* is torchvision's MNIST with transforms of single images behind a
DataLoader, and a plain loop, with the number of workers, 0 or 2, that is faster. The *floor* is the
same network, here, taking {STEPS} steps on one batch that stays in memory, and nothing else: no
images to fetch, turn or evaluate; a ratio to it below 1 is noise. Of model 1, {SOME[1]} steps are
timed, without evaluation.

Goals: {GOALS[4]:g} times as fast as stock for models 4 to 6 and {GOALS[1]:g} times for 1 to 3; an
epoch takes at most {MOST_ABOVE_FLOOR} times its floor."""
    return Section("An epoch", text, [pd.DataFrame(rows)], missed)


def one(number: int) -> tuple[list[float], list[float], list[float], int]:
    """Seconds per round here, of the floor and of stock, and the workers that stock needs."""
    trial = in_turns(
        {
            str(workers): Contender(
                prepare_stock, (number, workers, TRIAL), turn_stock, ENVIRONMENT
            )
            for workers in (0, 2)
        },
        1,
    )
    workers = int(min(trial, key=lambda name: trial[name][0]))
    steps = SOME.get(number)
    chosen = {
        "own": Contender(prepare_own, (number,), turn_own),
        "floor": Contender(prepare_own, (number,), turn_floor),
        "stock": Contender(prepare_stock, (number, workers, steps), turn_stock, ENVIRONMENT),
    }
    seconds = in_turns(chosen, ROUNDS)
    return seconds["own"], seconds["floor"], seconds["stock"], workers


def prepare_stock(number: int, workers: int, steps: int | None) -> None:
    process["steps"] = steps
    process["stock"] = Stock(loading.load_iteration(number).recipe, workers=workers)


def turn_stock() -> float:
    return float(process["stock"].epoch(process["steps"]))


def prepare_own(number: int) -> None:
    from mnist_exp.training.loop import Training  # which changes how memory is kept

    own = loading.load_iteration(number).recipe
    train, test = data.load()
    if number in SOME:
        train, test = train[: SOME[number] * own.batch_size], test[:1]
    endless = dataclasses.replace(own, epochs=10**6)
    training = Training(endless, train, test, seed=1, device=torch.device("cpu"))
    process["training"], process["epochs"] = training, training.epochs()
    process["steps"] = SOME.get(number, STEPS)


def turn_own() -> float:
    return float(next(process["epochs"]).seconds)


def turn_floor() -> float:
    training = process["training"]
    network, optimizer = training.network.train(), training.optimizer
    images = torch.randn(training.recipe.batch_size, *recipe.PIXELS)
    labels = torch.randint(10, (len(images),))
    start = time.perf_counter()
    for _ in range(process["steps"]):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start
