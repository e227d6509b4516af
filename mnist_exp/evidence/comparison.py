"""What the tracking store says about the iterations, judged: the tables behind every report.

Measured numbers come from the store alone; `experiments/` gives the words, the code and the target,
and tells which runs were made with the recipe as it stands.
"""

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mnist_exp import ExpectedError, tracking
from mnist_exp.common.words import ranges
from mnist_exp.evidence import effect, scores, verdict
from mnist_exp.evidence.effect import Effect
from mnist_exp.notebook import entries, loading
from mnist_exp.notebook.entries import Entry
from mnist_exp.recipe import Target

WHOLE: Any = {"seed": int, "parameters": int}
"""Columns of whole numbers, also where the runs of others have none."""


@dataclass(frozen=True)
class Comparison:
    """Iterations and their runs."""

    target: Target
    iterations: Mapping[int, Entry]
    """Those with runs in the store and a file in the notebook, ascending."""
    runs: pd.DataFrame
    """Every run of an iteration, with its scores and why it does not count (`excluded`)."""
    history: pd.DataFrame
    verdicts: pd.DataFrame
    """One row per iteration with runs that count: `verdict.iterations`, and its `title`."""
    unrun: tuple[int, ...] = ()
    """Iterations of the notebook of which the store has no run at all."""

    @property
    def counting(self) -> pd.DataFrame:
        """The runs that speak for their iterations."""
        counting = self.runs[self.runs["excluded"] == ""]
        return counting.astype(WHOLE | {"test_images": int})

    @property
    def trials(self) -> pd.DataFrame:
        """The finished runs of whole recipes on the validation split, by which candidates were
        chosen."""
        finished = (self.runs["status"] == "FINISHED") & (self.runs["overrides"] == "none")
        trials = self.runs[finished & (self.runs["split"] == "validation")]
        return trials.dropna(subset=["seed", "code_sha256"])

    @property
    def candidates(self) -> pd.DataFrame:
        """What was tried on the validation split: one row per recipe, in the order of trying.

        Columns: `code_sha256`, `model`, `idea`, `parameters`, `epochs`, `seeds` (how many, the
        newest run of each), `worst_accuracy` in the last epochs that the target looks at, and
        `final_accuracy`, the mean over the seeds; both of the validation digits.
        """
        columns = ["run_id", "model", "idea", "code_sha256", "parameters", "validation_images"]
        runs = self.trials.drop_duplicates(["code_sha256", "seed"], keep="last")
        runs = runs.reindex(columns=columns)
        runs = runs.join(scores.scores(runs, self.history, self.target, "validation"))
        groups = runs.groupby("code_sha256", sort=False)
        table = groups.agg(
            model=("model", "first"), idea=("idea", "first"), parameters=("parameters", "first"),
            epochs=("epochs_run", "max"), seeds=("run_id", "size"),
            worst_accuracy=("worst_accuracy", "min"),
            final_accuracy=("final_test_accuracy", "mean"),
        )  # fmt: skip
        return table.reset_index()

    @property
    def core_hours(self) -> float:
        """What all epochs of all runs took, in hours of one processor core."""
        epochs = self.history.reindex(columns=["run_id", "epoch_seconds"])
        seconds = epochs.groupby("run_id")["epoch_seconds"].sum()
        threads = pd.to_numeric(self.runs.set_index("run_id")["threads"], errors="coerce")
        return float((seconds * threads.fillna(1)).sum() / 3600)

    @property
    def uncounted(self) -> dict[int, str]:
        """The iterations without a run that counts, and why. What was only tried on the validation
        split and is not in the notebook is no iteration: `candidates` has it."""
        models = self.runs["model"]
        iteration = models.isin(list(self.iterations)) | (self.runs["split"] != "validation")
        left = self.runs[iteration & ~models.isin(set(self.verdicts["model"]))]
        reasons = {
            int(str(number)): ", ".join(f"{n} {reason}" for reason, n in own.value_counts().items())
            for number, own in left.groupby("model")["excluded"]
        }
        said = {number: f"no run counts ({why})" for number, why in reasons.items()}
        return dict(sorted((said | dict.fromkeys(self.unrun, "not run")).items()))

    @property
    def choices(self) -> dict[int, str]:
        """Which seeds served to choose an iteration, on the validation split, and which to confirm
        it, on the test split; of those that were run, as they stand now, on the former."""
        hashes = {number: entry.code_sha256 for number, entry in self.iterations.items()}
        trials = self.trials
        choosing = trials[trials["code_sha256"] == trials["model"].map(hashes)]
        told = {}
        for number in sorted(set(choosing["model"])):
            chosen = set(choosing.loc[choosing["model"] == number, "seed"].astype(int))
            tested = set(self.counting.loc[self.counting["model"] == number, "seed"])
            words = [f"compared on the validation split with {_seeds(chosen)}"]
            words += [f"tested with {_seeds(tested)}" if tested else "not tested yet"]
            if chosen & tested:
                words += [f"{_seeds(chosen & tested)} served for both"]
            told[number] = "; ".join(words)
        return told

    def steps(self) -> list[Effect]:
        """The effect of each iteration against the one it was made from: of those before it, the
        one from which the fewest lines of code were changed, or the last such."""
        numbers = list(self.iterations)
        effects = []
        for place, model in enumerate(numbers[1:], start=1):
            before = {number: self.iterations[number] for number in numbers[:place]}
            baseline = nearest(self.iterations[model], before)
            effects.append(effect.effect(self.counting, model, baseline))
        return effects

    def best_run(self) -> pd.Series | None:
        """The run that counts with the highest of the worst of its last epochs; the first such."""
        ranked = self.counting.dropna(subset="worst_accuracy")
        if ranked.empty:
            return None
        return ranked.sort_values("worst_accuracy", ascending=False, kind="stable").iloc[0]


