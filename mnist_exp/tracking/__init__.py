"""The tracking store: a run is written to it as it goes, and read from it as DataFrames.

The only room that knows MLflow. The store is the one that MLFLOW_TRACKING_URI names, or
`mlruns/mlflow.db` in the checkout, with the artifacts beside it in `mlruns/artifacts`.

- `names`: all that a run holds. A new parameter, tag, metric or artifact is entered there first.
- `writing` and `reading`: runs, and what they hold.
- `deleting`: runs that are not wanted any more.
- `under_way`: which runs go on now, without a trace that somebody looked.
- `finding`: which run is meant by an id, or by the beginning of one.
- `networks`: the trained network of a run.
- `store`: where it is, how it is opened, and its errors as one line for the user.
- `system`: what a run takes of its machine.
- `liveness`: which runs under way still have a process.
- `archive`: runs as rows of text, which travel with git. `backup`: the whole of a local store.
- `ui` and `server`: what MLflow's pages show, and who serves them.
- `address` and `proxies`: how an address is read, and on which way a server is asked.
- `startup`, `variables` and `mlflow_internals`: what MLflow is told, what it may hear of the
  surroundings, and what it does not promise.
"""

# ruff: noqa: E402 (MLflow reads its environment when it is imported, as by each of the others)
from mnist_exp.tracking.startup import start_up

start_up()

from mnist_exp.tracking.archive import archive, archived_run, enter_run
from mnist_exp.tracking.backup import back_up, restore
from mnist_exp.tracking.deleting import delete_run, remove_run, to_restore
from mnist_exp.tracking.finding import find_run, find_runs, short_ids
from mnist_exp.tracking.names import EPOCH_METRICS, RUN_COLUMNS
from mnist_exp.tracking.reading import (
    grey_values,
    history,
    image,
    runs,
    source,
    table,
)
from mnist_exp.tracking.store import (
    ADDRESS,
    UnreachableError,
    check_answers,
    is_served,
    local_folder,
    make_tables,
    only_one,
    open_store,
    tracking_uri,
    use_store,
)
from mnist_exp.tracking.system import system_metrics
from mnist_exp.tracking.under_way import Ongoing, under_way
from mnist_exp.tracking.writing import (
    ExportError,
    PrunedError,
    RunWriter,
    adopt,
    continue_run,
    end_run,
    keep_page,
    resume_run,
    start_run,
)

__all__ = [
    "ADDRESS", "EPOCH_METRICS", "RUN_COLUMNS", "ExportError", "Ongoing", "PrunedError",
    "RunWriter", "UnreachableError", "adopt", "archive", "archived_run", "back_up", "check_answers",
    "continue_run", "delete_run", "end_run", "enter_run", "find_run", "find_runs", "grey_values",
    "history", "image", "is_served", "keep_page", "local_folder", "make_tables", "only_one",
    "open_store", "remove_run", "restore", "resume_run", "runs", "short_ids", "source",
    "start_run", "system_metrics", "table", "to_restore", "tracking_uri", "under_way",
    "use_store",
]  # fmt: skip
