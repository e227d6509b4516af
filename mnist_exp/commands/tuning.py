"""The command that looks for better values of a recipe's fields."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mnist_exp.commands.arguments import command
from mnist_exp.commands.settings import (
    Device,
    Engine,
    Epochs,
    Fold,
    Model,
    SearchSpace,
    Seed,
    Trials,
)
from mnist_exp.common.words import counted, duration, percent

if TYPE_CHECKING:
    from mnist_exp.commands.display import ProgressDisplay
    from mnist_exp.evidence.trials import Trial
    from mnist_exp.runs.plan import Plan
    from mnist_exp.runs.tune import Study
    from mnist_exp.training.loop import Progress

SHOWN = 10
"""Trials in the table at the end."""


@command
def _tune(
    model: Model,
    trials: Trials,
    space: SearchSpace,
    seed: Seed = 1,
    epochs: Epochs | None = None,
    fold: Fold | None = None,
    device: Device = "auto",
    engine: Engine = "auto",
) -> int:
    """Look for better values of a recipe's fields, with Optuna, on the validation split.

    SPACE has ranges of numbers and lists of values; TRIALS counts all trials of the study, also
    those of earlier calls. FOLD is the one that all of them are scored on. The same command goes on
    with a study that ended early.
    """
    from mnist_exp import tracking

    tracking.check_answers()  # before torch takes its seconds
    from mnist_exp.data.splits import split_in_words
    from mnist_exp.runs import tune

    study = tune.settle_study(
        model, space, seed=seed, epochs=epochs, fold=fold, device=device, engine=engine
    )
    where = split_in_words(tune.SPLIT, study.fold)
    print(f"A {study.name}: {counted(trials, 'trial')} on the {where}", flush=True)
    with TuneDisplay(trials) as display:
        done = tune.tune(
            study, trials, on_begin=display.begin, on_batch=display.batch, on_end=display.end
        )
    _print_best(study, done, trials)
    return 0


class TuneDisplay:
    """A bar over the trial under way on a terminal, and a line per trial that ends, everywhere."""

    def __init__(self, trials: int) -> None:
        self.trials = trials
        self.begun = time.monotonic()
        self.bar: ProgressDisplay | None = None
        self.told: set[str] = set()

    def __enter__(self) -> TuneDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.__exit__()

    def begin(self, number: int, plan: Plan) -> None:
        from mnist_exp.commands.display import ProgressDisplay

        self.begun = time.monotonic()
        self.bar = ProgressDisplay(plan.recipe.epochs, plan.split).__enter__()
        for caution in plan.findings.cautions:
            if caution not in self.told:  # by each trial, perhaps
                self.told.add(caution)
                print(f"take care: {caution}", flush=True)
        if plan.run_id:
            print(f"trial {number} goes on with run {plan.run_id}", flush=True)

    def batch(self, progress: Progress) -> None:
        if self.bar:
            self.bar.batch(progress)

    def end(self, trial: Trial) -> None:
        self.__exit__()
        ended = percent(trial.accuracy) if trial.finished else _early(trial)
        seconds = time.monotonic() - self.begun
        line = f"trial {trial.number}/{self.trials}: {ended}, {trial.settings}"
        print(f"{line} ({duration(seconds)})", flush=True)


def _early(trial: Trial) -> str:
    """How a trial ended that did not come to its end."""
    return f"pruned {trial.why}" if trial.why.startswith("after") else trial.why


def _print_best(study: Study, done: Sequence[Trial], asked: int) -> None:
    from mnist_exp.commands.display import print_table
    from mnist_exp.data.splits import split_as_set
    from mnist_exp.runs.tune import SPLIT
    from mnist_exp.showing import tables

    finished = [trial for trial in done if trial.finished]
    pruned = len(done) - len(finished)
    print(f"\n{counted(len(done), 'trial')}, of which {pruned} ended early")
    if len(done) < asked:
        print("All points of the space were tried.")
    if not finished:
        print("No trial came to its end: take another space, or more trials.", file=sys.stderr)
        return
    table = tables.shown_trials(finished)
    print_table(table.head(SHOWN), ["settings"])
    settings = table["settings"].iloc[0]
    number = study.entry.number
    epochs = f" EPOCHS={study.epochs}" if study.epochs else ""
    override = _quoted(settings)
    print("\nThe best, again, and on more seeds, since one seed decides nothing:")
    split = split_as_set(SPLIT, study.fold)
    print(f"  make run MODEL={number} SEED={study.seed}{epochs} {override}{split}")
    print(f"  make sweep MODELS={number} SEEDS=5{epochs} {override}{split}")


def _quoted(settings: str) -> str:
    """A setting as a shell reads it."""
    plain = not set('"$`\\!') & set(settings)
    return f'SET="{settings}"' if plain else f"SET={shlex.quote(settings)}"
