"""The MLflow UI: its addresses, what it shows first, and serving it.

Facts about MLflow 3.17.2, seen in a browser: without `workflowType` in the address the UI opens in
its mode for language models and hides the runs; it opens a saved view from `/runs` only; it folds a
description to its first line.
"""

import base64
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from importlib.util import find_spec
from pathlib import Path

from mnist_exp import ExpectedError, tracking

PORT = 5000
LOOPBACK = "127.0.0.1"
MACHINE_LEARNING = "workflowType=machine_learning"
VIEW = "iterations"
REPORT = "comparison report"
TAG = "mlflow.sharedViewState."

COLUMNS = {
    "params.`seed`": 90,
    "metrics.`parameters`": 110,
    "metrics.`worst_of_last_5_test_accuracy_percent`": 290,
    "metrics.`final_test_accuracy_percent`": 230,
    "metrics.`best_test_accuracy_percent`": 230,
    "tags.`verdict`": 150,
    "params.`split`": 100,
    "tags.`overrides`": 110,
}
"""The columns of the run table that matter, with their widths in pixels."""

DESCRIPTION = """\
Iterations of a small MNIST classifier, one file each in `experiments/`.

Every run holds its recipe as parameters, accuracy and loss of each epoch, its receptive-field
table, its source and the checksums of its data. The summaries (`best_`, `final_` and
`worst_of_last_5_test_accuracy_percent`) are in percent, so that 99.39 and 99.41 are told apart
where the UI rounds.
"""


def address(port: int = PORT) -> str:
    """The address of the UI: that of the tracking server, or of `serve` where there is none."""
    if not tracking.is_served():
        return f"http://127.0.0.1:{port}"
    # It is printed and written into pages, and must not carry a password there.
    return re.sub("//[^/@]*@", "//", tracking.tracking_uri().rstrip("/"))


