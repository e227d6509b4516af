"""Is the target met, on how many seeds, and which step made a difference?

Judged on counts, from what the tracking store holds. Tables are those of `tracking.runs` and
`tracking.history`; nothing here reads or writes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pandas as pd
from scipy.special import betaincinv

from mnist_exp import counted
from mnist_exp.recipe import Target

FEWEST_PAIRS = 3
"""With fewer seeds in common, no interval is given for the difference of two iterations."""


@dataclass(frozen=True)
class Condition:
    """One condition of the target, with the figure that decides it."""

    name: str
    measured: str
    met: bool


@dataclass(frozen=True)
class Verdict:
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


def scores(
    runs: pd.DataFrame, history: pd.DataFrame, target: Target, split: str = "test"
) -> pd.DataFrame:
    """What the epochs of each run come to: one row per row of `runs`, on the same index.

    `runs` has `run_id` and `test_images`; `history` has `run_id`, `epoch` (from 1) and
    `test_errors`: the digits of `test_images` that were misclassified. For another `split` the two
    are called after it; the columns below are not.

    Columns: `epochs_run`; `complete`, whether the epochs are 1, 2, 3, ... each once; `scored`,
    whether every one has a test score; `best_train_accuracy`; `best_test_accuracy` and its
    `best_epoch`; `final_test_accuracy`; `worst_errors` in the last epochs that the target looks at,
    `worst_accuracy` and `worst_epoch` (the latest, when several are as bad). Accuracies are
    fractions. Missing where the record of the epochs is not complete and scored, or, for the worst,
    shorter than what the target looks at.
    """
    columns = ["run_id", "epoch", f"{split}_errors", "train_accuracy"]
    rows = history.reindex(columns=columns).sort_values(["run_id", "epoch"], kind="stable")
    rows = rows.rename(columns={f"{split}_errors": "test_errors"})
    own = rows.groupby("run_id")
    place = own.cumcount()
    table = pd.DataFrame(
        {
            "epochs_run": own.size(),
            "complete": (rows["epoch"] == place + 1).groupby(rows["run_id"]).all(),
            "scored": rows["test_errors"].notna().groupby(rows["run_id"]).all(),
            "best_train_accuracy": own["train_accuracy"].max(),
            "final_errors": own["test_errors"].last(),
        }
    )
    tested = rows.dropna(subset="test_errors")
    best = tested.sort_values("test_errors", kind="stable").groupby("run_id").first()
    last = rows[place >= own["epoch"].transform("size") - target.last_epochs]
    last = last.dropna(subset="test_errors").sort_values("test_errors", kind="stable")
    worst = last.groupby("run_id").last()
    table["best_errors"], table["best_epoch"] = best["test_errors"], best["epoch"]
    table["worst_errors"], table["worst_epoch"] = worst["test_errors"], worst["epoch"]

    table = table.reindex(runs["run_id"]).set_axis(runs.index)
    table["epochs_run"] = table["epochs_run"].fillna(0).astype(int)
    for column in ("complete", "scored"):
        table[column] = table[column].eq(True)
    sound = table["complete"] & table["scored"]
    long = table["epochs_run"] >= target.last_epochs
    for name, tells in (("best", sound), ("final", sound), ("worst", sound & long)):
        for column in table.columns.intersection([f"{name}_errors", f"{name}_epoch"]):
            table[column] = table[column].where(tells)
    images = pd.to_numeric(runs[f"{split}_images"], errors="coerce")
    for name in ("best", "final", "worst"):
        accuracy = "worst_accuracy" if name == "worst" else f"{name}_test_accuracy"
        table[accuracy] = (images - table[f"{name}_errors"]) / images
    return table.drop(columns=["best_errors", "final_errors"])


def judge(run: pd.Series, target: Target) -> Verdict:
    """Judge one run by its row of `runs` together with its row of `scores`.

    Accuracy is compared as a count: 99.4 % of 10,000 is 9,940 correct digits. An epoch that is
    missing, doubled or without a test score fails the run.
    """
    epochs, parameters = int(run["epochs_run"]), int(run["parameters"])
    return Verdict(
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


def exclusions(runs: pd.DataFrame, code_sha256: Mapping[int, str]) -> pd.Series:
    """Why each run does not speak for its iteration; "" where it does.

    `code_sha256` holds the hash of each iteration as it stands now. The runs that count are
    finished, with the recipe as the file has it, scored on the test set, and the newest of their
    iteration and seed.
    """
    now = runs["model"].map(lambda number: code_sha256.get(number, ""))
    needed = runs[["seed", "parameters", "test_images"]].apply(pd.to_numeric, errors="coerce")
    reasons = {
        "not finished": runs["status"] != "FINISHED",
        "overridden": runs["overrides"] != "none",
        "on the validation split": runs["split"] != "test",
        "incomplete: without seed, parameters or test images": needed.isna().any(axis=1),
        "its iteration's file is gone": now == "",
        "stale: of an earlier version of its file": runs["code_sha256"] != now,
    }
    excluded = pd.Series("", index=runs.index, dtype=object)
    for reason, applies in reasons.items():
        excluded = excluded.mask(applies & (excluded == ""), reason)
    counting = runs[excluded == ""].sort_values("start_time", kind="stable")
    superseded = counting.index[counting.duplicated(["model", "seed"], keep="last")]
    excluded[superseded] = "superseded by a newer run of its seed"
    return excluded


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
    verdicts = [judge(run, target) for _, run in own.iterrows()]
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
    own: pd.DataFrame, verdicts: list[Verdict], best: pd.Series, worst: pd.Series, target: Target
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


@dataclass(frozen=True)
class Effect:
    """How much the final test accuracy of an iteration differs from that of another (fractions),
    paired by seed: the mean over the seeds they share, with a 95 % interval (None where there are
    too few to tell)."""

    model: int
    baseline: int
    seeds: tuple[int, ...]
    mean: float
    interval: tuple[float, float] | None

    @property
    def worse(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.interval is not None and self.interval[1] < 0

    @property
    def better(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.interval is not None and self.interval[0] > 0

    def __str__(self) -> str:
        pairs = counted(len(self.seeds), "pair")
        if not self.seeds:
            return "not enough seeds to tell (0 pairs)"
        mean = points(self.mean)
        if self.interval is None:
            return f"not enough seeds to tell ({pairs}, mean {mean})"
        low, high = map(points, self.interval)
        return f"{mean} points, 95 % interval {low} to {high} ({pairs})"


def effect(runs: pd.DataFrame, model: int, baseline: int) -> Effect:
    """The effect of `model` against `baseline`, from runs that count, with their `scores`.

    The interval is a bootstrap of the mean of the paired differences (percentiles of 9,999
    resamples, always the same ones). With few pairs it is too narrow: of three it is the range of
    the differences, which holds the true mean in about three of four cases.
    """
    final = runs.pivot(index="seed", columns="model", values="final_test_accuracy")
    pairs = final.reindex(columns=[model, baseline]).dropna()
    differences = (pairs[model] - pairs[baseline]).to_numpy()
    interval = None
    if len(differences) >= FEWEST_PAIRS:
        from scipy import stats  # half a second, which most commands need not wait for

        bounds = stats.bootstrap(
            (differences,), np.mean, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        # Rounded, since a difference of none may come out as -1e-17, which is not worse.
        interval = round(float(bounds.low), 9), round(float(bounds.high), 9)
    mean = float(differences.mean()) if len(differences) else float("nan")
    return Effect(model, baseline, tuple(pairs.index), mean, interval)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in short, as in `1-5 7`."""
    groups: list[list[int]] = []
    for number in sorted(numbers):
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return " ".join(f"{own[0]}-{own[-1]}" if len(own) > 1 else f"{own[0]}" for own in groups)


def percent(fraction: float) -> str:
    """A fraction as it is shown everywhere, as in `99.40 %`; "–" where there is none."""
    return "–" if pd.isna(fraction) else f"{100 * fraction:.2f} %"


def points(difference: float) -> str:
    """A difference of two fractions in percentage points, as in `+0.12`, and `+0.002` where two
    digits would not tell it from none."""
    return f"{100 * difference:+{'.1g' if 1e-6 <= abs(difference) < 5e-5 else '.2f'}}"
