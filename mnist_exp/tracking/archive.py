"""Runs as rows of text that any store can take in again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
from mlflow.entities import Metric, Param, Run, RunTag

from mnist_exp.tracking import liveness, names
from mnist_exp.tracking.names import EPOCH_METRICS, column_name
from mnist_exp.tracking.reading import all_runs, utc_time
from mnist_exp.tracking.store import connect, readable_errors
from mnist_exp.tracking.writing import RunWriter

PORTABLE_TAGS = (names.SOURCE,)
"""Of MLflow's own tags, those that say nothing about the machine and its user, and that nothing
else says."""


def archive(run_ids: Iterable[str]) -> pd.DataFrame:
    """Runs as rows from which `enter_run` can make them again, but for their histories and tables.

    Columns as MLflow names them: `run_id` (that of the original, for a run that was entered from an
    archive), `run_name`, `start_time`, `end_time`, and `params.*`, `tags.*` and `metrics.*` (those
    that are not per epoch). All of it text, as it stands in the store, but for the line breaks in
    tags, which become spaces: one run is one line. Descriptions are left out, since they can be
    made again.
    """
    wanted = set(run_ids)
    with readable_errors():
        client, experiment = connect()
        runs = [run for run in all_runs(client, experiment) if run.info.run_id in wanted]
    return pd.DataFrame([_row(run) for run in runs])


def _row(run: Run) -> dict[str, str]:
    tags = {
        key: " ".join(value.splitlines())
        for key, value in run.data.tags.items()
        if key in PORTABLE_TAGS or not (key in liveness.TAGS or key.startswith("mlflow."))
    }
    original = tags.pop(names.IMPORTED, run.info.run_id)
    metrics = {
        key: value
        for key, value in run.data.metrics.items()
        if key not in EPOCH_METRICS and not key.startswith(names.system(""))
    }
    return {
        "run_id": original,
        "run_name": run.info.run_name,
        "start_time": utc_time(run.info.start_time).isoformat(),
        "end_time": utc_time(run.info.end_time).isoformat(),
        **{f"params.{key}": value for key, value in sorted(run.data.params.items())},
        **{f"tags.{key}": value for key, value in sorted(tags.items())},
        # All its digits, so that the number that is read again is the same to the last bit.
        **{f"metrics.{key}": repr(value) for key, value in sorted(metrics.items())},
    }


@dataclass(frozen=True)
class ArchivedRun:
    """A run that `enter_run` can make again."""

    run_id: str
    name: str
    start: int
    """In milliseconds since 1970, as `end` is."""
    end: int
    params: dict[str, str]
    tags: dict[str, str]
    points: list[Metric]


def archived_run(row: Mapping[str, str], history: pd.DataFrame) -> ArchivedRun:
    """A run from its row of `archive` and its rows of `history`.

    Raises ValueError or KeyError for what are none.
    """
    start, end = (_milliseconds(pd.Timestamp(row[f"{name}_time"])) for name in ("start", "end"))
    parts = {
        part: {
            key.removeprefix(f"{part}."): value
            for key, value in row.items()
            if key.startswith(f"{part}.")
        }
        for part in ("params", "tags", "metrics")
    }
    metrics = {column_name(key): key for key in EPOCH_METRICS}
    points = [
        Metric(
            metrics[column], float(epoch[column]), _milliseconds(epoch["time"]), int(epoch["epoch"])
        )
        for epoch in history.to_dict("records")
        for column in metrics.keys() & epoch.keys()
        if pd.notna(epoch[column])
    ]
    points += [Metric(key, float(value), end, 0) for key, value in parts["metrics"].items()]
    return ArchivedRun(
        row["run_id"], row["run_name"], start, end, parts["params"], parts["tags"], points
    )


@contextlib.contextmanager
def enter_run(archived: ArchivedRun) -> Iterator[RunWriter]:
    """Make a finished run, with the times of the original.

    The block may add tables and a description; the run counts as finished when it has ended.
    """
    points = archived.points
    with readable_errors():
        client, experiment = connect(write=True)
        run = client.create_run(
            experiment, start_time=archived.start, run_name=archived.name,
            tags={names.IMPORTED: archived.run_id} | liveness.own_tags(),
        )  # fmt: skip
        run_id = run.info.run_id
        client.log_batch(run_id, tags=[RunTag(*item) for item in archived.tags.items()])
        for place in range(0, len(points), 1000):  # what one request may hold
            client.log_batch(run_id, metrics=points[place : place + 1000])
        client.log_batch(run_id, params=[Param(*item) for item in archived.params.items()])
    yield RunWriter(run_id, experiment, archived.start)
    with readable_errors():
        client.set_terminated(run_id, "FINISHED", archived.end)


def _milliseconds(time: pd.Timestamp) -> int:
    return round(time.timestamp() * 1000)
