"""What the time of a training step goes to, kernel by kernel."""

import copy
import statistics
import time
from collections import defaultdict

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.section import Section
from benchmarks.step import peak
from mnist_exp.engine import compiled
from mnist_exp.engine.compiled import CompiledNetwork
from mnist_exp.engine.execution import Program
from mnist_exp.notebook import loading
from mnist_exp.training import faster

MODELS = (6, 14, 21)
STEPS = 60
WIDTHS, SIDE, ROUNDS = (16, 32, 48, 64, 96), 16, 5
LEAST = 0.02
"""Of the time: what takes less is added up."""
PASSES = ("forward", "backward")


def measure() -> Section:
    """One model after the other, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tables = [*map(table, MODELS), widths()]
    finally:
        torch.set_num_threads(threads)
    text = f"""\
Processor time of {STEPS} steps on one thread, without loss and optimizer, on images of noise. *Of
the peak*: the multiply-adds of a convolution, for the time they would take in registers. To look at
the clock takes time, too, so that short calls seem longer than they are.

The last table is of three convolutions of so many channels: from {compiled.WIDE} channels on, torch
computes a network in which such convolutions are most of the work."""
    return Section("A step, kernel by kernel", text, tables)


def table(number: int) -> pd.DataFrame:
    """The kernels of a model that take more than a little of its steps."""
    recipe = loading.load_iteration(number).recipe
    seconds = statistics.fmean(peak(1) for _ in range(3))
    rows: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for program in programs(number):
        for which, call, own in program.seconds():
            row = rows[PASSES[which], call.kernel, call.of]
            row[0] += own
            row[1] += call.flops * recipe.batch_size * STEPS
    total = sum(own for own, _ in rows.values())
    listed = [
        {
            "model": str(number),
            "pass": which,
            "kernel": kernel,
            "of": of,
            "of the time": f"{own / total:.1%}",
            "of the peak": f"{flops / own / seconds:.0%}" if flops else "",
        }
        for (which, kernel, of), (own, flops) in sorted(rows.items(), key=lambda pair: -pair[1][0])
        if own >= LEAST * total
    ]
    return pd.DataFrame(listed)


def widths() -> pd.DataFrame:
    """How many times as long a step of wide layers takes torch as it takes the engine."""
    rows = []
    compiled.WIDE, usual = 10**9, compiled.WIDE  # to see what would be
    for channels in WIDTHS:
        network = of_width(channels)
        example = torch.randn(2, 1, SIDE, SIDE)
        by_torch = faster.speed_up(copy.deepcopy(network), torch.device("cpu"), example)
        by_engine = CompiledNetwork(network)
        times = []
        for _ in range(ROUNDS):
            with by_engine.standing_in():
                own = seconds_of(network)
            times.append(seconds_of(by_torch) / own)
        rows.append(
            {"channels": str(channels), "torch / engine": f"{statistics.median(times):.2f}"}
        )
    compiled.WIDE = usual
    return pd.DataFrame(rows)


def of_width(channels: int) -> nn.Module:
    """A network of three convolutions."""
    inside = [nn.Conv2d(channels, channels, 3), nn.ReLU(), nn.Conv2d(channels, channels, 3)]
    ends = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(nn.Conv2d(1, channels, 3), nn.ReLU(), *inside, nn.ReLU(), *ends)


def seconds_of(network: nn.Module) -> float:
    """Processor time of a few steps, after one that is not counted."""
    images, labels = torch.randn(64, 1, SIDE, SIDE), torch.randint(10, (64,))
    begun = 0.0
    for step in range(4):
        if step == 1:
            begun = time.process_time()
        F.cross_entropy(network(images), labels).backward()
    return time.process_time() - begun


def programs(number: int) -> list[Program]:
    """The programs of a model that has taken its steps."""
    recipe = loading.load_iteration(number).recipe
    torch.manual_seed(1)
    network = recipe.network()
    engine = CompiledNetwork(network)
    images = torch.randn(recipe.batch_size, 1, 28, 28)
    labels = torch.randint(10, (recipe.batch_size,))
    with engine.standing_in():
        for step in range(STEPS + 1):
            for program in engine.programs:  # which the first step has made
                program.timed = step > 0
            F.cross_entropy(network(images), labels).backward()
    return engine.programs
