"""Is the target met, and on how many seeds? Judged on counts; nothing here reads or writes."""

from dataclasses import dataclass
from fractions import Fraction

import pandas as pd
from scipy.special import betaincinv

from mnist_exp.common.words import percent, ranges
from mnist_exp.recipe import Target


@dataclass(frozen=True)
class Condition:
    """One condition of the target, with the figure that decides it."""

    name: str
    measured: str
    met: bool


@dataclass(frozen=True)
class RunVerdict:
    """The conditions of the target for one run; it is met when every one of them is."""

    conditions: tuple[Condition, ...]

    @property
    def met(self) -> bool:
        return all(condition.met for condition in self.conditions)

    @property
    def reasons(self) -> dict[str, str]:
        """What is not met and why, as tags; a condition that is met has none."""
        failed = [f"{c.name}: {c.measured}" for c in self.conditions if not c.met]
        return {"verdict_reason": "; ".join(failed)} if failed else {}

    def __str__(self) -> str:
        return "target met" if self.met else "target not met"


def judge_run(run: pd.Series, target: Target) -> RunVerdict:
    """Judge one run by its row of `runs` together with its row of `scores`.

    Accuracy is compared as a count: 99.4 % of 10,000 is 9,940 correct digits. An epoch that is
    missing, doubled or without a test score fails the run.
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
    correct = int(run["test_images"]) - int(run["worst_errors"])
    # As a fraction of the decimal that is written in the target: 0.994 has no exact float.
    enough = Fraction(str(target.test_accuracy)) * int(run["test_images"])
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


def iterations(runs: pd.DataFrame, target: Target) -> pd.DataFrame:
    """The verdict on each iteration, over all its seeds: one row per `model`, ascending.

    `runs` are those that count, with their `scores`. Columns: `model`, `parameters`,
    `receptive_field`, `epochs`, `seeds` (how many), `which_seeds` (as in `1-5`),
    `best_train_accuracy`, `best_test_accuracy` with `best_seed` and `best_epoch`,
    `final_test_accuracy` (mean over seeds) and its sample standard deviation
    `final_test_accuracy_std` (missing for one seed), `worst_accuracy` with `worst_seed` and
    `worst_epoch`, `passing` (seeds) with the bounds `pass_low` and `pass_high` of the 95 % interval
    of the pass rate, `met`, `verdict` and `reason` (in words).
    """
    rows = [_iteration(own, target) for _, own in runs.groupby("model")]
    return pd.DataFrame(rows, columns=ITERATION_COLUMNS)


ITERATION_COLUMNS = (
    "model", "parameters", "receptive_field", "epochs", "seeds", "which_seeds",
    "best_train_accuracy", "best_test_accuracy", "best_seed", "best_epoch", "final_test_accuracy",
    "final_test_accuracy_std", "worst_accuracy", "worst_seed", "worst_epoch", "passing", "pass_low",
    "pass_high", "met", "verdict", "reason",
)  # fmt: skip


def _iteration(own: pd.DataFrame, target: Target) -> dict[str, object]:
    verdicts = [judge_run(run, target) for _, run in own.iterrows()]
    passing = sum(verdict.met for verdict in verdicts)
    best = own.sort_values("best_test_accuracy", kind="stable", na_position="first").iloc[-1]
    worst = own.sort_values("worst_accuracy", kind="stable", na_position="last").iloc[0]
    if passing == len(own):
        verdict = "met on every seed"
    elif passing:
        verdict = "met on some seeds"
    else:
        short = (own["epochs_run"] < target.last_epochs).all()
        verdict = "too few epochs" if short else "not met"
    low, high = pass_rate_interval(passing, len(own))
    return {
        "model": own["model"].iloc[-1],
        "parameters": own["parameters"].iloc[-1],
        "receptive_field": own["receptive_field"].iloc[-1],
        "epochs": own["epochs_run"].max(),
        "seeds": len(own),
        "which_seeds": ranges(own["seed"]),
        "best_train_accuracy": own["best_train_accuracy"].max(),
        "best_test_accuracy": best["best_test_accuracy"],
        "best_seed": best["seed"],
        "best_epoch": best["best_epoch"],
        "final_test_accuracy": own["final_test_accuracy"].mean(),
        "final_test_accuracy_std": own["final_test_accuracy"].std(),
        "worst_accuracy": worst["worst_accuracy"],
        "worst_seed": worst["seed"],
        "worst_epoch": worst["worst_epoch"],
        "passing": passing,
        "pass_low": low,
        "pass_high": high,
        "met": passing == len(own),
        "verdict": verdict,
        "reason": _reason(own, verdicts, best, worst, target),
    }


def _reason(
    own: pd.DataFrame, verdicts: list[RunVerdict], best: pd.Series, worst: pd.Series, target: Target
) -> str:
    """A verdict in words: what decides it, and on which seeds where it is not all of them."""
    lowest = f"lowest of the last {target.last_epochs} epochs {_where(worst, 'worst')}"
    missed: dict[str, list[int]] = {}
    for (_, run), verdict in zip(own.iterrows(), verdicts, strict=True):
        accuracy, *others = verdict.conditions
        if not accuracy.met:
            missed.setdefault(_unfit(run, target) or lowest, []).append(run["seed"])
        for condition in others:
            if not condition.met:
                text = f"{condition.name} are asked for, it has {condition.measured}"
                missed.setdefault(text, []).append(run["seed"])
    if not missed:
        return lowest
    reasons = [
        text if len(seeds) == len(own) else f"{text}; not met by seed {_list(seeds)}"
        for text, seeds in missed.items()
    ]
    if lowest in missed and len(missed[lowest]) == len(own):
        reached = best["best_test_accuracy"] >= target.test_accuracy
        if reached:
            once = _where(best, "best", "best_test_accuracy")
            reasons.append(f"its best epoch, {once}, is at the bar, but one epoch is no pass")
    return "; ".join(reasons)


def _where(run: pd.Series, which: str, accuracy: str = "worst_accuracy") -> str:
    return f"{percent(run[accuracy])} (seed {run['seed']}, epoch {run[f'{which}_epoch']:.0f})"


def _list(seeds: list[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def pass_rate_interval(passing: int, seeds: int) -> tuple[float, float]:
    """The exact (Clopper-Pearson) 95 % interval of the rate at which seeds pass."""
    return _lower_bound(passing, seeds, 0.025), 1 - _lower_bound(seeds - passing, seeds, 0.025)


def pass_rate_bound(passing: int, seeds: int) -> float:
    """The pass rate that so many passing seeds support: its exact 95 % one-sided lower bound."""
    return _lower_bound(passing, seeds, 0.05)


def _lower_bound(successes: int, trials: int, error: float) -> float:
    """Clopper and Pearson (1934), by quantiles of the beta distribution."""
    return float(betaincinv(successes, trials - successes + 1, error)) if successes else 0.0