def compare(models: Collection[int] = ()) -> Comparison:
    """Judge what the store holds of `models`, or of every iteration.

    Raises ExpectedError when it holds no run of them.
    """
    target = loading.load_target()
    runs = _ours(tracking.runs())
    if models:
        runs = runs[runs["model"].isin(models)]
    absent = sorted(set(models) - set(runs["model"]))
    if absent or runs.empty:
        number = absent[0] if absent else 6
        name = f"model {number}" if absent else "an iteration"
        if absent:
            entries.read(number)  # says so when there is no such iteration at all
        raise ExpectedError(
            f"the store holds no run of {name}: make run MODEL={number}, or make import for the "
            "published runs"
        )

    there = [number for number in entries.numbers() if number in set(runs["model"])]
    iterations = {number: entries.read(number) for number in there}
    hashes = {number: iteration.code_sha256 for number, iteration in iterations.items()}
    runs = runs.assign(excluded=scores.exclusions(runs, hashes))
    history = tracking.history(runs["run_id"])
    runs = runs.join(scores.scores(runs, history, target))
    unrun = () if models else tuple(set(entries.numbers()) - set(runs["model"]))
    found = Comparison(target, iterations, runs, history, pd.DataFrame(), unrun)
    return dataclasses.replace(found, verdicts=_titled(verdict.iterations(found.counting, target)))


def changed_lines(before: Entry, after: Entry) -> tuple[tuple[str, str], ...]:
    """The lines of code in which two iterations differ: ("minus" or "plus", line).

    Their docstrings are left out; the report shows their sections.
    """
    lines = difflib.unified_diff(before.code.splitlines(), after.code.splitlines(), n=0)
    kinds = {"-": "minus", "+": "plus"}
    return tuple((kinds[line[0]], line) for line in list(lines)[2:] if line[0] in kinds)


def nearest(entry: Entry, others: Mapping[int, Entry]) -> int:
    """The number of the one among `others` from which the fewest lines of code were changed, or the
    last such."""
    changes = {
        number: len(changed_lines(others[number], entry)) for number in reversed(list(others))
    }
    return min(changes, key=changes.__getitem__)


def of_runs(run_ids: Collection[str], split: str) -> pd.DataFrame:
    """The verdicts on iterations as far as these runs go, whether they count or not."""
    target = loading.load_target()
    runs = _ours(tracking.runs())
    runs = runs[runs["run_id"].isin(run_ids)].sort_values(["model", "seed"])
    history = tracking.history(runs["run_id"])
    runs = runs.join(scores.scores(runs, history, target, split))
    runs["test_images"] = runs[f"{split}_images"]  # of which its errors are
    return _titled(verdict.iterations(runs.astype(WHOLE), target))


def _ours(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of iterations; others may lie in the same store."""
    numbers = pd.to_numeric(runs["model"], errors="coerce").dropna()
    numbers = numbers[numbers % 1 == 0]
    return runs.loc[numbers.index].assign(model=numbers.astype(int))


def _titled(verdicts: pd.DataFrame) -> pd.DataFrame:
    titles = [entries.read(number).title for number in verdicts["model"]]
    verdicts.insert(1, "title", pd.Series(titles, dtype=object))
    return verdicts


def verdicts(comparison: Comparison, seeds: int | None = None) -> list[dict[str, Any]]:
    """The verdict on each iteration, as plain values for other programs; None where there is none.

    `seeds` is how many are demanded: with fewer, what was met so far is "too few seeds". Iterations
    that were tested by runs that do not count come last, with `met` None.
    """
    rows = comparison.verdicts.astype(object).where(comparison.verdicts.notna(), None)
    found: list[dict[str, Any]] = rows.to_dict("records")  # type: ignore[assignment]
    for row in found:
        if seeds and row["seeds"] < seeds:
            row["verdict"] = "too few seeds" if row["met"] else row["verdict"]
            row["met"] = False
            row["reason"] = f"{seeds} seeds are asked for, {row['seeds']} were run; {row['reason']}"
    tested = set(comparison.runs.loc[comparison.runs["split"] == "test", "model"])
    unjudged = [(number, why) for number, why in comparison.uncounted.items() if number in tested]
    found += [
        {"model": number, "met": None, "verdict": "not judged", "reason": why}
        for number, why in unjudged
    ]
    return found


def _seeds(numbers: Collection[int]) -> str:
    return f"seed{'s' if len(numbers) > 1 else ''} {ranges(numbers)}"
