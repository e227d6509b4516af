"""What the time of a training step goes to, kernel by kernel."""

import statistics
from collections import defaultdict

import pandas as pd
import torch
from torch.nn import functional as F

from benchmarks.section import Section
from benchmarks.step import peak
from mnist_exp.engine.compiled import CompiledNetwork
from mnist_exp.engine.execution import Program
from mnist_exp.notebook import loading

MODELS = (6, 14, 21)
STEPS = 60
LEAST = 0.02
"""Of the time: what takes less is added up."""
PASSES = ("forward", "backward")


def measure() -> Section:
    """One model after the other, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tables = [table(number) for number in MODELS]
    finally:
        torch.set_num_threads(threads)
    text = f"""\
Processor time of {STEPS} steps on one thread, without loss and optimizer, on images of noise. *Of
the peak*: the multiply-adds of a convolution, for the time they would take in registers. To look at
the clock takes time, too, so that short calls seem longer than they are."""
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


def programs(number: int) -> list[Program]:
    """The programs of a model that has taken its steps."""
    recipe = loading.load_iteration(number).recipe
    torch.manual_seed(1)
    network = recipe.network()
    compiled = CompiledNetwork(network)
    images = torch.randn(recipe.batch_size, 1, 28, 28)
    labels = torch.randint(10, (recipe.batch_size,))
    with compiled.standing_in():
        for step in range(STEPS + 1):
            for program in compiled.programs:  # which the first step has made
                program.timed = step > 0
            F.cross_entropy(network(images), labels).backward()
    return compiled.programs
