"""The newest runs of a store, whether they count or not, and why not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from mnist_exp import tracking
from mnist_exp.evidence import comparison, scores
from mnist_exp.notebook import entries, loading
from mnist_exp.recipe import Target


@dataclass(frozen=True)
class Listing:
    """The newest runs of a store, newest first; `total` is how many there are.

    Columns of `runs`: those of `tracking.runs` and `scores.scores`; `short_id`, a beginning of the
    id by which the run is found; and `exclusion`, why a run does not count on its split (an
    Exclusion, or None where it does; missing where it is no run of an iteration).
    """

    target: Target
    runs: pd.DataFrame
    total: int


def newest_runs(count: int, models: Collection[int] = ()) -> Listing:
    """The newest runs of the store, at most `count` of them, of all or of some iterations."""
    target = loading.load_target()
    runs = tracking.runs()
    runs = runs.assign(short_id=tracking.short_ids(runs))
    numbered = comparison.of_iterations(runs)
    there = set(entries.numbers())
    hashes = {
        number: entries.read_entry(number).code_sha256 for number in there & {*numbered["model"]}
    }
    of_split = [
        scores.exclusions(own, hashes, "validation" if split == "validation" else "test")
        for split, own in numbered.groupby("split", dropna=False)
    ]
    runs["exclusion"] = pd.concat(of_split) if of_split else None
    if models:
        runs = runs.loc[numbered.index[numbered["model"].isin(models)]]
    newest = runs.iloc[::-1].head(count)
    scored = scores.scores(newest, tracking.history(newest["run_id"]), target)
    return Listing(target, newest.join(scored), len(runs))
