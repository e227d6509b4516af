"""The MLflow UI: its addresses, and what it shows first.

Facts about MLflow 3.17.2, seen in a browser: without `workflowType` in the address the UI opens in
its mode for language models and hides the runs; it opens a saved view from `/runs` only; it folds a
description to its first line.
"""

import base64
import json
import re
import time
import zlib
from pathlib import Path

from mnist_exp.tracking.store import is_served, open_store, tracking_uri
from mnist_exp.tracking.writing import keep_page

PORT = 5000
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
    if not is_served():
        return f"http://127.0.0.1:{port}"
    # It is printed and written into pages, and must not carry a password there.
    return re.sub("//[^/@]*@", "//", tracking_uri().rstrip("/"))


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
    client, experiment = open_store()
    path = f"/#/experiments/{experiment}/runs?{MACHINE_LEARNING}&viewStateShareKey={VIEW}"
    table = f"{path}&compareRunsMode=TABLE"
    tags = client.get_experiment(experiment).tags
    if f"{TAG}{VIEW}" not in tags:
        client.set_experiment_tag(experiment, f"{TAG}{VIEW}", _view())
    current = tags.get("mlflow.note.content", DESCRIPTION)
    kept = keep_page(REPORT, page) if page else None
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
