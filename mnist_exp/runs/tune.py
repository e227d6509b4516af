"""A study: Optuna looks for better values of a recipe's fields, by runs on the validation split.

The tracking store alone knows what was tried, and before each trial the study is made anew from it.
So it goes on after any end as if nothing had been: what a trial tries depends on the seed, the
space and the trials before it, and a run that was killed goes on from its last epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from mnist_exp import data, tracking
from mnist_exp.common import interrupts, markdown
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import counted
from mnist_exp.data.splits import LAST, one_fold
from mnist_exp.evidence.trials import Trial, trials_of
from mnist_exp.notebook import entries
from mnist_exp.notebook.entries import Entry
from mnist_exp.runs import check, checkpoint, engines, grid, overrides, resume, run, space
from mnist_exp.runs.plan import Plan, check_request, settle
from mnist_exp.runs.space import Choices, Range, Space
from mnist_exp.showing import tables
from mnist_exp.tracking import PrunedError, names
from mnist_exp.training.computing import Engine
from mnist_exp.training.loop import EpochResult, NonFiniteLossError, Progress

if TYPE_CHECKING:
    import optuna

SPLIT: data.Split = "validation"
UNTIL_PRUNED = 5
"""Trials that come to their end before one is pruned."""
DRAWS = 100
"""How often a point is drawn anew that was tried before, until the space counts as tried out."""


@dataclass(frozen=True)
class Study:
    """What is looked for: better values in a space, for an iteration as it was read, trained from
    one seed. `epochs` are None for those of its file."""

    entry: Entry
    space: Space
    seed: int
    epochs: int | None
    fold: data.Fold | None
    device: str
    engine: Engine

    @property
    def name(self) -> str:
        """The name of the parent run: the same for the same study of the same code."""
        epochs = f", {counted(self.epochs, 'epoch')}" if self.epochs else ""
        what = f"model {self.entry.number} ({tables.short(self.entry.code_sha256)})"
        # Before there were folds, all were of the last digits, and so they go on.
        fold = "" if self.fold == LAST else f", fold {self.fold}"
        return f"tuning of {what}, seed {self.seed}{fold}{epochs}, {grid.in_short(self.words)}"

    @property
    def words(self) -> str:
        """The space as text."""
        return space.space_text(self.space)


def settle_study(
    number: int, text: str, *, seed: int = 1, epochs: int | None = None, fold: str | None = None,
    device: str = "auto", engine: str = "auto",
) -> Study:  # fmt: skip
    """Settle a study of the space that a text describes, on one fold.

    Raises ExpectedError for a space that the recipe does not have, and without Optuna.
    """
    _optuna()
    held_out = one_fold(SPLIT, fold)
    entry = entries.read_entry(number)
    dimensions = space.read_space(text, check.recipe_from(entry, seed), epochs)
    for name, dimension in dimensions.items():
        for value in dimension.ends:  # what is between is as right or wrong, nearly always
            check_request(entry, seed, {name: value}, SPLIT, held_out)
    chosen, on = engines.choose_engine(engine, device)
    return Study(entry, dimensions, seed, epochs, held_out, on.type, chosen.name)


def tune(
    study: Study,
    trials: int,
    *,
    on_begin: Callable[[int, Plan], None],
    on_batch: Callable[[Progress], None],
    on_end: Callable[[Trial], None],
) -> tuple[Trial, ...]:
    """Carry out what is missing of so many trials, or of all points of the space, each as a run
    below one parent run; returns all of them, the first first.

    `on_begin` hears the number of a trial and what is trained, `on_batch` and `on_end` how it goes.
    An interrupt ends the run under way as KILLED, and is raised again; then the same call goes on.
    """
    with _alone(study), tracking.continue_run(study.name) as parent:
        try:
            while len(done := trials_of(parent.run_id)) < trials:
                settings = _suggest(study, done)
                if settings is None:
                    break
                number = len(done) + 1
                _carry_out(study, parent.run_id, number, settings, on_begin, on_batch)
                on_end(trials_of(parent.run_id)[number - 1])
                interrupts.check()
        except KeyboardInterrupt as interrupt:
            interrupt.add_note("the same command goes on")
            raise
        table = markdown.as_table(tables.shown_trials(done))
        parent.describe(f"A {study.name}.\n\nThe space: {markdown.escape(study.words)}\n\n{table}")
    return done


@contextmanager
def _alone(study: Study) -> Iterator[None]:
    """A block for one process at a time: two would try the same."""
    folder = resume.checkpoints()
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(study.name.encode()).hexdigest()[:32]
    file = folder / f"study-{name}.lock"
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ExpectedError(
            "another process goes on with this study: wait for its end, or set another SEED"
        ) from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def _carry_out(
    study: Study, parent: str, number: int, settings: str,
    on_begin: Callable[[int, Plan], None], on_batch: Callable[[Progress], None],
) -> None:  # fmt: skip
    """Train and record a trial, until its end or until it is pruned."""
    plan = settle(
        study.entry.number, seed=study.seed, overrides=overrides.read(settings, study.epochs),
        device=study.device, split=SPLIT, fold=study.fold, entry=study.entry, engine=study.engine,
    )  # fmt: skip
    plan = resume.going_on(plan)
    on_begin(number, plan)
    pruner = _Pruner(study, trials_of(parent), settings, plan)

    def watch(progress: Progress) -> None:
        pruner.check()  # what it was resumed with
        on_batch(progress)

    tags = {names.STUDY: parent, names.TRIAL: f"{number}", names.SETTINGS: settings}
    with suppress(PrunedError, NonFiniteLossError):  # the run says it, and is a trial like others
        run.carry_out(plan, on_batch=watch, on_epoch=pruner.add, parent=parent, tags=tags)


class _Pruner:
    """Ends a trial that does worse than the half of those before it."""

    def __init__(self, study: Study, done: Sequence[Trial], settings: str, plan: Plan) -> None:
        self.epochs = plan.recipe.epochs
        made = _made(study, done, seed=0, warm_up=self.epochs // 3)
        made.enqueue_trial(_parameters(study, settings))
        self.trial = made.ask(_distributions(study))
        self.last = 0
        if plan.run_id:
            state = checkpoint.checkpoint_of(plan.run_id, resume.checkpoints()).load()["state"]
            for result in state["results"]:
                score = result["evaluation"]
                self._report(result["epoch"], score["correct"] / score["total"])

    def add(self, result: EpochResult) -> None:
        """Take in an epoch; raises PrunedError if it is the last for this trial."""
        self._report(result.epoch, result.evaluation.accuracy)
        self.check()

    def check(self) -> None:
        if self.last < self.epochs and self.trial.should_prune():
            raise PrunedError(f"after epoch {self.last} of {self.epochs}")

    def _report(self, epoch: int, accuracy: float) -> None:
        self.trial.report(accuracy, epoch)
        self.last = epoch


def _suggest(study: Study, done: Sequence[Trial]) -> str | None:
    """The settings to try next; None if all of the space was tried."""
    tried = {trial.settings for trial in done}
    for draw in range(DRAWS):
        seed = np.random.SeedSequence([study.seed, len(done), draw]).generate_state(1)[0]
        asked = _made(study, done, seed=int(seed)).ask(_distributions(study))
        settings = _settings(study, asked.params)
        if settings not in tried:
            return settings
    return None


def _made(study: Study, done: Sequence[Trial], *, seed: int, warm_up: int = 0) -> optuna.Study:
    """Optuna's study, with all that is done."""
    library = _optuna()
    made: optuna.Study = library.create_study(
        direction="maximize",
        sampler=library.samplers.TPESampler(seed=seed),
        pruner=library.pruners.MedianPruner(UNTIL_PRUNED, warm_up),
    )
    states = {True: library.trial.TrialState.COMPLETE, False: library.trial.TrialState.PRUNED}
    for trial in done:
        made.add_trial(
            library.trial.create_trial(
                state=states[trial.finished], params=_parameters(study, trial.settings),
                distributions=_distributions(study),
                value=trial.accuracies[-1] if trial.accuracies else None,
                intermediate_values=dict(enumerate(trial.accuracies, start=1)),
            )
        )  # fmt: skip
    return made


