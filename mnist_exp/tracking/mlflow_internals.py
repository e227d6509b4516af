"""What we use of MLflow that it does not promise to keep.

Each part was seen in MLflow 3.17.2, and has a test in tests/tracking/test_mlflow_internals.py,
which says so when another MLflow has changed it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alembic.script import ScriptDirectory
from mlflow import MlflowClient
from mlflow.store.db.utils import (
    _get_alembic_config,
    _get_latest_schema_revision,
    _get_schema_version,
    _upgrade_db,
)
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlMetric, SqlRun
from mlflow.utils import requirements_utils
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.rest_utils import http_request, verify_rest_response
from sqlalchemy import Engine

Point = tuple[str, str, int, float, int]
"""Run, metric, step, value and time (ms since 1970) of a point."""


def skip_package_scan() -> None:
    """Log networks without reading the list of the files of every installed package, a second each
    time: it only serves to say whether the environment has the torch that it has."""
    requirements_utils._MODULES_TO_PACKAGES = {}  # type: ignore[assignment]


@contextlib.contextmanager
def database(client: MlflowClient, *, write: bool = False) -> Iterator[Any]:
    """A session of SQLAlchemy's on the database of a store that is no server; to `write`, a
    transaction that is committed at the end of the block."""
    with client._tracking_client.store.ManagedSessionMaker(read_only=not write) as session:
        yield session


ADDRESSES: tuple[Any, ...] = (
    SqlExperiment.artifact_location, SqlRun.artifact_uri, SqlLoggedModel.artifact_location,
    SqlModelVersion.source, SqlModelVersion.storage_location,
)  # fmt: skip
"""The columns of the database that hold addresses of artifacts."""

TABLES = {"alembic_version", "experiments", "runs"}
"""Tables by which a database is known as one of MLflow's."""


def database_points(client: MlflowClient, run_ids: list[str], names: list[str]) -> list[Point]:
    """Every point of these metrics of these runs, in the order in which they were recorded.

    The client has no call for several runs. The store has one, which makes an object of each point:
    reading takes five times as long.
    """
    m = SqlMetric
    columns = (m.run_uuid, m.key, m.step, m.value, m.timestamp, m.is_nan)
    with database(client) as session:
        rows = session.query(*columns).filter(m.run_uuid.in_(run_ids), m.key.in_(names))
        return [
            (run_id, name, step, math.nan if is_nan else value, moment)
            for run_id, name, step, value, moment, is_nan in rows.order_by(m.timestamp)
        ]


HISTORY = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
RUNS_PER_REQUEST, POINTS_PER_REQUEST = 100, 25_000
"""Limits of MLflow's server for one request of `server_points`."""


def server_points(client: MlflowClient, run_ids: list[str], name: str) -> list[Point]:
    """The first POINTS_PER_REQUEST points of a metric of up to RUNS_PER_REQUEST runs, as the UI
    asks a tracking server for them. Raises MlflowException for what the server refuses."""
    server = client._tracking_client.store.get_host_creds()
    asked = [("metric_key", name), *(("run_id", run_id) for run_id in run_ids)]
    reply = http_request(server, HISTORY, "GET", params=asked)
    points = verify_rest_response(reply, HISTORY).json()["metrics"]
    return [(p["run_id"], name, p["step"], p["value"], p["timestamp"]) for p in points]


def schema_of(engine: Engine) -> str | None:
    """The revision of the tables of a database; None where there are none."""
    revision: str | None = _get_schema_version(engine)
    return revision


def newest_schema() -> str:
    """The revision that this MLflow needs."""
    return str(_get_latest_schema_revision())


def known_schemas() -> set[str]:
    """Every revision that this MLflow can bring to the newest."""
    script = ScriptDirectory.from_config(_get_alembic_config(db_url=""))
    return {revision.revision for revision in script.walk_revisions()}


def upgrade_schema(engine: Engine) -> None:
    """Bring the tables of a database to the newest revision."""
    _upgrade_db(engine)


