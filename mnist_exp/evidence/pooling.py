"""Cross-validation: the runs of a recipe and seed on all folds of writers, as if they were one."""

from __future__ import annotations

import pandas as pd

from mnist_exp.common.words import seeds_named
from mnist_exp.data.splits import ALL, OF_WRITERS, folds_named
from mnist_exp.evidence import scores
from mnist_exp.recipe import Target

SPLIT = "validation"
"""That has folds."""


def pooled(
    runs: pd.DataFrame, history: pd.DataFrame, target: Target, by: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs on all folds of writers of each seed, and of what is told apart `by` a column, as
    one run on the fold ALL; and the epochs of such runs.

    Its errors are theirs together, of all digits that they held out, after as many epochs; its
    train accuracy is that of all digits that they trained on. An epoch that one of them lacks, or
    has twice, has neither. Seeds that lack a fold are left out. Such a run has the id of the newest
    of its runs and all else from it, but for the `scores`, which are its own.
    """
    ordered = runs.sort_values("start_time", kind="stable")
    of_seed = ordered.groupby([by, "seed"])
    ordered = ordered[of_seed["fold"].transform("nunique") == len(OF_WRITERS)]
    of_seed = ordered.groupby([by, "seed"])
    joined = of_seed["run_id"].transform("last")
    images = scores.evaluation_images(ordered)
    total = images.groupby(joined).transform("sum")
    known = pd.DataFrame({"joined": joined, "images": images, "total": total})
    epochs = _epochs(history, known.set_axis(ordered["run_id"]))
    newest = of_seed.tail(1)
    one = newest.assign(fold=ALL, **{f"{SPLIT}_images": total[newest.index]})
    scored = scores.scores(one, epochs, target)
    return one.drop(columns=scored.columns, errors="ignore").join(scored), epochs


def _epochs(history: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """The epochs of the joined runs. By the id of each run, `known` has the id that it is `joined`
    under, how many `images` it held out, and all of them the `total`."""
    named = ["train_accuracy", f"{SPLIT}_errors"]
    own = history.reindex(columns=["run_id", "epoch", *named])
    own = own[own["run_id"].isin(known.index)].join(known, on="run_id")
    own["trained"] = own["total"] - own["images"]
    own["right"] = own["train_accuracy"] * own["trained"]
    together = own.groupby(["joined", "epoch"])
    whole = (together["run_id"].nunique() == len(OF_WRITERS)) & (together.size() == len(OF_WRITERS))
    sums = together[["right", "trained", f"{SPLIT}_errors"]].sum(min_count=len(OF_WRITERS))
    sums = sums.where(whole)
    table = pd.DataFrame(
        {
            "train_accuracy": sums["right"] / sums["trained"],
            f"{SPLIT}_errors": sums[f"{SPLIT}_errors"],
            f"{SPLIT}_accuracy": 1 - sums[f"{SPLIT}_errors"] / together["total"].first(),
        }
    )
    return table.rename_axis(index=["run_id", "epoch"]).reset_index()


def missing_folds(runs: pd.DataFrame) -> str:
    """Which seeds of these runs lack which folds of writers, in words."""
    lacking: dict[str, list[int]] = {}
    for seed, own in runs.groupby("seed"):
        missing = set(OF_WRITERS) - set(own["fold"])
        if missing:
            lacking.setdefault(folds_named(missing), []).append(int(str(seed)))
    return ", and ".join(f"{seeds_named(own)} without {folds}" for folds, own in lacking.items())
