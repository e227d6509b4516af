"""What the tracking store says about the iterations, judged: the tables behind every report.

Measured numbers come from the store alone; `experiments/` gives the words, the code and the target,
and tells which runs were made with the recipe as it stands.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import seeds_named
from mnist_exp.data import Split
from mnist_exp.data.splits import (
    ALL,
    LAST,
    asked_fold,
    each_fold,
    folds_named,
    split_as_set,
    split_in_words,
)
from mnist_exp.evidence import effect, scores
from mnist_exp.evidence.effect import Effect
from mnist_exp.evidence.forecasts import Forecasts, score_forecasts
from mnist_exp.evidence.ideas import Ideas, judge_ideas
from mnist_exp.evidence.pooling import missing_folds, pooled
from mnist_exp.evidence.scores import Exclusion
from mnist_exp.evidence.verdict import Answer, Verdict, as_records, judge_iteration
from mnist_exp.notebook import entries, loading
from mnist_exp.notebook.entries import Entry
from mnist_exp.recipe import Target

WHOLE: Any = {"seed": int, "parameters": int}
"""Columns of whole numbers, also where the runs of others have none."""


@dataclass(frozen=True)
class Comparison:
    """Iterations and their runs, compared on one split. What follows from these is worked out once,
    when it is asked for.

    Tables of runs have the columns of `tracking.runs` and `scores.scores`, and `exclusion`: why a
    run does not count (an Exclusion, or None where it does).
    """

    target: Target
    iterations: Mapping[int, Entry]
    """Those with runs in the store and a file in the notebook, ascending."""
    runs: pd.DataFrame
    """Every run of an iteration."""
    history: pd.DataFrame
    """Their epochs, as `tracking.history` gives them."""
    unrun: tuple[int, ...] = ()
    """Iterations of the notebook of which the store has no run at all."""
    demanded: int = 0
    """How many seeds of each iteration are asked for."""
    split: Split = "test"
    """On which the runs that count were scored. The target is about the test split: on the
    validation split there are scores and effects, by which people choose, and no verdict."""
    fold: str | None = None
    """Of the validation split: what was held out; where it is ALL, the runs that count are those of
    the folds of writers, `pooled` by seed."""
    ideas: Ideas = field(default_factory=Ideas)
    """What scripts tracked, which is no iteration."""

    @cached_property
    def counting(self) -> pd.DataFrame:
        """The runs that speak for their iterations."""
        return self._counting[0].astype(WHOLE | {"evaluation_images": int})

    @property
    def counting_history(self) -> pd.DataFrame:
        """Their epochs, and perhaps those of others."""
        return self._counting[1]

    @cached_property
    def _counting(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        counting = self.runs[self.runs["exclusion"].isna()]
        if self.fold != ALL:
            return counting, self.history
        return pooled(counting, self.history, self.target, "model")

    @property
    def runs_on_split(self) -> pd.DataFrame:
        """The runs that a report on the split may show: on the validation split, none that was
        scored on the test set."""
        if self.split == "test":
            return self.runs
        return self.runs[scores.on_fold(self.runs, self.split, self.fold)]

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdict on each iteration with runs that count, ascending; on the validation split
        their scores alone are of use."""
        return _judge(self.iterations.values(), self.counting, self.target, self.demanded)

    @cached_property
    def validation_runs(self) -> pd.DataFrame:
        """The finished runs of whole recipes on the validation split, by which candidates were
        chosen; of any fold of it, where the split compared is another."""
        runs = self.runs_on_split
        whole = (runs["status"] == "FINISHED") & runs["overrides"].isna()
        trials = runs[whole & (runs["split"] == "validation")]
        return trials.dropna(subset=["seed", "code_sha256"])

    @property
    def overridden_validation_runs(self) -> pd.DataFrame:
        """The runs on the validation split that tried other values of a recipe, to their end or
        not."""
        runs = self.runs_on_split
        scored = runs[(runs["split"] == "validation") & (runs["epochs_run"] > 0)]
        return scored.dropna(subset=["overrides", "code_sha256"])

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """What was tried on the validation split: one row per recipe and fold, in the order of
        trying; where all folds are compared, one per recipe with seeds that have them all.

        Columns: `code_sha256`, `fold`, `model`, `idea`, `parameters`, `epochs`, `seeds` (how many,
        the newest run of each), `worst_accuracy` in the last epochs that the target looks at, and
        `final_accuracy`, the mean over the seeds; both are fractions of the validation digits.
        """
        recipe = ["code_sha256", "fold"]
        newest = self.validation_runs.drop_duplicates([*recipe, "seed"], keep="last")
        if self.fold == ALL:
            newest, _ = pooled(newest, self.history, self.target, "code_sha256")
        table = newest.groupby(recipe, sort=False).agg(
            model=("model", "first"), idea=("idea", "first"), parameters=("parameters", "first"),
            epochs=("epochs_run", "max"), seeds=("run_id", "size"),
            worst_accuracy=("worst_accuracy", "min"), final_accuracy=("final_accuracy", "mean"),
        )  # fmt: skip
        return table.reset_index()

    @property
    def core_hours(self) -> float:
        """What all epochs of all runs took, in hours of one processor core."""
        epochs = self.history.reindex(columns=["run_id", "epoch_seconds"])
        seconds = epochs.groupby("run_id")["epoch_seconds"].sum()
        threads = pd.to_numeric(self.runs.set_index("run_id")["threads"], errors="coerce")
        return float((seconds * threads.fillna(1)).sum() / 3600)

    @cached_property
    def uncounted(self) -> dict[int, str]:
        """The iterations without a run that counts, and why. What was only tried on the validation
        split and is not in the notebook is no iteration: `candidates` has it."""
        models, splits = self.runs["model"], self.runs["split"]
        iteration = models.isin(list(self.iterations))
        judged = {verdict.model for verdict in self.verdicts}
        if self.split == "test":
            concerned = iteration | (splits != "validation")
            texts = dict.fromkeys(self.unrun, "not run")
        else:  # the runs on the test split, and on other folds, are not even counted
            concerned = iteration & scores.on_fold(self.runs, self.split, self.fold)
            others = {*self.iterations, *self.unrun} - judged
            where = split_in_words(self.split, self.fold)
            texts = dict.fromkeys(others, f"not run on the {where}")
        left = self.runs[concerned & ~models.isin(judged)]
        reasons = {
            int(str(number)): ", ".join(f"{n} {why}" for why, n in own.value_counts().items())
            for number, own in left.groupby("model")["exclusion"]
        }
        reasons |= {n: f"{reasons[n]}: {self.lacking[n]}" for n in reasons.keys() & self.lacking}
        texts |= {number: f"no run counts ({why})" for number, why in reasons.items()}
        return dict(sorted(texts.items()))

    def other_folds(self, model: int | None = None) -> set[str]:
        """On which folds else there are runs, of an iteration or of any; on the validation split
        alone, of which each fold is compared for itself."""
        if self.split == "test":
            return set()
        runs = self.runs if model is None else self.runs[self.runs["model"] == model]
        return set(runs["fold"].dropna()) - set(each_fold(self.fold))

    @cached_property
    def lacking(self) -> dict[int, str]:
        """Where all folds are compared: which seeds of an iteration lack which, so that they are
        left out, in words."""
        alone = self.runs[self.runs["exclusion"] == Exclusion.ALONE].groupby("model")
        return {int(str(number)): missing_folds(runs) for number, runs in alone}

    @property
    def unjudged(self) -> dict[int, str]:
        """Those of `uncounted` that were tested, so that a verdict may be asked for, and why there
        is none."""
        tested = set(self.runs.loc[self.runs["split"] == "test", "model"])
        return {number: why for number, why in self.uncounted.items() if number in tested}

    @property
    def choices(self) -> dict[int, str]:
        """Which seeds served to choose an iteration, on the validation split, and which to confirm
        it, on the test split; of those that were run, as they stand now, on the former."""
        hashes = {number: entry.code_sha256 for number, entry in self.iterations.items()}
        trials = self.validation_runs
        # Whichever split is compared.
        counting = self.runs[scores.exclusions(self.runs, hashes).isna()]
        choosing = trials[trials["code_sha256"] == trials["model"].map(hashes)]
        choices = {}
        for number in sorted(set(choosing["model"])):
            own = choosing[choosing["model"] == number]
            chosen, folds = set(own["seed"].astype(int)), set(own["fold"])
            tested = set(counting.loc[counting["model"] == number, "seed"].astype(int))
            where = "" if folds == {LAST} else f", {folds_named(folds)},"
            words = [f"compared on the validation split{where} with {seeds_named(chosen)}"]
            words += [f"tested with {seeds_named(tested)}" if tested else "not tested yet"]
            if chosen & tested:
                words += [f"{seeds_named(chosen & tested)} served for both"]
            choices[number] = "; ".join(words)
        return choices

    @cached_property
    def effects(self) -> tuple[Effect, ...]:
        """The effect of each iteration against the one it was made from: of those before it, the
        one from which the fewest lines of code were changed, or the last such. Those without a run
        that counts are left out where there are others, since nothing can be compared with them."""
        numbers, judged = list(self.iterations), {verdict.model for verdict in self.verdicts}
        effects = []
        for place, model in enumerate(numbers[1:], start=1):
            earlier = numbers[:place]
            comparable = [number for number in earlier if number in judged] or earlier
            before = {number: self.iterations[number] for number in comparable}
            baseline = nearest(self.iterations[model], before)
            effects.append(self.effect(model, baseline))
        return tuple(effects)

    def effect(self, model: int, baseline: int, on: str = "final_accuracy") -> Effect:
        """The effect of an iteration against any other of them, on one of the scores of the split
        that is compared."""
        return effect.effect(self.counting, model, baseline, on=on)

    @cached_property
    def forecasts(self) -> Forecasts:
        """What iterations foretold of their scores on the test split, and what came of it."""
        if self.split != "test":
            return Forecasts()
        # Also one that does not count any more: who made it has seen what came.
        code = self.counting.groupby("model")["code_sha256"].first()
        same = self.runs["code_sha256"].notna() & (
            self.runs["code_sha256"] == self.runs["model"].map(code)
        )
        ordered = self.runs[same].sort_values("start_time", kind="stable")
        first = dict(ordered.drop_duplicates("model")[["model", "run_id"]].to_numpy().tolist())
        last = self.target.last_epochs
        return score_forecasts(self.iterations, self.verdicts, first, last)

    def best_run(self) -> pd.Series | None:
        """The run that counts with the highest of the worst of its last epochs or, where none has
        so many, with the highest final accuracy; the first such. None where all folds are compared:
        what counts there are six runs, with a network each."""
        if self.fold == ALL:
            return None
        for score in ("worst_accuracy", "final_accuracy"):
            ranked = self.counting.dropna(subset=score)
            if not ranked.empty:
                return ranked.sort_values(score, ascending=False, kind="stable").iloc[0]
        return None

    def records(self) -> list[dict[str, object]]:
        """The verdicts as plain values for other programs, and after them the `unjudged`, with
        `met` None."""
        unjudged: list[dict[str, object]] = [
            {"model": number, "met": None, "verdict": Answer.NOT_JUDGED.value, "reason": why}
            for number, why in self.unjudged.items()
        ]
        return as_records(self.verdicts) + unjudged


