"""Train a recorded run again from what the store holds of it, and compare epoch by epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from mnist_exp import data, tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import counted, read_ranges
from mnist_exp.evidence import scores
from mnist_exp.notebook import code_hash, entries, loading
from mnist_exp.recipe import Recipe
from mnist_exp.runs import engines, environment, overrides, provenance, record
from mnist_exp.runs.engines import ChosenEngine
from mnist_exp.runs.overrides import overridden
from mnist_exp.runs.teacher import Teacher, find_teacher
from mnist_exp.tracking import EPOCH_METRICS, names
from mnist_exp.tracking.names import column_name
from mnist_exp.training import seeding
from mnist_exp.training.computing import Engine
from mnist_exp.training.loop import EpochResult, Training
from mnist_exp.training.together import Together

NOT_RECORDED = "not recorded"
TOLERANCE = 0.005
"""Where rounding differs, trainings drift apart: accuracy in the last epochs, those that the target
looks at, may then differ by this fraction, about what another seed changes."""


@dataclass(frozen=True)
class Reproduction:
    """What it takes to train a recorded run again, and to compare: its `history` (a row per epoch,
    as `tracking.history` gives), and the `differences` between its environment and this one, each
    with the name, what was recorded, and what is here. `cautions` are what the run says of itself.
    `recipes` are those of the seeds that were trained as one network with it, and its own, by seed;
    of a run that was trained alone, its own.
    """

    run_id: str
    name: str
    recipes: Mapping[int, Recipe]
    is_together: bool
    seed: int
    split: data.Split
    fold: data.Fold | None
    device: torch.device
    engine: Engine
    teacher: Teacher | None
    history: pd.DataFrame
    differences: list[tuple[str, object, object]]
    cautions: list[str]


@dataclass(frozen=True)
class EpochPair:
    """An epoch as it was recorded and as it was trained again.

    Accuracies are those of the evaluated split, as fractions. `identical` says that every metric
    is the same to the last bit, but for times.
    """

    epoch: int
    recorded_accuracy: float
    accuracy: float
    identical: bool


@dataclass(frozen=True)
class Agreement:
    """How well a run was reproduced: the accuracies of the `last_epochs` differ by at most
    `largest` (a fraction). As text, it says so in words."""

    epochs: int
    identical: bool
    last_epochs: int
    largest: float

    @property
    def reproduced(self) -> bool:
        return self.identical or self.largest <= TOLERANCE

    def __str__(self) -> str:
        if self.identical:
            return f"Reproduced: identical, bit for bit, in {counted(self.epochs, 'epoch')}."
        within = "Reproduced within" if self.reproduced else "Not reproduced within"
        return (
            f"{within} {100 * TOLERANCE} points: accuracy in the last {self.last_epochs} epochs "
            f"differs by at most {100 * self.largest:.2f} points."
        )


def prepare(run_id: str) -> Reproduction:
    """Prepare to train the run again that was made with that id, here or where it was imported
    from. The number of threads of this process becomes that of the run.

    Raises ExpectedError when the store does not hold it, or its data were others.
    """
    row = tracking.find_run(run_id)
    provenance.refuse_tracked(row.iloc[0])
    run: Any = row.astype(object).where(row.notna(), NOT_RECORDED).iloc[0]
    run_id = run["run_id"]
    recipes = _recipes(run)
    recipe = recipes[int(run["seed"])]
    history = _history(run_id, [names.metric(run["split"], name) for name in recipe.metrics])
    for name, expected in data.SHA256.items():
        if run.get(f"sha256.{name}") != expected:
            raise ExpectedError(f"run {run_id} was trained on another {name}")
    torch.set_num_threads(int(run["threads"]))
    engine, device = _engine_and_device(run)
    here = environment.surroundings(device) | {"training_sha256": environment.training_sha256()}
    here |= engine.settings() if run.get("engine", NOT_RECORDED) != NOT_RECORDED else {}
    fold = None if run["fold"] == NOT_RECORDED else run["fold"]
    teacher = find_teacher(recipe.teacher and run["teacher_run"], run["split"], fold)
    here |= {"teacher_sha256": teacher.sha256} if teacher else {}
    recorded = {name: run.get(name, NOT_RECORDED) for name in here}
    return Reproduction(
        run_id=run_id,
        name=run["run_name"],
        recipes=recipes,
        is_together=run.get(names.TOGETHER, NOT_RECORDED) != NOT_RECORDED,
        seed=int(run["seed"]),
        split=run["split"], fold=fold, device=device, engine=engine.name, teacher=teacher,
        history=history,
        differences=[
            (name, recorded[name], value)
            for name, value in here.items()
            if str(recorded[name]) != str(value)
        ],
        cautions=_cautions(run),
    )  # fmt: skip


def _engine_and_device(run: Any) -> tuple[ChosenEngine, torch.device]:
    """Those of a run; what cannot be had on this machine is a difference like others. Runs that do
    not name their engine are older than the compiled one."""
    try:
        device = environment.choose_device(run["device"])
    except ExpectedError:
        device = environment.choose_device("auto")
    asked = "auto" if run.get("engine") == "compiled" else "torch"
    return engines.choose_engine(asked, device.type)


def _history(run_id: str, metrics: list[str]) -> pd.DataFrame:
    """The epochs of a run, with metrics of its own recipe."""
    history = tracking.history([run_id], [*EPOCH_METRICS, *metrics])
    if history.empty or history["epoch"].tolist() != list(range(1, len(history) + 1)):
        raise ExpectedError(f"run {run_id} has recorded no epoch, or not each of them once")
    return history


def _cautions(run: Any) -> list[str]:
    """What the run said of itself that makes its numbers less certain."""
    usual = {"resumes": scores.EXACTLY, "cautions": NOT_RECORDED}
    said = {tag: run.get(tag, NOT_RECORDED) for tag in usual}
    return [text for tag, text in said.items() if text not in (usual[tag], NOT_RECORDED)]


def _recipes(run: Any) -> dict[int, Recipe]:
    """The recipes of the seeds that a run was trained with, and its own, by seed; with as many
    epochs as were planned, which a schedule may depend on, though a run may have had fewer."""
    seeds = str(run.get(names.TOGETHER, NOT_RECORDED))
    return {
        seed: dataclasses.replace(_recipe(run, seed), epochs=int(run["epochs"]))
        for seed in ([int(run["seed"])] if seeds == NOT_RECORDED else read_ranges(seeds))
    }


def _recipe(run: Any, seed: int) -> Recipe:
    """The recipe of a run from the sources that it kept, as it is of a seed. A run that was
    imported may have none: its recipe comes from the file of the iteration."""
    run_id, number = run["run_id"], int(run["model"])
    kept = tracking.source(run_id, number)
    if kept:
        source, helpers = kept
    else:
        entry = entries.read_entry(number)
        source, helpers = entry.source, dict(entry.helpers)
    if not code_hash.has_code(source, run["code_sha256"], helpers):
        raise ExpectedError(
            f"the code of run {run_id} is neither with it nor in {entries.path(number).name}: "
            f"check out commit {run['git_commit']}"
        )
    seeding.seed_network(seed)  # what the code draws when it is executed
    recipe = loading.execute(source, entries.path(number), helpers)
    recorded = run["overrides"]
    return recipe if recorded == NOT_RECORDED else overridden(recipe, overrides.read(recorded))


def repeat(reproduction: Reproduction) -> Iterator[EpochPair]:
    """Train again; yields each epoch beside the recorded one. Nothing is recorded."""
    # The recorded ones first: no epoch is trained that has nothing to be compared with.
    epochs = reproduction.history.to_dict("records")
    for recorded, result in zip(epochs, _trained_again(reproduction), strict=False):
        identical = all(
            recorded[column_name(name)] == value
            for name, value in record.metrics(result, reproduction.split).items()
            # An older run may lack a metric that runs have now.
            if name != names.EPOCH_SECONDS and column_name(name) in recorded
        )
        accuracy = recorded[column_name(names.accuracy(reproduction.split))]
        yield EpochPair(result.epoch, accuracy, result.evaluation.accuracy, identical)


def _trained_again(reproduction: Reproduction) -> Iterator[EpochResult]:
    """The epochs of the run; as one network with the same seeds as before, where there were any."""
    device = reproduction.device
    loaded = data.load(reproduction.split, reproduction.fold)
    train, held_out = (digits.to(device) for digits in loaded)
    trainings = {
        seed: Training(
            recipe, train, held_out, seed=seed, device=device, engine=reproduction.engine,
            teacher=reproduction.teacher.network if reproduction.teacher else None,
        )
        for seed, recipe in reproduction.recipes.items()
    }  # fmt: skip
    if not reproduction.is_together:
        yield from trainings[reproduction.seed].epochs()
        return
    place = list(trainings).index(reproduction.seed)
    for epoch in Together(list(trainings.values())).epochs():
        result = epoch[place]
        if not isinstance(result, EpochResult):
            raise result
        yield result


def agree(pairs: Sequence[EpochPair], last_epochs: int) -> Agreement:
    """Compare the recorded epochs with those that were trained again: the accuracies of the last
    epochs, where not all of them are identical."""
    last = pairs[-last_epochs:]
    largest = max(abs(pair.accuracy - pair.recorded_accuracy) for pair in last)
    return Agreement(len(pairs), all(pair.identical for pair in pairs), last_epochs, largest)
