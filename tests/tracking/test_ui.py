"""What the store tells the MLflow UI; test_browser.py looks at it in a browser."""

import base64
import json
import os
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from handmade import record_run
from servers import free_port, wait_until_healthy

from mnist_exp import tracking
from mnist_exp.tracking import ui

pytestmark = pytest.mark.usefixtures("store")


def tags() -> dict[str, str]:
    client, experiment = tracking.open_store()
    return dict(client.get_experiment(experiment).tags)


def view() -> dict[str, Any]:
    """What the saved view shows."""
    kept = json.loads(tags()["mlflow.sharedViewState.iterations"])
    packed = base64.b64decode(kept["state"].removeprefix("deflate;"))
    return dict(json.loads(zlib.decompress(packed)))


def test_the_saved_view_shows_the_columns_that_matter() -> None:
    assert "viewStateShareKey=iterations" in ui.prepare_ui(5)
    state = view()
    assert state["selectedColumns"][0] == "tags.`verdict`"
    assert "metrics.`worst_of_last_5_test_accuracy_percent`" in state["selectedColumns"]
    assert (state["orderByKey"], state["orderByAsc"]) == ("attributes.start_time", False)
    assert state["groupBy"]["groupByKeys"] == [{"mode": "param", "groupByData": "model"}]
    assert [part["name"] for part in state["compareRunSections"]][:2] == ["test", "train"]
    limits = {chart["metricKey"]: chart["range"] for chart in state["compareRunCharts"]}
    assert limits["test/accuracy"] == {"yMin": 0.98, "yMax": 1.0}


def test_only_the_iteration_of_the_newest_run_is_unfolded() -> None:
    for number in (9, 3):
        record_run(number)
    ui.prepare_ui(5, iterations=[2, 3, 9])
    assert view()["groupsExpanded"] == {"param.model.2": False, "param.model.9": False}


def test_the_description_links_to_the_newest_report(tmp_path: Path) -> None:
    ui.prepare_ui(5)
    first = tags()["mlflow.note.content"]
    assert first.startswith("[run table](/#/experiments/")
    assert "report" not in first.partition("\n")[0]
    page = tmp_path / "comparison.html"
    page.write_text("<p>the comparison</p>")
    ui.prepare_ui(5, page)
    ui.prepare_ui(5, page)
    ui.prepare_ui(5)  # does not take the link away
    line = tags()["mlflow.note.content"].partition("\n")[0]
    assert tracking.runs().empty  # it does not stand among the trainings
    client, _ = tracking.open_store()
    kept = client.get_experiment_by_name("mnist_exp reports").experiment_id
    (report,) = client.search_runs([kept])  # one run keeps all reports
    path = f"runs/{report.info.run_id}/artifacts/comparison.html?workflowType=machine_learning"
    assert line.endswith(f"[comparison report](/#/experiments/{kept}/{path})")


def test_another_target_changes_what_is_shown(tmp_path: Path) -> None:
    page = tmp_path / "comparison.html"
    page.touch()
    ui.prepare_ui(5, page)
    made = tags()
    ui.prepare_ui(5, page)
    assert tags() == made  # nor is the time of the view another
    assert "metrics.`worst_of_last_3_test_accuracy_percent`" not in view()["selectedColumns"]
    ui.prepare_ui(3, page)
    assert "metrics.`worst_of_last_3_test_accuracy_percent`" in view()["selectedColumns"]
    assert "worst_of_last_3_test_accuracy_percent" in tags()["mlflow.note.content"]
    assert "worst_of_last_5" not in tags()["mlflow.note.content"]


@pytest.mark.parametrize("login", ["someone:secret", "someone:se@cret", "some@one:secret"])
def test_no_password_is_in_an_address(login: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://{login}@example.org/mlflow/")
    assert ui.run_address("1", "a").startswith("https://example.org/mlflow/#/experiments/1/runs/a")


def test_a_description_that_someone_else_wrote_stays(tmp_path: Path) -> None:
    client, experiment = tracking.open_store()
    client.set_experiment_tag(experiment, "mlflow.note.content", "My own words.")
    page = tmp_path / "comparison.html"
    page.touch()
    ui.prepare_ui(5, page)
    assert tags()["mlflow.note.content"] == "My own words."


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """`make ui`; its port and process id."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_exp", "ui", f"PORT={port}"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={key: value for key, value in os.environ.items() if "MLFLOW_DISABLE" not in key},
    )  # fmt: skip
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}")
        yield port, process.pid
    finally:
        process.terminate()
        assert process.wait(30) == 0


def create(port: int, **headers: str) -> int:
    """Ask the server as a page does that a browser shows; returns the status of the answer."""
    own = {"Content-Type": headers.pop("content", "application/json")}
    address = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/create"
    return requests.post(address, '{"name": "made"}', headers=own | headers).status_code


@pytest.mark.slow
def test_the_ui_answers_its_own_pages_on_this_machine_only(served: tuple[int, int]) -> None:
    port, process_id = served
    client, _ = tracking.open_store()
    origins = ["http://evil.example", "null", f"http://127.0.0.1.evil.example:{port}"]
    for origin in origins:
        for content in ("application/json", "text/plain"):  # which a form can send
            assert create(port, Origin=origin, content=content) == 403
    hosts = ["evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}"]
    for host in hosts:
        assert create(port, Host=host) == 403
        assert requests.get(f"http://127.0.0.1:{port}/", headers={"Host": host}).status_code == 403
    assert client.get_experiment_by_name("made") is None
    reply = requests.get(f"http://127.0.0.1:{port}/", headers={"Origin": "http://evil.example"})
    assert "Access-Control-Allow-Origin" not in reply.headers
    assert create(port, Origin=f"http://127.0.0.1:{port}") == 200
    assert client.get_experiment_by_name("made") is not None

    processes = psutil.Process(process_id).children(recursive=True)
    listening = [
        connection.laddr
        for process in processes for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]  # fmt: skip
    assert listening == [("127.0.0.1", port)]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", port)) != 0
    assert not [process for process in processes if "mlflow.server.jobs" in str(process.cmdline())]
    for process in processes:
        assert process.environ()["MLFLOW_DISABLE_TELEMETRY"] == "true"
