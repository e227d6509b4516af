"""The MLflow UI: its addresses, and what it shows first."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mnist_exp.tracking import names
from mnist_exp.tracking.address import may_write, without_secrets
from mnist_exp.tracking.mlflow_internals import (
    MACHINE_LEARNING,
    VIEW_TAG,
    saved_view,
    view_state,
)
from mnist_exp.tracking.store import is_served, open_store, readable_errors, tracking_uri
from mnist_exp.tracking.writing import keep_page

log = logging.getLogger(__name__)

PORT = 5000
VIEW = "iterations"
REPORT = "comparison report"
CHARTS = {"test": True, "train": True, "Model metrics": False, "System metrics": False}
"""Sections of the charts, unfolded or not."""
LIMITS = 0.98, 1.0
"""What the charts of accuracies show, where the UI would begin at the first epoch's."""

DESCRIPTION = """\
Iterations of a small MNIST classifier, one file each in `experiments/`.

Every run holds its recipe as parameters, accuracy and loss of each epoch, its receptive-field
table, its source and the checksums of its data. The summaries (`best_`, `final_` and
`{worst}`) are in percent, so that 99.39 and 99.41 are told apart
where the UI rounds.
"""


def address(port: int = PORT) -> str:
    """The address of the UI: that of the tracking server, or of `serve` where there is none."""
    if not is_served():
        return f"http://127.0.0.1:{port}"
    # It is printed and written into pages, and must not carry a password there.
    return without_secrets(tracking_uri()).rstrip("/")


def run_path(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """Where the UI shows a run, or one of its artifacts, relative to its `address`."""
    opened = f"/artifacts/{artifact}" if artifact else ""
    return f"/#/experiments/{experiment_id}/runs/{run_id}{opened}?{MACHINE_LEARNING}"


def run_address(experiment_id: str, run_id: str) -> str:
    """Where the UI shows a run."""
    return f"{address()}{run_path(experiment_id, run_id)}"


def run_table_path(experiment_id: str) -> str:
    """Where the UI shows the runs, by the view of `prepare_ui`, relative to its `address`."""
    view = f"viewStateShareKey={VIEW}&compareRunsMode=TABLE"
    return f"/#/experiments/{experiment_id}/runs?{MACHINE_LEARNING}&{view}"


@readable_errors()
def prepare_ui(
    last_epochs: int, page: Path | None = None, *, iterations: Iterable[int] = ()
) -> str:
    """Make the store pleasant to browse; returns the path of the run table, relative to `address`.

    Saves the view that shows the columns that matter, among them the lowest accuracy of the
    `last_epochs`, the newest run first, grouped by iteration, of which `iterations` are folded but
    for that of the newest run; and charts in a train and a test section. Describes the
    experiment, with links to the view and to the newest report (`page`, which the store then
    keeps). A description that someone else wrote stays.
    """
    client, experiment = open_store()
    run_table = run_table_path(experiment)
    allowed = may_write(tracking_uri())
    try:
        if allowed:
            _save_view(client, experiment, last_epochs, iterations)
            _describe(client, experiment, last_epochs, run_table, page)
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise
        allowed = False
    if not allowed:
        log.warning("the store may only be read, so what its UI shows first stays as it is")
    return run_table


def _save_view(
    client: MlflowClient, experiment: str, last_epochs: int, iterations: Iterable[int]
) -> None:
    limits = {names.accuracy(part): LIMITS for part in ("train", "test")}
    newest = client.search_runs(
        [experiment], "params.model != ''", max_results=1, order_by=["attributes.start_time DESC"]
    )
    unfolded = newest[0].data.params["model"] if newest else ""
    folded = [number for number in iterations if f"{number}" != unfolded]
    state = view_state(_columns(last_epochs), "model", folded, CHARTS, limits)
    tags = client.get_experiment(experiment).tags
    if state not in tags.get(f"{VIEW_TAG}{VIEW}", ""):
        client.set_experiment_tag(experiment, f"{VIEW_TAG}{VIEW}", saved_view(VIEW, state))


def _describe(
    client: MlflowClient, experiment: str, last_epochs: int, run_table: str, page: Path | None
) -> None:
    description = _description(last_epochs)
    current = client.get_experiment(experiment).tags.get(names.DESCRIPTION, description)
    report = keep_page(REPORT, page) if page else None
    if _is_ours(current) and (report or current == description):
        charts = run_table.replace("compareRunsMode=TABLE", "compareRunsMode=CHART")
        links = {"run table": run_table, "charts": charts}
        if page and report:
            links[REPORT] = run_path(*report, page.name)
        line = " · ".join(f"[{name}]({link})" for name, link in links.items())
        client.set_experiment_tag(experiment, names.DESCRIPTION, f"{line}\n\n{description}")


def _description(last_epochs: int | str) -> str:
    return DESCRIPTION.format(worst=names.worst_of_last(last_epochs, "test"))


def _is_ours(description: str) -> bool:
    """Whether it ends in our description, with whatever number of last epochs it was made."""
    before, after = map(re.escape, _description("#").split("#"))
    return re.search(rf"{before}\d+{after}\Z", description) is not None


def _columns(last_epochs: int) -> dict[str, int]:
    """The columns of the run table that matter, with their widths in pixels."""
    return {
        "tags.`verdict`": 130,
        f"metrics.`{names.worst_of_last(last_epochs, 'test')}`": 290,
        f"metrics.`{names.final('test')}`": 230,
        "metrics.`parameters`": 110,
        "params.`split`": 100,
        "params.`fold`": 70,
        "tags.`overrides`": 110,
        f"metrics.`{names.best('test')}`": 230,
    }
