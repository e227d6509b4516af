"""What a graphics card does: whether it is right there, how fast, and how many seeds at once.

`python -m benchmarks.gpu` takes at most SECONDS, prints as it goes, and after each part writes what
it has so far to RESULTS.md; `LIMIT=120` gives it less. `DEVICE=cpu` does a little of everything on
a machine without one, so that the script itself can be tried.
"""

import copy
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pandas as pd
import torch
from scipy import stats

from benchmarks import section
from benchmarks.section import Section
from benchmarks.stock import Stock
from benchmarks.whole_runs import RESULTS
from mnist_exp import data
from mnist_exp.common.sameness import same_state
from mnist_exp.notebook import entries, loading
from mnist_exp.training.determinism import deterministic, missing
from mnist_exp.training.loop import Training
from mnist_exp.training.together import Together

TITLE = "On a graphics card"
SECONDS = 340
COMPARED = (6, 14, 21)
TIMED = (2, 3, 4, 5, 6, 14, 21)
SEEDS = range(101, 109)
"""Of which the accuracies are compared with those of the published runs, from a processor."""
AT_ONCE = (1, 8, 32, 128)
BATCHES = 100
"""Of which an epoch's time is told, where a whole one would take too long."""


class Bench:
    """A device, the digits, and the time that is left."""

    def __init__(self, name: str, limit: float) -> None:
        self.device = torch.device(name)
        self.train, self.test = data.load()
        self.small = name == "cpu"
        if self.small:
            self.train, self.test = self.train[:256], self.test[:200]
        # Once, whatever trains on them.
        self.train, self.test = self.train.to(self.device), self.test.to(self.device)
        self.begun, self.limit, self.share = time.monotonic(), limit, 1.0

    def training(self, number: int, seed: int = 1, **fields: Any) -> Training:
        recipe = loading.load_iteration(number).recipe
        recipe = dataclasses.replace(recipe, **fields) if fields else recipe
        return Training(recipe, self.train, self.test, seed=seed, device=self.device)

    def timed(self, do: Callable[[], object]) -> float:
        """The seconds that something takes, until the device has done it."""
        self.wait()
        begun = time.perf_counter()
        do()
        self.wait()
        return time.perf_counter() - begun

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def late(self, needed: float = 0.0) -> bool:
        """Whether a part has no such seconds left."""
        return time.monotonic() + needed > self.begun + self.share * self.limit


def works(bench: Bench) -> Iterator[dict[str, str]]:
    """Every iteration trains an epoch there, and two steps twice come to the same bits."""
    for number in COMPARED if bench.small else entries.numbers():
        if bench.late():
            return
        seconds = bench.timed(lambda number=number: next(bench.training(number).epochs()))  # type: ignore[misc]
        states = [_after_two_steps(bench, number) for _ in range(2)]
        without = missing(bench.device, lambda number=number: _after_two_steps(bench, number))  # type: ignore[misc]
        yield {
            "model": str(number), "first epoch": f"{seconds:.1f} s",
            "the same bits twice": "yes" if same_state(*states) else "NO",
            "without a deterministic kernel": without or "–",
        }  # fmt: skip


def _after_two_steps(bench: Bench, number: int) -> dict[str, Any]:
    recipe = loading.load_iteration(number).recipe
    own = Training(
        dataclasses.replace(recipe, epochs=2), bench.train, bench.test[:100], seed=1,
        device=bench.device, batches=1,
    )  # fmt: skip
    list(own.epochs())
    return copy.deepcopy(own.state())


def speed(bench: Bench) -> Iterator[dict[str, str]]:
    """Seconds of an epoch, beside the stock pipeline there, and beside the network alone."""
    for number in COMPARED if bench.small else TIMED:
        if bench.late(0 if bench.small else 20):
            return
        own = bench.training(number)
        epochs = own.epochs()
        next(epochs)
        here = bench.timed(lambda epochs=epochs: next(epochs))  # type: ignore[misc]
        row = {"model": str(number), "here": f"{here:.2f} s"}
        if number <= 6:
            stock = Stock(own.recipe, workers=2, device=bench.device)
            some = 5 if bench.small else BATCHES
            stock.epoch(2)
            took = bench.timed(lambda: stock.epoch(some)) / some * own.batches  # noqa: B023
            row["stock, its steps alone"] = f"{took:.2f} s"
        for name, how in ALONE.items():
            with how(bench.device):
                row[name] = f"{_alone(bench, own):.2f} s"
        yield row


ALONE: dict[str, Callable[[torch.device], AbstractContextManager[Any]]] = {
    "the network alone, on one batch": deterministic,
    "not deterministic": lambda _: torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
    "and with TF32": lambda _: torch.backends.cudnn.flags(enabled=True, allow_tf32=True),
}
"""How the steps are computed whose time is the limit of an epoch's."""


