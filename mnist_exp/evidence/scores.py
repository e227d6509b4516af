"""What the epochs of each run come to, and which runs speak for their iteration.

Runs and histories are DataFrames as `tracking.runs` and `tracking.history` give them; nothing here
reads or writes. The store names a score after the split it was taken on (`test_errors`). Here each
run is scored on its own split, and the columns are named the same for all: `evaluation_errors`.
"""

from collections.abc import Mapping
from enum import StrEnum

import pandas as pd

from mnist_exp.data import Split
from mnist_exp.data.splits import ALL, OF_WRITERS, each_fold
from mnist_exp.recipe import Target

EXACTLY, FROM_START = "exactly", "after epoch 0"
"""What the tags `resumes` and `resumed` of a run say where there is nothing to say."""


class Exclusion(StrEnum):
    """Why a run does not speak for its iteration. Of several reasons the first is given."""

    UNFINISHED = "not finished"
    OVERRIDDEN = "overridden"
    TEST = "on the test split"
    """Where the runs on the validation split are compared."""
    VALIDATION = "on the validation split"
    FOLD = "on another fold of it"
    """Where the runs on the validation split are compared."""
    INCOMPLETE = "incomplete: without seed, parameters or evaluated images"
    GONE = "its iteration's file is gone"
    STALE = "stale: of an earlier version of its file"
    RESUMED = "resumed, which its recipe does not survive exactly"
    SUPERSEDED = "superseded by a newer run of its seed"
    ALONE = "of a seed that lacks folds"
    """Where the runs on all folds are compared."""


def scores(runs: pd.DataFrame, history: pd.DataFrame, target: Target) -> pd.DataFrame:
    """What the epochs of each run come to: one row per row of `runs`, on the same index.

    `runs` has `run_id`, `split` and the number of digits scored on it, as `test_images`. `history`
    has `run_id`, `epoch` (from 1), `train_accuracy` and the digits misclassified, as `test_errors`.

    Columns: `evaluation_images`; `epochs_run`; `complete`, whether the epochs are 1, 2, 3, ... each
    once; `scored`, whether every one has a score; `best_train_accuracy`; `best_accuracy` and its
    `best_epoch` (the first, when several are as good); `final_accuracy`; `worst_errors` in the last
    epochs that the target looks at, `worst_accuracy` and `worst_epoch` (the latest, when several
    are as bad). Accuracies are fractions. Those of the run's own split are missing where its epochs
    are not complete and scored, and the worst also where they are fewer than the target looks at.
    """
    rows = scored_epochs(runs, history)
    table = _records(rows)
    sound = rows[rows["run_id"].isin(table.index[table["complete"] & table["scored"]])]
    long = sound["run_id"].isin(table.index[table["epochs_run"] >= target.last_epochs])
    last = sound[long].groupby("run_id").tail(target.last_epochs)
    # Of epochs with as many errors, a stable sort leaves the earlier one before the later.
    best = sound.sort_values("evaluation_errors", kind="stable").groupby("run_id").head(1)
    worst = last.sort_values("evaluation_errors", kind="stable").groupby("run_id").tail(1)
    final = sound.groupby("run_id").tail(1)
    best, final, worst = (epoch.set_index("run_id") for epoch in (best, final, worst))
    table["best_accuracy"], table["best_epoch"] = best["evaluation_accuracy"], best["epoch"]
    table["final_accuracy"] = final["evaluation_accuracy"]
    table["worst_accuracy"], table["worst_epoch"] = worst["evaluation_accuracy"], worst["epoch"]
    table["worst_errors"] = worst["evaluation_errors"]

    table = table.reindex(runs["run_id"]).set_axis(runs.index)  # a run may have no epoch
    table["epochs_run"] = table["epochs_run"].fillna(0).astype(int)
    for column in ("complete", "scored"):
        table[column] = table[column].eq(True)
    table.insert(0, "evaluation_images", evaluation_images(runs))
    return table


def _records(rows: pd.DataFrame) -> pd.DataFrame:
    """What the epochs of each run are as a record, and the best of what needs no sound one."""
    of_run = rows.groupby("run_id")
    return pd.DataFrame(
        {
            "epochs_run": of_run.size(),
            "complete": (rows["epoch"] == of_run.cumcount() + 1).groupby(rows["run_id"]).all(),
            "scored": rows["evaluation_errors"].notna().groupby(rows["run_id"]).all(),
            "best_train_accuracy": of_run["train_accuracy"].max(),
        }
    )


