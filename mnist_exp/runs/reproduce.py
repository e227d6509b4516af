"""Train a recorded run again from what the store holds of it, and compare epoch by epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from mnist_exp import ExpectedError, data, tracking
from mnist_exp.common.words import counted
from mnist_exp.notebook import code_hash, entries, loading
from mnist_exp.recipe import Recipe
from mnist_exp.runs import environment, record
from mnist_exp.training.loop import Training

LAST_EPOCHS = 5
TOLERANCE = 0.005
"""Where rounding differs, trainings drift apart: accuracy in the last five epochs may then differ
by this fraction, about what another seed changes."""


@dataclass(frozen=True)
class Plan:
    """A recorded run: what to train, its `history` (a row per epoch, as `tracking.history` gives),
    and the `differences` between its environment and this one: name, recorded, here."""

    run_id: str
    name: str
    recipe: Recipe
    seed: int
    split: data.Split
    device: torch.device
    history: pd.DataFrame
    differences: list[tuple[str, object, object]]


@dataclass(frozen=True)
class EpochPair:
    """An epoch as recorded and as trained again. `accuracy`: on the evaluated split, a fraction.
    `identical`: in every metric, to the last bit."""

    epoch: int
    recorded_accuracy: float
    accuracy: float
    identical: bool


@dataclass(frozen=True)
class Outcome:
    """Whether a run was reproduced, in words as text."""

    epochs: int
    identical: bool
    largest: float
    """Difference in accuracy over the last five epochs, as a fraction."""

    @property
    def reproduced(self) -> bool:
        return self.identical or self.largest <= TOLERANCE

    def __str__(self) -> str:
        if self.identical:
            return f"Reproduced: identical, bit for bit, in {counted(self.epochs, 'epoch')}."
        within = "Reproduced within" if self.reproduced else "Not reproduced within"
        return (
            f"{within} {100 * TOLERANCE} points: accuracy in the last {LAST_EPOCHS} epochs differs "
            f"by at most {100 * self.largest:.2f} points."
        )


def plan(run_id: str) -> Plan:
    """What it takes to train a run again, which was made with that id here or where it was imported
    from. The number of threads of this process becomes that of the run.

    Raises ExpectedError when the store does not hold it, or its data were others.
    """
    found = tracking.find_run(run_id)
    row: Any = found.astype(object).where(found.notna(), "not recorded").iloc[0]
    run_id = row["run_id"]
    history = tracking.history([run_id])
    if history.empty or history["epoch"].tolist() != list(range(1, len(history) + 1)):
        raise ExpectedError(f"run {run_id} has recorded no epoch, or not each of them once")
    for name, expected in data.SHA256.items():
        if row.get(f"sha256.{name}") != expected:
            raise ExpectedError(f"run {run_id} was trained on another {name}")
    torch.set_num_threads(int(row["threads"]))
    try:
        device = environment.choose_device(row["device"])
    except ExpectedError:  # another machine: a difference like others
        device = environment.choose_device("auto")
    here = environment.settings(device) | {"training_sha256": environment.training_sha256()}
    differences = [
        (name, row.get(name, "not recorded"), value)
        for name, value in here.items()
        if str(row.get(name, "not recorded")) != str(value)
    ]
    own = dataclasses.replace(_recipe(run_id, row), epochs=len(history))
    return Plan(
        run_id, row["run_name"], own, int(row["seed"]), row["split"], device, history, differences
    )


def _recipe(run_id: str, row: Any) -> Recipe:
    """From the source that the run kept; from the file of the iteration where it kept none, as a
    run that was imported."""
    number = int(row["model"])
    source = tracking.source(run_id, number)
    if source is None:
        source = entries.read(number).source
    if not code_hash.has_code(source, row["code_sha256"]):
        raise ExpectedError(
            f"the code of run {run_id} is neither with it nor in {entries.path(number).name}: "
            f"check out commit {row['git_commit']}"
        )
    return loading.execute(source, entries.path(number))


def carry_out(plan: Plan) -> Iterator[EpochPair]:
    """Train again; yields each epoch beside the recorded one. Nothing is recorded."""
    train, held_out = data.load(plan.split)
    job = Training(plan.recipe, train, held_out, seed=plan.seed, device=plan.device)
    for result, recorded in zip(job.epochs(), plan.history.to_dict("records"), strict=True):
        metrics = record.metrics(result, plan.split)
        timing = {"epoch_seconds"}
        identical = all(
            recorded[name.replace("/", "_")] == value
            for name, value in metrics.items()
            if name not in timing
        )
        accuracy = recorded[f"{plan.split}_accuracy"]
        yield EpochPair(result.epoch, accuracy, result.evaluation.accuracy, identical)


def judge(pairs: Sequence[EpochPair]) -> Outcome:
    """What the epochs come to."""
    last = pairs[-LAST_EPOCHS:]
    largest = max(abs(pair.accuracy - pair.recorded_accuracy) for pair in last)
    return Outcome(len(pairs), all(pair.identical for pair in pairs), largest)
