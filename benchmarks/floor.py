"""What makes a step faster, and what does not, on one batch that stays in memory."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.optim import SGD

from benchmarks.measure import in_process, ratio
from benchmarks.section import Section
from mnist_exp import recipe
from mnist_exp.notebook import loading
from mnist_exp.training import faster

MODELS = (3, 4, 6)
THREADS = (2, 1)
ROUNDS = 7
STEPS = 10
HERE = "as here"

Step = Callable[[], object]


def measure() -> Section:
    """Every variant of a step, in turns."""
    columns = {}
    for threads in THREADS:
        for number in MODELS:
            with in_process({}) as process:
                columns[f"model {number}, {threads} threads"] = process.submit(
                    one, number, threads
                ).result()
    table = pd.DataFrame(columns).rename_axis("step").reset_index()
    text = f"""\
How many times as long a step of 128 digits takes as it does here ({ROUNDS} rounds of {STEPS} steps,
in turns); of the step as here, the milliseconds. *As torch has it*: the network as its file has it.
*Two seeds as one network*: `torch.func.vmap` over two sets of weights, with torch's dropout; half
of its time is counted. *torch.compile*: after its first steps, whose seconds are given. bfloat16
changes the numbers. torch's batch normalisation leaves the gradients of such a network wrong by a
percent or more where memory is channels_last."""
    return Section("A step, and what was tried", text, [table])


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


def as_torch(number: int, change: Callable[[nn.Module], object] = lambda network: network) -> Step:
    """A step of the network as its file has it, after a `change`."""
    own = loading.load_iteration(number).recipe
    network = own.network()
    change(network)
    return step_of(network.train(), own.optimizer(network.parameters()))


def torchs_batch_norm(network: nn.Module) -> None:
    """All that is done here, but for batch normalisation."""
    faster.cheaper_dropout(network)
    network.to(memory_format=torch.channels_last)


def as_here(
    number: int, compiled: bool = False, autocast: bool = False, **of_optimizer: bool
) -> Step:
    """A step as here, with further options."""
    own = loading.load_iteration(number).recipe
    images, _ = batch()
    network = faster.speed_up(own.network(), torch.device("cpu"), images).train()
    plain = own.optimizer(network.parameters())
    optimizer = SGD(network.parameters(), **plain.defaults | of_optimizer)
    return step_of(torch.compile(network) if compiled else network, optimizer, autocast)


def step_of(
    network: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, autocast: bool = False
) -> Step:
    images, labels = batch()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(network(images), labels)
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


SEEDS = 2
VMAP, COMPILE = "two seeds as one network", "torch.compile"
VARIANTS: dict[str, Callable[[int], Step]] = {
    HERE: as_here,
    "as torch has it": as_torch,
    "only channels_last": partial(
        as_torch, change=lambda network: network.to(memory_format=torch.channels_last)
    ),
    "only the cheaper dropout": partial(as_torch, change=faster.cheaper_dropout),
    "with torch's batch normalisation": partial(as_torch, change=torchs_batch_norm),
    "fused optimizer": partial(as_here, fused=True),
    "foreach optimizer": partial(as_here, foreach=True),
    "bfloat16": partial(as_here, autocast=True),
    COMPILE: partial(as_here, compiled=True),
    VMAP: several,
}