def local_path(uri: str) -> Path:
    """The folder that a file: address names, as MLflow reads it."""
    return Path(local_file_uri_to_path(uri))


def with_table(tag: str, file: str) -> str:
    """The tag `names.TABLES_SHOWN`, which tells the UI what to show as a table, with one more."""
    shown = json.loads(tag)
    entry = {"path": file, "type": "table"}
    return json.dumps(shown if entry in shown else [*shown, entry])


MACHINE_LEARNING = "workflowType=machine_learning"
"""Without it in the address, the UI opens in its mode for language models, and hides the runs."""
BROWSER = {"mlflow.workflowType": "machine_learning", "mlflow.assistant.panelOpen": False,
           "mlflow.assistant.fab.autoOpenedOnFirstLoad": True}  # fmt: skip
"""What the UI keeps in a browser: its mode, and that its assistant, which it opens when it is first
seen, is closed."""
VIEW_TAG = "mlflow.sharedViewState."
"""Before the name of a saved view in the tags of an experiment. The UI opens one from /runs only,
with `viewStateShareKey=<name>`."""


def view_state(
    columns: Mapping[str, int], group_by: str, folded: Iterable[object],
    sections: Mapping[str, bool], limits: Mapping[str, tuple[float, float]],
) -> str:  # fmt: skip
    """What a saved view of the run table shows: columns with their widths in pixels, the newest
    run first, grouped by a parameter, for some of whose values the group is `folded`; a line for
    a group shows its lowest metrics. And sections of charts, unfolded or not, in which the line
    charts of some metrics have limits of their own."""
    shown = [
        {"uuid": name, "name": name, "display": display, "isReordered": True, "deleted": False,
         "isGenerated": True}
        for name, display in sections.items()
    ]  # fmt: skip
    charts = [
        {"type": "LINE", "uuid": metric, "metricSectionId": metric.partition("/")[0],
         "metricKey": metric, "deleted": False, "isGenerated": True,
         "range": {"yMin": low, "yMax": high}, "scaleType": "linear", "xAxisScaleType": "linear",
         "xAxisKey": "step", "yAxisKey": "metric", "yAxisExpressions": [], "lineSmoothness": 0,
         "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
        for metric, (low, high) in limits.items()
    ]  # fmt: skip
    keys = [{"mode": "param", "groupByData": group_by}]
    state = {
        "orderByKey": "attributes.start_time", "orderByAsc": False, "searchFilter": "",
        "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": [],
        "modelVersionFilter": "All Runs", "selectedColumns": list(columns),
        "columnOrder": ["attributes.`Run Name`", *columns], "columnWidths": dict(columns),
        "runsHiddenMode": "FIRST_20_RUNS", "viewMaximized": False, "runListHidden": False,
        "isAccordionReordered": True, "useGroupedValuesInCharts": True, "hideEmptyCharts": True,
        "groupBy": {"aggregateFunction": "min", "groupByKeys": keys},
        "groupsExpanded": {f"param.{group_by}.{value}": False for value in folded},
        "compareRunCharts": charts, "compareRunSections": shown,
        "globalLineChartConfig": {
            "xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": "",
        },
    }  # fmt: skip
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return f"deflate;{packed}"


def opening(page: str, path: str) -> str:
    """The UI's page, which decides in the browser what it shows, so that it opens `path` where the
    address asks for nothing; and with BROWSER where the browser knows nothing else."""
    kept = json.dumps({f"{key}_v1": json.dumps(value) for key, value in BROWSER.items()})
    script = (
        f"for (const [k, v] of Object.entries({kept})) localStorage.getItem(k) ?? "
        "localStorage.setItem(k, v);"
        'if (["", "#", "#/"].includes(location.hash)) '
        f"history.replaceState(null, '', {json.dumps(path)});"
    )
    return page.replace("<head>", f"<head><script>{script}</script>", 1)


def saved_view(name: str, state: str) -> str:
    """A view as the UI saves it."""
    now = round(time.time() * 1000)
    return json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": state})
