"""How things are measured here: in turns, in processes of their own, as ratios within a round."""

import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Contender:
    """Something to be timed in a process of its own, which `prepare(*arguments)` makes ready;
    `turn()` is called there each round, and gives seconds. `environment` is set for the process."""

    prepare: Callable[..., None]
    arguments: tuple[Any, ...]
    turn: Callable[[], float]
    environment: Mapping[str, str] = field(default_factory=dict)


def in_turns(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """The seconds of each contender in each round, after one round that is not counted."""
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(in_process(one.environment, one.prepare, *one.arguments))
            for name, one in contenders.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(1 + rounds):
            for name, process in processes.items():
                seconds[name].append(process.submit(contenders[name].turn).result())
    return {name: own[1:] for name, own in seconds.items()}


@contextmanager
def in_process(
    environment: Mapping[str, str], prepare: Callable[..., object] = int, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """A new process with these environment variables, once `prepare(*arguments)` has run in it."""
    before = dict(os.environ)
    os.environ.update(environment)
    with ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), prepare, arguments
    ) as process:
        process.submit(int).result()  # it starts with its first task
        os.environ.clear()
        os.environ.update(before)
        yield process


def median_seconds(seconds: Sequence[float]) -> str:
    """Their median, in words."""
    return f"{statistics.median(seconds):.1f} s"


def ratio(longer: Sequence[float], shorter: Sequence[float]) -> str:
    """The median of the ratios round by round, and their range."""
    each = ratios(longer, shorter)
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def ratios(longer: Sequence[float], shorter: Sequence[float]) -> list[float]:
    """How many times as long one took as the other, round by round."""
    return [a / b for a, b in zip(longer, shorter, strict=True)]
