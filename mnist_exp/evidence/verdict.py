"""Is the target met, and on how many seeds? Judged on counts; nothing here reads or writes."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from fractions import Fraction

import pandas as pd
from scipy.special import betaincinv

from mnist_exp.common.words import percent, ranges
from mnist_exp.notebook.entries import Entry
from mnist_exp.recipe import Target


@dataclass(frozen=True)
class Condition:
    """One condition of the target, with the figure that decides it."""

    name: str
    measured: str
    met: bool


TARGET_MET = "target met"
"""What is said, and recorded, of a run that meets the target."""


@dataclass(frozen=True)
class RunVerdict:
    """The conditions of the target for one run; it is met when every one of them is."""

    conditions: tuple[Condition, ...]

    @property
    def met(self) -> bool:
        return all(condition.met for condition in self.conditions)

    @property
    def reason(self) -> str:
        """What is not met and why; empty when the target is met."""
        return "; ".join(f"{c.name}: {c.measured}" for c in self.conditions if not c.met)

    def __str__(self) -> str:
        return TARGET_MET if self.met else "target not met"


class Answer(StrEnum):
    """What a verdict says to the question whether an iteration meets the target."""

    MET = "met on every seed"
    MET_ON_SOME = "met on some seeds"
    NOT_MET = "not met"
    TOO_FEW_EPOCHS = "too few epochs"
    TOO_FEW_SEEDS = "too few seeds"
    NOT_JUDGED = "not judged"
    """Of an iteration without a run that counts, on which there is no Verdict."""


@dataclass(frozen=True)
class EpochScore:
    """The accuracy (a fraction) after one epoch of the run with a seed."""

    accuracy: float
    seed: int
    epoch: int

    def __str__(self) -> str:
        return f"{percent(self.accuracy)} (seed {self.seed}, epoch {self.epoch})"


@dataclass(frozen=True)
class Miss:
    """What is not as the target asks, in words, and the seeds of the runs of which that is so."""

    what: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Verdict:
    """What all runs of an iteration have in common, and whether they meet the target.

    Accuracies are fractions, on the `split` of the runs. The target is about the test split: of
    runs on another, only the scores are of use.
    """

    model: int | None
    """The number of the iteration; None for an idea of a script, which has a title alone."""
    title: str
    split: str
    fold: str | None
    """Of the validation split: what was held out."""
    target: Target
    parameters: int
    receptive_field: object
    """As the runs recorded it: the pixels of a side, or text."""
    epochs: int
    """Those of the longest run."""
    seeds: tuple[int, ...]
    """Of every run, ascending."""
    demanded: int
    """How many seeds are asked for."""
    passing: int
    """How many runs meet the target."""
    misses: tuple[Miss, ...]
    best_train_accuracy: float
    best: EpochScore | None
    """The best epoch of all runs; None where no run is complete and scored."""
    worst: EpochScore | None
    """The worst of the last epochs of all runs; None where no run has enough of them."""
    final_accuracy: float
    """The mean over the runs after their last epoch."""
    final_accuracy_std: float
    """Its sample standard deviation; NaN for one run."""
    luck: float
    """The standard deviation that it would have if each digit were wrong by chance, at the same
    rate; see `luck_alone`."""

    @property
    def name(self) -> str:
        """What is judged, as in "Model 5", or the title where there is no number."""
        return self.title if self.model is None else f"Model {self.model}"

    @property
    def answer(self) -> Answer:
        if self.passing == len(self.seeds):
            return Answer.MET if self.demanded <= len(self.seeds) else Answer.TOO_FEW_SEEDS
        if self.passing:
            return Answer.MET_ON_SOME
        short = self.epochs < self.target.last_epochs
        return Answer.TOO_FEW_EPOCHS if short else Answer.NOT_MET

    @property
    def met(self) -> bool:
        return self.answer is Answer.MET

    @property
    def pass_rate(self) -> tuple[float, float]:
        """The bounds of the 95 % interval of the rate at which seeds pass."""
        return pass_rate_interval(self.passing, len(self.seeds))

    @property
    def reason(self) -> str:
        """What decides the answer, in words, and on which seeds where it is not all of them."""
        lowest = _lowest(self.worst, self.target)
        everywhere = {miss.what for miss in self.misses if len(miss.seeds) == len(self.seeds)}
        reasons = [
            miss.what if miss.what in everywhere
            else f"{miss.what}; not met by seed {', '.join(map(str, miss.seeds))}"
            for miss in self.misses
        ] or [lowest]  # fmt: skip
        reached = self.best is not None and self.best.accuracy >= self.target.test_accuracy
        if lowest in everywhere and reached:
            reasons.append(f"its best epoch, {self.best}, is at the bar, but one epoch is no pass")
        if self.demanded > len(self.seeds):
            reasons.insert(0, f"{self.demanded} seeds are asked for, {len(self.seeds)} were run")
        return "; ".join(reasons)


def judge_run(run: pd.Series, target: Target) -> RunVerdict:
    """Judge one run by its row of `runs` together with its row of `scores`.

    Accuracy is compared as a count: 99.4 % of 10,000 is 9,940 correct digits. An epoch that is
    missing, doubled or without a score fails the run.
    """
    epochs, parameters = int(run["epochs_run"]), int(run["parameters"])
    return RunVerdict(
        (
            _accuracy(run, target),
            Condition(
                f"at most {target.max_epochs} epochs", f"{epochs}", epochs <= target.max_epochs
            ),
            Condition(
                f"fewer than {target.parameters_below:,} parameters",
                f"{parameters:,}",
                parameters < target.parameters_below,
            ),
        )
    )


def _accuracy(run: pd.Series, target: Target) -> Condition:
    name = (
        f"test accuracy of at least {percent(target.test_accuracy)} "
        f"in each of the last {target.last_epochs} epochs"
    )
    unfit = _unfit(run, target)
    if unfit:
        return Condition(name, unfit, False)
    measured = f"worst {percent(run['worst_accuracy'])}, in epoch {int(run['worst_epoch'])}"
    correct = int(run["evaluation_images"]) - int(run["worst_errors"])
    # As a fraction of the decimal that is written in the target: 0.994 has no exact float.
    enough = Fraction(str(target.test_accuracy)) * int(run["evaluation_images"])
    return Condition(name, measured, correct >= enough)


def _unfit(run: pd.Series, target: Target) -> str:
    """Why the last epochs of a run say nothing; "" when they do."""
    if run["epochs_run"] and not run["complete"]:
        return "the record of its epochs has gaps or doubles"
    if run["epochs_run"] and not run["scored"]:
        return "not every epoch was scored on the test set"
    if run["epochs_run"] < target.last_epochs:
        return f"epochs run: only {run['epochs_run']}"
    return ""


def judge_iteration(
    iteration: Entry, runs: pd.DataFrame, target: Target, demanded: int = 0
) -> Verdict:
    """The verdict on an iteration over all its seeds, of which `demanded` are asked for."""
    return judge_runs(
        runs, target, title=iteration.title, model=iteration.number, demanded=demanded
    )


def judge_runs(
    runs: pd.DataFrame, target: Target, *, title: str, model: int | None = None, demanded: int = 0
) -> Verdict:
    """The verdict on what the runs have in common, an iteration or the idea of a script.

    There is at least one, they are all on one split, and have their `scores`.
    """
    by_best = runs.sort_values("best_accuracy", kind="stable", na_position="first")
    by_worst = runs.sort_values("worst_accuracy", kind="stable", na_position="last")
    best, worst = _epoch_score(by_best.iloc[-1], "best"), _epoch_score(by_worst.iloc[0], "worst")
    verdicts = [judge_run(run, target) for _, run in runs.iterrows()]
    newest = runs.iloc[-1]
    return Verdict(
        model=model,
        title=title,
        split=newest["split"],
        fold=None if pd.isna(newest["fold"]) else newest["fold"],
        target=target,
        parameters=int(newest["parameters"]),
        receptive_field=newest["receptive_field"],
        epochs=int(runs["epochs_run"].max()),
        seeds=tuple(sorted(map(int, runs["seed"]))),
        demanded=demanded,
        passing=sum(verdict.met for verdict in verdicts),
        misses=_misses(runs, verdicts, target, _lowest(worst, target)),
        best_train_accuracy=float(runs["best_train_accuracy"].max()),
        best=best,
        worst=worst,
        final_accuracy=(final := float(runs["final_accuracy"].mean())),
        final_accuracy_std=float(runs["final_accuracy"].std()),
        luck=luck_alone(final, int(newest["evaluation_images"])),
    )


def _epoch_score(run: pd.Series, which: str) -> EpochScore | None:
    if pd.isna(run[f"{which}_accuracy"]):
        return None
    return EpochScore(float(run[f"{which}_accuracy"]), int(run["seed"]), int(run[f"{which}_epoch"]))


def _lowest(worst: EpochScore | None, target: Target) -> str:
    return f"lowest of the last {target.last_epochs} epochs {worst}"


def _misses(
    runs: pd.DataFrame, verdicts: list[RunVerdict], target: Target, lowest: str
) -> tuple[Miss, ...]:
    """What the runs miss, each said once; `lowest` says that of those whose accuracy is too low."""
    missed: dict[str, list[int]] = {}
    for (_, run), verdict in zip(runs.iterrows(), verdicts, strict=True):
        accuracy, *others = verdict.conditions
        if not accuracy.met:
            missed.setdefault(_unfit(run, target) or lowest, []).append(int(run["seed"]))
        for condition in others:
            if not condition.met:
                what = f"{condition.name} are asked for, it has {condition.measured}"
                missed.setdefault(what, []).append(int(run["seed"]))
    return tuple(Miss(what, tuple(sorted(seeds))) for what, seeds in missed.items())


COLUMNS = (
    "model", "title", "split", "fold", "parameters", "receptive_field", "epochs", "seeds",
    "which_seeds", "best_train_accuracy", "best_accuracy", "best_seed", "best_epoch",
    "final_accuracy", "final_accuracy_std", "luck", "worst_accuracy", "worst_seed", "worst_epoch",
    "passing", "pass_low", "pass_high", "met", "verdict", "reason",
)  # fmt: skip


JUDGING = ("passing", "pass_low", "pass_high", "met", "verdict", "reason")
"""Those of COLUMNS that only the test split has."""


def as_frame(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """Verdicts as a table for figures, files and other programs: one row each, in their order.

    Columns: COLUMNS. `seeds` is how many there are, `which_seeds` as in `1-5`. Accuracies are
    fractions. `best_accuracy` and `worst_accuracy` come with the seed and the epoch (Int64) that
    reached them, all three missing where there is none. `pass_low` and `pass_high` are the bounds
    of the 95 % interval of the pass rate. `verdict` and `reason` are texts.
    """
    table = pd.DataFrame([_row(verdict) for verdict in verdicts], columns=COLUMNS)
    places = ("best_seed", "best_epoch", "worst_seed", "worst_epoch")
    return table.astype(dict.fromkeys(places, "Int64"))


def _row(verdict: Verdict) -> dict[str, object]:
    low, high = verdict.pass_rate
    scores = {
        f"{which}_{name}": value
        for which, score in (("best", verdict.best), ("worst", verdict.worst)) if score
        for name, value in asdict(score).items()
    }  # fmt: skip
    return scores | {
        "model": verdict.model,
        "title": verdict.title,
        "split": verdict.split,
        "fold": verdict.fold,
        "parameters": verdict.parameters,
        "receptive_field": verdict.receptive_field,
        "epochs": verdict.epochs,
        "seeds": len(verdict.seeds),
        "which_seeds": ranges(verdict.seeds),
        "best_train_accuracy": verdict.best_train_accuracy,
        "final_accuracy": verdict.final_accuracy,
        "final_accuracy_std": verdict.final_accuracy_std,
        "luck": verdict.luck,
        "passing": verdict.passing,
        "pass_low": low,
        "pass_high": high,
        "met": verdict.met,
        "verdict": verdict.answer.value,
        "reason": verdict.reason,
    }


def as_records(verdicts: Iterable[Verdict]) -> list[dict[str, object]]:
    """The rows of `as_frame` as plain values; None where there is none."""
    table = as_frame(verdicts).astype(object)
    records: list[dict[str, object]] = table.where(table.notna(), None).to_dict("records")  # type: ignore[assignment]
    return records


def luck_alone(accuracy: float, images: int) -> float:
    """The standard deviation of accuracies of the same `images` digits if each of them were wrong
    by chance, independently of the others, and as likely as any other: sqrt(p (1 - p) / n).

    All seeds are scored on the same digits, of which some are wrong for each, and most for none. So
    chance scatters real seeds by less, and a larger scatter is not chance alone.
    """
    return math.sqrt(accuracy * (1 - accuracy) / images)


def pass_rate_interval(passing: int, seeds: int) -> tuple[float, float]:
    """The exact (Clopper-Pearson) 95 % interval of the rate at which seeds pass."""
    return _lower_bound(passing, seeds, 0.025), 1 - _lower_bound(seeds - passing, seeds, 0.025)


def pass_rate_bound(passing: int, seeds: int) -> float:
    """The pass rate that so many passing seeds support: its exact 95 % one-sided lower bound."""
    return _lower_bound(passing, seeds, 0.05)


def _lower_bound(successes: int, trials: int, error: float) -> float:
    """Clopper and Pearson (1934), by quantiles of the beta distribution."""
    return float(betaincinv(successes, trials - successes + 1, error)) if successes else 0.0
