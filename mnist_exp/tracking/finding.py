"""Runs are found by their ids, or by the beginnings of these, which people type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from mlflow.entities import ViewType

from mnist_exp.common.errors import ExpectedError
from mnist_exp.tracking import deleting, names, reading
from mnist_exp.tracking.store import connect, readable_errors

SHORTEST = 8
"""Digits of an id that are shown at least."""
MOST_NAMED = 5
"""Of the runs that a beginning may mean, so many are named."""


def short_ids(runs: pd.DataFrame) -> pd.Series:
    """The beginnings of the ids of all `runs` of a store by which each can be found, as long as
    each other, on the same index."""
    ids = {*runs["run_id"], *runs["imported_from"].dropna()}
    lengths = range(SHORTEST, max(map(len, ids), default=SHORTEST))
    length = next((n for n in lengths if len({text[:n] for text in ids}) == len(ids)), None)
    return runs["run_id"].map(lambda text: text[:length])


def find_run(run_id: str, *, groups: bool = False) -> pd.DataFrame:
    """The one row of `runs` of the run whose id is this or begins so, here or where it was imported
    from; with `groups`, also of a run that is no training, but holds what belongs to several.

    Raises ExpectedError when the store holds none, or several.
    """
    return find_runs([run_id], groups=groups)


def find_runs(run_ids: Iterable[str], *, groups: bool = False) -> pd.DataFrame:
    """The rows of runs that are found as `find_run` finds each, in this order and each once, with
    their `short_id`."""
    every = reading.runs(groups=groups)
    every["short_id"] = short_ids(every)
    return every.loc[list(dict.fromkeys(_place(every, run_id) for run_id in run_ids))]


def _place(every: pd.DataFrame, beginning: str) -> int:
    """Where in the table the run stands."""
    ids = every[["run_id", "imported_from"]].astype(object).fillna("")
    whole = every.index[(ids == beginning).any(axis=1)]
    if len(whole):
        return int(whole[0])
    begins = ids.apply(lambda column: column.str.startswith(beginning)).any(axis=1)
    places = every.index[begins]
    if not len(places):
        _refuse_deleted(beginning)
        raise ExpectedError(
            f"the store holds no run {ascii(beginning)[1:-1][:40]}: make runs lists those it holds"
        )
    if len(places) > 1:
        rows: Any = every.loc[places[:MOST_NAMED]].itertuples()
        named = [f"{run.short_id} ({str(run.run_name)[:40]})" for run in rows]
        more = len(places) - len(named)
        raise ExpectedError(
            f"{beginning} begins the ids of {len(places)} runs: {', '.join(named)}"
            f"{f' and {more} more' if more else ''}; give more of its digits"
        )
    return int(places[0])


def _refuse_deleted(beginning: str) -> None:
    """Raise ExpectedError where the run was deleted, as in the UI."""
    with readable_errors():
        client, experiment = connect()
        deleted = reading.all_runs(client, experiment, ViewType.DELETED_ONLY)
    for run in reversed(deleted):
        ids = run.info.run_id, run.data.tags.get(names.IMPORTED, "")
        if any(run_id.startswith(beginning) for run_id in ids):
            brings_back = deleting.to_restore(run.info.run_id)
            raise ExpectedError(f"run {run.info.run_id} was deleted: {brings_back} brings it back")
