"""Which runs go on now, read without a word to the store: nothing is made in it, and no run whose
process is gone is ended, as by whoever opens it otherwise."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from mnist_exp.tracking import liveness, names
from mnist_exp.tracking.address import sqlite_file
from mnist_exp.tracking.reading import epochs_of, run_record
from mnist_exp.tracking.store import (
    EXPERIMENT,
    check_answers,
    make_client,
    readable_errors,
    tracking_uri,
)


@dataclass(frozen=True)
class Ongoing:
    """The runs under way, oldest first, each with the name of its `machine` and whether its process
    is known to be `gone`; their epochs, as `tracking.history` has them; and `gathered`, the ended
    runs of each sweep or study under way, by its name."""

    runs: pd.DataFrame
    history: pd.DataFrame
    gathered: dict[str, pd.DataFrame]


def under_way() -> Ongoing:
    """What goes on now, in any process on any machine that writes to the store."""
    nothing = Ongoing(pd.DataFrame(), pd.DataFrame(), {})
    uri = tracking_uri()
    database = sqlite_file(uri)
    if database and not database.exists():
        return nothing
    check_answers()
    with readable_errors():
        client = make_client(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return nothing
        found = _search(client, experiment.experiment_id, "attributes.status = 'RUNNING'")
        trained = [run for run in found if names.GROUP not in run.data.tags]
        if not found:
            return nothing
        history = epochs_of(client, [run.info.run_id for run in trained], KEYS)
        gathered = {
            str(run.info.run_name): _ended_below(client, run)
            for run in found
            if names.GROUP in run.data.tags
        }
    records: list[dict[str, Any]] = [
        run_record(run)
        | {
            "machine": liveness.machine(run.data.tags),
            "gone": liveness.is_gone(run.data.tags) is True,
            "heartbeat": run.data.tags.get(names.HEARTBEAT, ""),
        }
        for run in trained
    ]
    columns = list(dict.fromkeys([*names.RUN_COLUMNS, *(key for row in records for key in row)]))
    return Ongoing(pd.DataFrame(records, columns=columns), history, gathered)


KEYS = [names.accuracy("test"), names.accuracy("validation"), names.EPOCH_SECONDS]


def _ended_below(client: MlflowClient, group: Run) -> pd.DataFrame:
    own = f"tags.`{names.PARENT}` = '{group.info.run_id}'"
    finished = _search(
        client, group.info.experiment_id, f"{own} and attributes.status = 'FINISHED'"
    )
    return pd.DataFrame([run_record(run) for run in finished])


def _search(client: MlflowClient, experiment: str, which: str) -> list[Run]:
    return list(
        client.search_runs(
            [experiment], which, max_results=1000, order_by=["attributes.start_time"]
        )
    )