def _alone(bench: Bench, own: Training) -> float:
    """Seconds of as many steps as an epoch has, all on one batch that is there."""
    batch = own.prepare(own.train[:128], torch.Generator())
    count = 5 if bench.small else BATCHES

    def steps() -> None:
        for _ in range(count):
            own.optimizer.zero_grad()
            loss, _ = own.recipe.step(own.network, batch.images, batch.labels, None)
            loss.backward()
            own.optimizer.step()

    steps()  # the first one chooses kernels
    return bench.timed(steps) / count * own.batches


def at_once(bench: Bench) -> Iterator[dict[str, str]]:
    """Seeds an hour of model 14, so many trained together."""
    for seeds in AT_ONCE[:2] if bench.small else AT_ONCE:
        if bench.late(0 if bench.small else 30):
            return
        before = _memory(bench.device)
        full = bench.training(14)
        some = min(10 if bench.small else 40, full.batches)
        trainings = [
            Training(
                full.recipe, bench.train, bench.test, seed=seed, device=bench.device, batches=some
            )
            for seed in range(seeds)
        ]
        epochs = Together(trainings).epochs()
        next(epochs)
        seconds = bench.timed(lambda epochs=epochs: next(epochs)) / some * full.batches  # type: ignore[misc]
        hour = 3600 / (seconds * full.recipe.epochs) * seeds
        taken = (_memory(bench.device, most=True) - before) / 2**30
        yield {
            "seeds together": str(seeds), "an epoch of all": f"{seconds:.1f} s",
            "seeds an hour": f"{hour:,.0f}", "memory": f"{taken:.1f} GB",
        }  # fmt: skip


def _memory(device: torch.device, *, most: bool = False) -> int:
    """Bytes of a card that are taken now, or the most since this was asked last."""
    if device.type != "cuda":
        return 0
    if most:
        return torch.cuda.max_memory_allocated(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def agreement(bench: Bench) -> Iterator[dict[str, str]]:
    """Final accuracies of eight seeds, beside those of the published runs."""
    runs = pd.read_csv(RESULTS / "runs.csv", low_memory=False)
    history = pd.read_csv(RESULTS / "history.csv").sort_values("epoch").groupby("run_id")
    for number in COMPARED:
        if bench.late(0 if bench.small else 60):
            return
        code = loading.load_iteration(number).code_sha256
        own = runs[(runs["tags.code_sha256"] == code) & (runs["params.split"] == "test")]
        own = own[own["tags.overrides"] == "none"]
        published = [history.get_group(run)["test_accuracy"].iloc[-1] for run in own["run_id"]]
        fields = {"epochs": 1} if bench.small else {}
        trainings = [bench.training(number, seed, **fields) for seed in SEEDS]
        list(Together(trainings).epochs())
        here = [training.results[-1].evaluation.accuracy for training in trainings]
        found = stats.ttest_ind(here, published, equal_var=False)
        low, high = found.confidence_interval()
        mean = sum(here) / len(here) - sum(published) / len(published)
        yield {
            "model": str(number), "here": f"{100 * sum(here) / len(here):.3f} %",
            "published, on a processor": f"{100 * sum(published) / len(published):.3f} %",
            "difference": f"{100 * mean:+.3f} ({100 * low:+.3f} to {100 * high:+.3f})",
        }  # fmt: skip


PARTS = {
    "Every iteration, an epoch": (works, 0.3),
    "Seconds of an epoch": (speed, 0.5),
    "Seeds of model 14 trained together": (at_once, 0.65),
    "Final accuracy of eight seeds, and the 95 % interval of the difference": (agreement, 1.0),
}
"""Each with the share of the time after which it begins no further row: the others have theirs."""


def measure(bench: Bench) -> Section:
    """All parts, as far as the time goes."""
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else bench.device.type
    text = f"`python -m benchmarks.gpu`, on {name}."
    found = Section(TITLE, text, [], None)
    for what, (part, bench.share) in PARTS.items():
        rows = []
        for row in part(bench):
            print(f"{what}: {row}", flush=True)
            rows.append(row)
        table = pd.DataFrame(rows or [{what: "no time was left"}]).fillna("–")
        found.tables.append(table.rename(columns={table.columns[0]: f"{what}: {table.columns[0]}"}))
        if not bench.small:
            section.write(found)
    return found


def main() -> None:
    device = os.environ.get("DEVICE", "cuda")
    print(measure(Bench(device, float(os.environ.get("LIMIT", SECONDS)))))


if __name__ == "__main__":
    main()
