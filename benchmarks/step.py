"""How near a training step comes to the most that the processor can compute."""

import dataclasses
import statistics
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_double
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.epoch import process
from benchmarks.measure import Contender, in_turns, ratios
from benchmarks.section import Section
from mnist_exp import data
from mnist_exp.common.words import counted
from mnist_exp.engine import library
from mnist_exp.notebook import loading
from mnist_exp.training import classifier

MODELS = (6, 14, 4, 16, 18, 21)
THREADS = (1, 2)
ROUNDS = 5
STEPS = 40
MOMENT = 0.3
"""Seconds for which the peak is measured."""
GOALS = {(6, 1): 0.4, (14, 1): 0.4}
"""Shares of the peak, by model and threads."""


def measure() -> Section:
    """All models, in turns."""
    rows, missed, peaks = [], [], {}
    for threads in THREADS:
        at_peak = []
        for number in MODELS:
            recipe = loading.load_iteration(number).recipe
            work = operations(recipe.network().train(), classifier.example_input(recipe))
            work *= recipe.batch_size / len(classifier.example_input(recipe))
            seconds = one(number, threads, work)
            shares = ratios(seconds["peak"], seconds["compiled"])
            middle = {name: statistics.median(own) for name, own in seconds.items()}
            at_peak += [work / own for own in seconds["peak"]]
            rows.append(
                {
                    "threads": str(threads),
                    "model": str(number),
                    "batch": str(recipe.batch_size),
                    "MFLOP": f"{work / 1e6:.0f}",
                    "here": f"{1000 * middle['compiled']:.1f} ms",
                    "at the peak": f"{1000 * middle['peak']:.1f} ms",
                    "share of the peak": f"{statistics.median(shares):.0%} "
                    f"({min(shares):.0%} to {max(shares):.0%})",
                    "ENGINE=torch": f"{1000 * middle['torch']:.1f} ms",
                }
            )
            goal = GOALS.get((number, threads), 0)
            if statistics.median(shares) < goal:
                reached = f"{statistics.median(shares):.0%}"
                missed.append(f"model {number} reaches {reached} of the peak, not {goal:.0%}")
        peaks[threads] = statistics.median(at_peak) / 1e9
    most = " and ".join(
        f"{peak:.0f} GFLOP/s on {counted(threads, 'thread')}" for threads, peak in peaks.items()
    )
    text = f"""\
Milliseconds of a training step, {STEPS} at a time, {ROUNDS} rounds in turns, without augmentation
and averaging. *MFLOP* is what its convolutions and linear layers need, two for each multiply-add:
forward, for the gradient of the weights, and for that of the input, which the first layer does
without. The *peak* is measured in each round, by fused multiply-adds in registers: {most}.

Goal: 40 % of the peak in models 6 and 14 on one thread."""
    return Section("A step, and the peak", text, [pd.DataFrame(rows)], missed)


def one(number: int, threads: int, work: float) -> dict[str, list[float]]:
    """Seconds of a step per round, by either engine and as the peak would have it."""
    chosen = {
        engine: Contender(prepare_step, (number, engine, threads), turn_step)
        for engine in ("compiled", "torch")
    }
    chosen["peak"] = Contender(prepare_peak, (threads, work), turn_peak)
    return in_turns(chosen, ROUNDS)


def prepare_step(number: int, engine: Any, threads: int) -> None:
    from mnist_exp.training.loop import Training  # which changes how memory is kept

    torch.set_num_threads(threads)
    own = dataclasses.replace(
        loading.load_iteration(number).recipe,
        epochs=10**6, augment=None, preprocess=None, views=None, averaging=None, metrics={},
    )  # fmt: skip
    train, test = data.load()
    training = Training(
        own, train[: STEPS * own.batch_size], test[:1],
        seed=1, device=torch.device("cpu"), engine=engine,
    )  # fmt: skip
    process["epochs"] = training.epochs()


def turn_step() -> float:
    return float(next(process["epochs"]).seconds) / STEPS


def prepare_peak(threads: int, work: float) -> None:
    process["threads"], process["work"] = threads, work


def turn_peak() -> float:
    return float(process["work"] / peak(process["threads"]))


def peak(threads: int, seconds: float = MOMENT) -> float:
    """The most floating-point operations per second, of so many threads at once."""
    measured: Any = library.loaded().peak_gflops
    measured.restype, measured.argtypes = c_double, [c_double]  # of one thread
    with ThreadPoolExecutor(threads) as pool:
        return 1e9 * float(sum(pool.map(measured, [seconds] * threads)))


def operations(network: nn.Module, images: Tensor) -> float:
    """Floating-point operations of a step on such images, in convolutions and linear layers."""
    uses: list[float] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(partial(count, uses))
    network(images)
    return sum(uses)


def count(uses: list[float], layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    """A hook: count a use of a layer, each of whose outputs takes a multiply-add for each weight
    that leads to it."""
    forward = 2 * output.numel() * layer.weight[0].numel()
    # As much again for the gradient of the weights, and for that of the input if it is asked for.
    uses.append(forward * (3 if inputs[0].requires_grad else 2))