def run_path(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """Where the UI shows a run, or one of its artifacts, relative to its `address`."""
    opened = f"/artifacts/{artifact}" if artifact else ""
    return f"/#/experiments/{experiment_id}/runs/{run_id}{opened}?{MACHINE_LEARNING}"


def run_address(experiment_id: str, run_id: str) -> str:
    """Where the UI shows a run."""
    return f"{address()}{run_path(experiment_id, run_id)}"


def prepare(page: Path | None = None) -> str:
    """Make the store pleasant to browse; returns the path of the run table, relative to `address`.

    Saves the view that shows the columns that matter, sorted by iteration, and charts in a train
    and a test section; describes the experiment, with links to the view and to the newest report
    (`page`, which the store then keeps). A description that someone else wrote stays.
    """
    client, experiment = tracking.open_store()
    path = f"/#/experiments/{experiment}/runs?{MACHINE_LEARNING}&viewStateShareKey={VIEW}"
    table = f"{path}&compareRunsMode=TABLE"
    tags = client.get_experiment(experiment).tags
    if f"{TAG}{VIEW}" not in tags:
        client.set_experiment_tag(experiment, f"{TAG}{VIEW}", _view())
    current = tags.get("mlflow.note.content", DESCRIPTION)
    kept = tracking.keep_page(REPORT, page) if page else None
    if current.endswith(DESCRIPTION) and (kept or current == DESCRIPTION):
        links = {"run table": table, "charts": f"{path}&compareRunsMode=CHART"}
        if page and kept:
            links[REPORT] = run_path(*kept, page.name)
        line = " · ".join(f"[{name}]({link})" for name, link in links.items())
        client.set_experiment_tag(experiment, "mlflow.note.content", f"{line}\n\n{DESCRIPTION}")
    return table


def _view() -> str:
    """A saved view of the run table, in the form in which the UI keeps it."""
    names = {"train": True, "test": True, "Model metrics": False, "System metrics": False}
    sections = [
        {"uuid": name, "name": name, "display": display, "isReordered": True, "deleted": False,
         "isGenerated": True}
        for name, display in names.items()
    ]  # fmt: skip
    state = {
        # A metric, since the UI sorts parameters and names as text: model 10 before model 2.
        "orderByKey": "metrics.`model`", "orderByAsc": True, "searchFilter": "",
        "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": [],
        "modelVersionFilter": "All Runs", "selectedColumns": list(COLUMNS),
        "columnOrder": ["attributes.`Run Name`", *COLUMNS], "columnWidths": COLUMNS,
        "runsHiddenMode": "FIRST_20_RUNS", "viewMaximized": False, "runListHidden": False,
        "isAccordionReordered": True, "useGroupedValuesInCharts": True, "hideEmptyCharts": True,
        "groupBy": None, "groupsExpanded": {}, "compareRunCharts": [],
        "compareRunSections": sections,
        "globalLineChartConfig": {
            "xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": "",
        },
    }  # fmt: skip
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    now = round(time.time() * 1000)
    return json.dumps(
        {"name": VIEW, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
    )


def check_port(port: int, host: str = LOOPBACK) -> None:
    """Raise ExpectedError when no server can listen on `host` at `port`."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        where = "" if host == LOOPBACK else f" on {host}"
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise ExpectedError(
            f"port {port} cannot be used{where} ({reason}); choose another: "
            f"PORT={port + 1 if port < 65535 else 5001}"
        ) from None


def serve(port: int, *, artifacts: str = "", host: str = LOOPBACK) -> int:
    """Run MLflow's server over the store until it is interrupted; returns its exit code.

    With a folder or bucket for `artifacts`, clients on other machines read and write them through
    the server. A `host` that others can reach has MLflow's own login in front.
    """
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", f"{port}"]
    command += ["--workers", "1"]
    # Not as an argument, in which everyone on this machine could read a password.
    environment["MLFLOW_BACKEND_STORE_URI"] = tracking.tracking_uri()
    if artifacts:
        command += ["--artifacts-destination", artifacts]
    with tempfile.TemporaryDirectory() as folder:  # which nobody else can read
        if host != LOOPBACK:
            command += ["--app-name", "basic-auth"]
            environment = _login(Path(folder) / "login.ini", host) | environment
        # In a session of its own, and told to end: at Ctrl-C it would print a traceback.
        server = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            return server.wait()
        except KeyboardInterrupt:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
            return 0


def _login(file: Path, host: str) -> dict[str, str]:
    """Settings with which MLflow asks for a login, in part written to `file`."""
    # The users stand beside the runs: MLflow would keep them in a file in the working directory.
    database = tracking.tracking_uri().replace("%", "%%")
    file.write_text(
        f"[mlflow]\nadmin_username = admin\ndefault_permission = READ\ndatabase_uri = {database}\n"
    )
    settings = {
        "MLFLOW_AUTH_CONFIG_PATH": f"{file}",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
    }
    if host != "0.0.0.0":  # for which MLflow answers to any private address
        settings["MLFLOW_SERVER_ALLOWED_HOSTS"] = f"{host},{host}:*"
    return settings


def check_server(backend: str, artifacts: str, host: str) -> None:
    """Take the database `backend` as the store, and make its tables before anyone opens it.

    Raises ExpectedError when it is no database that a server can keep, or cannot be reached, or
    when something is not installed.
    """
    if not backend.startswith(("postgres://", "postgresql://", "postgresql+psycopg2://")):
        raise ExpectedError(
            "BACKEND= names the database, as in BACKEND=postgresql://user:password@host/mlflow"
        )
    if artifacts.startswith("s3://") and find_spec("boto3") is None:
        raise ExpectedError("a bucket needs boto3: .venv/bin/python -m pip install boto3")
    if host != LOOPBACK and len(os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD", "")) < 12:
        raise ExpectedError(
            "a server that others can reach asks for a login: set MLFLOW_AUTH_ADMIN_PASSWORD to 12 "
            "characters or more, which become the password of its first user, admin"
        )
    os.environ["MLFLOW_TRACKING_URI"] = backend
    tracking.make_tables()
