"""What the epochs of each run come to, and which runs speak for their iteration.

Tables are those of `tracking.runs` and `tracking.history`; nothing here reads or writes.
"""

from collections.abc import Mapping

import pandas as pd

from mnist_exp.recipe import Target


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
