"""What else was tried to make torch's own step faster, on one batch that stays in memory."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from benchmarks.measure import in_process, ratio
from benchmarks.section import Section
from mnist_exp import recipe
from mnist_exp.notebook import loading
from mnist_exp.training import faster

MODELS = (6,)
THREADS = (1, 2)
ROUNDS = 5
STEPS = 10
SEEDS = 2

Step = Callable[[], object]


def measure() -> Section:
    """Every variant of a step, in turns."""
    columns = {}
    for threads in THREADS:
        for number in MODELS:
            with in_process({}) as process:
                columns[f"model {number}, threads: {threads}"] = process.submit(
                    one, number, threads
                ).result()
    table = pd.DataFrame(columns).rename_axis("step").reset_index()
    text = f"""\
How many times as long a step of 128 digits takes as it does with {HERE} ({ROUNDS} rounds of
{STEPS} steps, in turns); of that one, the milliseconds. *As torch has it*: the network as its file
has it. *torch.compile*: after its first steps, whose seconds are given. *Two seeds as one network*:
`torch.func.vmap` over two sets of weights, with torch's dropout; half of its time is counted.
bfloat16 changes the numbers."""
    return Section("What was tried with torch", text, [table])


def one(number: int, threads: int) -> dict[str, str]:
    """The figures of one model, by variant."""
    torch.set_num_threads(threads)
    faster.keep_memory()
    warm = {}
    steps = {name: make(number) for name, make in VARIANTS.items()}
    for name, step in steps.items():
        start = time.perf_counter()
        for _ in range(3):
            step()
        warm[name] = time.perf_counter() - start
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            step()  # whose caches the one before has filled
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            at_once = SEEDS if name == VMAP else 1
            seconds[name].append((time.perf_counter() - start) / STEPS / at_once)
    found = {name: ratio(own, seconds[HERE]) for name, own in seconds.items()}
    found[HERE] = f"{1000 * statistics.median(seconds[HERE]):.1f} ms"
    found[COMPILE] += f", first {warm[COMPILE]:.0f} s"
    return found


def batch() -> tuple[Tensor, Tensor]:
    """Images that stay in memory, and labels."""
    return torch.randn(128, *recipe.PIXELS), torch.randint(10, (128,))


def single(
    number: int, plain: bool = False, compiled: bool = False, autocast: bool = False
) -> Step:  # fmt: skip
    """A step of a network with what makes torch's faster here, or a `plain` one."""
    own = loading.load_iteration(number).recipe
    images, labels = batch()
    network = own.network()
    if not plain:
        network = faster.speed_up(network, torch.device("cpu"), images)
    optimizer = own.optimizer(network.train().parameters())
    called = torch.compile(network) if compiled else network

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(called(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def several(number: int) -> Step:
    """A step of as many networks as SEEDS, as one."""
    own = loading.load_iteration(number).recipe
    networks = [own.network().train() for _ in range(SEEDS)]
    weights, buffers = stack_module_state(networks)
    optimizer = own.optimizer(list(weights.values()))
    images, labels = batch()

    def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(networks[0], (weights, buffers), (images,)), labels)

    gradients = vmap(grad_and_value(loss), randomness="different")

    def step() -> None:
        found, _ = gradients(weights, buffers)
        for name, weight in weights.items():
            weight.grad = found[name]
        optimizer.step()

    return step


HERE, COMPILE, VMAP = "ENGINE=torch", "torch.compile", "two seeds as one network"
VARIANTS: dict[str, Callable[[int], Step]] = {
    HERE: single,
    "as torch has it": partial(single, plain=True),
    "bfloat16": partial(single, autocast=True),
    COMPILE: partial(single, compiled=True),
    VMAP: several,
}
