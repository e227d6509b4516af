"""The newest runs of a store, whether they count or not, and why not."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mnist_exp import tracking
from mnist_exp.evidence import comparison, scores
from mnist_exp.notebook import entries, loading
from mnist_exp.recipe import Target
from mnist_exp.tracking import names


@dataclass(frozen=True)
class Listing:
    """The newest runs of a store, newest first; `total` is how many there are.

    Columns of `runs`: those of `tracking.runs` and `scores.scores`; `short_id`, a beginning of the
    id by which the run is found; `judged`, whether it is of an iteration or of an idea that a
    script tracked; and `exclusion`, why it does not speak for that on its split (an Exclusion, or
    None where it does).
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
    tracked = runs[runs[names.TRACKED].notna()]
    tracked = tracked.assign(group=tracked.groupby([names.TRACKED, "split"], dropna=False).ngroup())
    exclusions = [
        scores.exclusions(own, hashes, "validation" if split == "validation" else "test", fold)
        for split, fold, own in _by_fold(numbered)
    ]
    exclusions += [scores.exclusions_in_groups(tracked)]
    runs["judged"] = runs.index.isin(numbered.index.union(tracked.index))
    runs["exclusion"] = pd.concat(exclusions)
    if models:
        runs = runs.loc[numbered.index[numbered["model"].isin(models)]]
    newest = runs.iloc[::-1].head(count)
    scored = scores.scores(newest, tracking.history(newest["run_id"]), target)
    return Listing(target, newest.join(scored), len(runs))


def _by_fold(runs: pd.DataFrame) -> Iterator[tuple[str, str | None, pd.DataFrame]]:
    """The runs on each split and fold of it."""
    named: Any = runs.groupby(["split", "fold"], dropna=False)
    for (split, fold), own in named:
        yield split, None if pd.isna(fold) else fold, own