def scored_epochs(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The epochs of the runs, each scored on the split of its run: one row per row of `history`,
    ordered by run and epoch.

    Columns: `run_id`, `epoch`, `train_accuracy` (a fraction), `evaluation_errors` (digits
    misclassified) and `evaluation_accuracy` (the fraction of `evaluation_images` that was not).
    """
    run = pd.DataFrame({"split": runs["split"], "images": evaluation_images(runs)})
    run = run.set_axis(pd.Index(runs["run_id"])).reindex(history["run_id"]).set_axis(history.index)
    table = history.reindex(columns=["run_id", "epoch", "train_accuracy"])
    table["evaluation_errors"] = _of_own_split(history, run["split"], "errors")
    correct = run["images"] - table["evaluation_errors"]
    table["evaluation_accuracy"] = correct / run["images"]
    return table.sort_values(["run_id", "epoch"], kind="stable")


def evaluation_images(runs: pd.DataFrame) -> pd.Series:
    """How many digits each run was scored on: `test_images` of a run on the test split."""
    return _of_own_split(runs, runs["split"], "images")


def _of_own_split(table: pd.DataFrame, splits: pd.Series, quantity: str) -> pd.Series:
    """From each row the column of its split, as `test_errors`; missing where it is no number."""
    values = pd.Series(index=table.index, dtype=float)
    for split in splits.dropna().unique():
        if f"{split}_{quantity}" in table:
            numbers = pd.to_numeric(table[f"{split}_{quantity}"], errors="coerce")
            values = values.mask(splits == split, numbers)
    return values


def resumed_inexactly(runs: pd.DataFrame) -> pd.Series:
    """Whether each run was resumed though its recipe does not survive that exactly: its numbers are
    not those of its seed."""
    # Nothing was trained before epoch 1. Older runs say nothing: they were resumed exactly.
    resumed = runs["resumed"].notna() & (runs["resumed"] != FROM_START)
    return resumed & runs["resumes"].notna() & (runs["resumes"] != EXACTLY)


def exclusions(
    runs: pd.DataFrame, code_sha256: Mapping[int, str], split: Split = "test",
    fold: str | None = None,
) -> pd.Series:  # fmt: skip
    """Why each run does not speak for its iteration: an Exclusion, or None where it does.

    `code_sha256` holds the hash of each iteration as it stands now. The runs that count are
    finished, with the recipe as the file has it, scored on `split`, on its `fold`, and the newest
    of their iteration and seed. Where the fold is ALL, they are the newest of each fold, and of
    seeds that have them all.
    """
    other_split = Exclusion.VALIDATION if split == "test" else Exclusion.TEST
    now = runs["model"].map(lambda number: code_sha256.get(number, ""))
    applies = {
        Exclusion.UNFINISHED: runs["status"] != "FINISHED",
        Exclusion.OVERRIDDEN: runs["overrides"].notna(),
        other_split: runs["split"] != split,
        Exclusion.FOLD: ~on_fold(runs, split, fold),
        Exclusion.INCOMPLETE: _incomplete(runs),
        Exclusion.GONE: now == "",
        Exclusion.STALE: runs["code_sha256"] != now,
        Exclusion.RESUMED: resumed_inexactly(runs),
    }
    return _reasons(runs, applies, "model", all_folds=fold == ALL)


def exclusions_in_groups(runs: pd.DataFrame, *, all_folds: bool = False) -> pd.Series:
    """Why each run does not speak for its `group`, whatever code and split it is of: an Exclusion,
    or None where it does; of seeds that have `all_folds`, if that is asked for."""
    applies = {
        Exclusion.UNFINISHED: runs["status"] != "FINISHED",
        Exclusion.INCOMPLETE: _incomplete(runs),
        Exclusion.RESUMED: resumed_inexactly(runs),
    }
    return _reasons(runs, applies, "group", all_folds=all_folds)


def on_fold(runs: pd.DataFrame, split: str, fold: str | None) -> pd.Series:
    """Whether each run is on a split and, of the validation split, on a fold of it; where that is
    ALL, on any of those of writers."""
    on_split: pd.Series = runs["split"] == split
    return on_split if fold is None else on_split & runs["fold"].isin(each_fold(fold))


def _incomplete(runs: pd.DataFrame) -> pd.Series:
    numbers = runs[["seed", "parameters"]].apply(pd.to_numeric, errors="coerce")
    numbers["images"] = evaluation_images(runs)
    incomplete: pd.Series = numbers.isna().any(axis=1)
    return incomplete


def _reasons(
    runs: pd.DataFrame, applies: Mapping[Exclusion, pd.Series], group: str, *, all_folds: bool
) -> pd.Series:
    """The first exclusion that applies to each run. Of several runs of a seed and fold to which
    none does, all but the newest are superseded."""
    reasons = pd.Series([None] * len(runs), index=runs.index, dtype=object)
    for exclusion, where in applies.items():
        reasons[where & reasons.isna()] = exclusion
    counting = runs[reasons.isna()].sort_values("start_time", kind="stable")
    superseded = counting.duplicated([group, "seed", "fold"], keep="last")
    reasons[superseded.index[superseded]] = Exclusion.SUPERSEDED
    if all_folds:
        counting = counting[~superseded]
        alone = counting.groupby([group, "seed"])["fold"].transform("size") < len(OF_WRITERS)
        reasons[alone.index[alone]] = Exclusion.ALONE
    return reasons
