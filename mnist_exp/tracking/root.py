"""What `serve` has MLflow's server be: its own app, with a root that opens the run table."""

from pathlib import Path
from typing import Any

from flask import Response
from mlflow import server
from mlflow.server import handlers

from mnist_exp.tracking.mlflow_internals import opening
from mnist_exp.tracking.store import EXPERIMENT
from mnist_exp.tracking.ui import run_table_path


def root() -> Response:
    """The UI's page, for any path after the `#`; before the first run it opens as MLflow has it."""
    page = (Path(str(server.app.static_folder)) / "index.html").read_text(encoding="utf-8")
    experiment = handlers._get_tracking_store().get_experiment_by_name(EXPERIMENT)
    path = run_table_path(experiment.experiment_id) if experiment else "/#/experiments"
    return Response(opening(page, path), mimetype="text/html")


def app() -> Any:
    """MLflow's server, an ASGI application."""
    server.app.view_functions["serve"] = root
    from mlflow.server.fastapi_app import app  # takes a second, and only the server needs it

    return app