def compare(
    models: Collection[int] = (), demanded: int = 0, split: Split = "test",
    fold: str | int | None = None,
) -> Comparison:  # fmt: skip
    """Compare what the store holds of `models`, or of every iteration, by their runs on `split`
    and, of the validation split, on `fold`: one of them, by default the first, or ALL. `demanded`
    is the number of seeds that are asked for. What scripts tracked stands beside them.

    Raises ExpectedError when the store holds no run of them.
    """
    fold = asked_fold(split, fold)
    target = loading.load_target()
    every = tracking.runs()
    ideas = judge_ideas(every, target, split, fold)
    runs = of_iterations(every)
    if models:
        runs = runs[runs["model"].isin(models)]
    absent = sorted(set(models) - set(runs["model"]))
    if absent or (runs.empty and not ideas.verdicts):
        number = absent[0] if absent else 6
        name = f"model {number}" if absent else "an iteration"
        if absent:
            entries.read_entry(number)  # says so when there is no such iteration at all
        published = ", or make import for the published runs" if split == "test" else ""
        todo = to_run(number, split, fold)
        raise ExpectedError(f"the store holds no run of {name}: {todo}{published}")

    numbers = entries.numbers()
    tried = set(runs["model"])
    iterations = {number: entries.read_entry(number) for number in numbers if number in tried}
    hashes = {number: iteration.code_sha256 for number, iteration in iterations.items()}
    history = tracking.history(runs["run_id"])
    runs = runs.assign(exclusion=scores.exclusions(runs, hashes, split, fold))
    runs = runs.join(scores.scores(runs, history, target))
    unrun = () if models else tuple(number for number in numbers if number not in iterations)
    return Comparison(target, iterations, runs, history, unrun, demanded, split, fold, ideas)


