"""Is the target met? Judged on counts, from what the tracking store holds."""

from dataclasses import dataclass
from fractions import Fraction

import pandas as pd

from mnist_exp import ExpectedError
from mnist_exp.recipe import Target


@dataclass(frozen=True)
class Condition:
    """One condition of the target, with the figure that decides it."""

    name: str
    measured: str
    met: bool


@dataclass(frozen=True)
class Verdict:
    """The conditions of the target; it is met when every one of them is."""

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


def judge(history: pd.DataFrame, *, parameters: int, test_images: int, target: Target) -> Verdict:
    """Judge one run by its `history`: a row per epoch with the columns `epoch` (from 1) and
    `test_errors`, the digits of `test_images` that were misclassified.

    Accuracy is compared as a count: 99.4 % of 10,000 is 9,940 correct digits. An epoch that is
    missing, doubled or without a test score fails the run.
    """
    history = history.sort_values("epoch")
    return Verdict(
        (
            _accuracy(history, test_images, target),
            Condition(
                f"at most {target.max_epochs} epochs",
                f"{len(history)}",
                0 < len(history) <= target.max_epochs,
            ),
            Condition(
                f"fewer than {target.parameters_below:,} parameters",
                f"{parameters:,}",
                parameters < target.parameters_below,
            ),
        )
    )


def _accuracy(history: pd.DataFrame, test_images: int, target: Target) -> Condition:
    name = (
        f"test accuracy of at least {percent(target.test_accuracy)} "
        f"in each of the last {target.last_epochs} epochs"
    )
    if history["epoch"].tolist() != list(range(1, len(history) + 1)):
        return Condition(name, "the record of its epochs has gaps or doubles", False)
    if "test_errors" not in history or history["test_errors"].isna().any():
        return Condition(name, "not every epoch was scored on the test set", False)
    last = history.tail(target.last_epochs)
    if len(last) < target.last_epochs:
        return Condition(name, f"epochs run: only {len(last)}", False)
    worst = last.sort_values("test_errors", kind="stable").iloc[-1]
    correct = test_images - int(worst["test_errors"])
    measured = f"worst {percent(correct / test_images)}, in epoch {int(worst['epoch'])}"
    # As a fraction of the decimal that is written in the target: 0.994 has no exact float.
    return Condition(name, measured, correct >= Fraction(str(target.test_accuracy)) * test_images)


def newest_run(runs: pd.DataFrame, model: int, code_sha256: str) -> pd.Series:
    """The row of the newest run that speaks for an iteration: finished, with the recipe as the file
    has it now, scored on the test set.

    Raises ExpectedError when there is none, saying why the runs that there are do not count.
    """
    own = runs[runs["model"] == model] if len(runs) else runs
    if own.empty:
        raise ExpectedError(f"the store holds no run of model {model}: make run MODEL={model}")
    reasons = {
        "did not finish": own["status"] != "FINISHED",
        "overridden": own["overrides"] != "none",
        "on the validation split": own["split"] != "test",
        "of an earlier version of its file": own["code_sha256"] != code_sha256,
    }
    excluded = pd.DataFrame(reasons)
    counting = own[~excluded.any(axis=1)]
    if counting.empty:
        first = excluded.idxmax(axis=1).value_counts()  # each run by its first reason
        counts = ", ".join(f"{first[reason]} {reason}" for reason in reasons if reason in first)
        raise ExpectedError(f"no run of model {model} counts ({counts}): make run MODEL={model}")
    return counting.sort_values("start_time").iloc[-1]


def percent(fraction: float) -> str:
    """A fraction as it is shown everywhere, as in `99.40 %`."""
    return f"{100 * fraction:.2f} %"