def _distributions(study: Study) -> dict[str, optuna.distributions.BaseDistribution]:
    kinds = _optuna().distributions
    return {
        name: kinds.CategoricalDistribution(tuple(map(overrides.value_as_text, dimension.values)))
        if isinstance(dimension, Choices)
        else kinds.IntDistribution(dimension.low, dimension.high, log=dimension.log)
        if dimension.whole
        else kinds.FloatDistribution(dimension.low, dimension.high, log=dimension.log)
        for name, dimension in study.space.items()
    }


def _parameters(study: Study, settings: str) -> dict[str, object]:
    """What Optuna calls the settings of a trial: choices are texts there."""
    return {
        name: overrides.value_as_text(value) if isinstance(study.space[name], Choices) else value
        for name, value in overrides.read(settings).items()
    }


def _settings(study: Study, parameters: dict[str, Any]) -> str:
    """The settings of a trial that Optuna chose, as text."""
    shortened = {
        name: dimension.short(parameters[name])
        if isinstance(dimension, Range)
        else parameters[name]
        for name, dimension in study.space.items()
    }
    return " ".join(f"{name}={shortened[name]}" for name in sorted(shortened))


def _optuna() -> Any:
    """The library, which only a study needs."""
    try:
        import optuna
    except ImportError:
        raise ExpectedError(
            "make tune needs Optuna: .venv/bin/python -m pip install --editable '.[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