def to_run(model: int, split: Split, fold: str | None, seed: str = "") -> str:
    """What to type for a run of an iteration on a split, where the store lacks one. Where people
    choose, on the validation split, they choose over seeds, and never by the test split."""
    if split == "test":
        return f"make run MODEL={model}" + (seed and f" SEED={seed}")
    return f"make run MODEL={model} SEED={seed or '..'}{split_as_set(split, fold)}"


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


def of_runs(run_ids: Collection[str], fold: str | None = None) -> tuple[Verdict, ...]:
    """The verdicts on iterations as far as these runs go, whether they count or not; all of the
    runs are on one split and one `fold` or, where that is ALL, on any of them."""
    target = loading.load_target()
    runs = of_iterations(tracking.runs())
    runs = runs[runs["run_id"].isin(run_ids)].sort_values(["model", "seed"]).astype(WHOLE)
    history = tracking.history(runs["run_id"])
    if fold == ALL:
        runs, _ = pooled(runs, history, target, "model")
    else:
        runs = runs.join(scores.scores(runs, history, target))
    return _judge(map(entries.read_entry, sorted(set(runs["model"]))), runs, target)


def _judge(
    iterations: Iterable[Entry], runs: pd.DataFrame, target: Target, demanded: int = 0
) -> tuple[Verdict, ...]:
    """The verdicts on those of the iterations that have runs among these."""
    by_model = runs.groupby("model")
    return tuple(
        judge_iteration(iteration, by_model.get_group(iteration.number), target, demanded)
        for iteration in iterations
        if iteration.number in by_model.groups
    )


def of_iterations(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of iterations; others may lie in the same store."""
    numbers = pd.to_numeric(runs["model"], errors="coerce").dropna()
    numbers = numbers[numbers % 1 == 0]
    return runs.loc[numbers.index].assign(model=numbers.astype(int))
