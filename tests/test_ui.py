"""What the store tells the MLflow UI; test_browser.py looks at it in a browser."""

import base64
import json
import zlib
from pathlib import Path

import pytest

from mnist_exp import tracking, ui

pytestmark = pytest.mark.usefixtures("store")


def tags() -> dict[str, str]:
    client, experiment = tracking.open_store()
    return dict(client.get_experiment(experiment).tags)


def test_the_saved_view_shows_the_columns_that_matter() -> None:
    assert "viewStateShareKey=iterations" in ui.prepare()
    kept = json.loads(tags()["mlflow.sharedViewState.iterations"])
    state = json.loads(zlib.decompress(base64.b64decode(kept["state"].removeprefix("deflate;"))))
    assert state["selectedColumns"][1] == "metrics.`parameters`"
    assert "metrics.`worst_of_last_5_test_accuracy_percent`" in state["selectedColumns"]
    assert state["orderByKey"] == "metrics.`model`"
    assert [part["name"] for part in state["compareRunSections"]][:2] == ["train", "test"]


def test_the_description_links_to_the_newest_report(tmp_path: Path) -> None:
    ui.prepare()
    first = tags()["mlflow.note.content"]
    assert first.startswith("[run table](/#/experiments/")
    assert "report" not in first.partition("\n")[0]
    page = tmp_path / "comparison.html"
    page.write_text("<p>the comparison</p>")
    ui.prepare(page)
    ui.prepare(page)
    ui.prepare()  # does not take the link away
    line = tags()["mlflow.note.content"].partition("\n")[0]
    assert tracking.runs().empty  # it does not stand among the trainings
    client, _ = tracking.open_store()
    kept = client.get_experiment_by_name("mnist_exp reports").experiment_id
    (report,) = client.search_runs([kept])  # one run keeps all reports
    path = f"runs/{report.info.run_id}/artifacts/comparison.html?workflowType=machine_learning"
    assert line.endswith(f"[comparison report](/#/experiments/{kept}/{path})")


def test_no_password_is_in_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://someone:secret@example.org/mlflow/")
    assert ui.run_address("1", "a").startswith("https://example.org/mlflow/#/experiments/1/runs/a")


def test_a_description_that_someone_else_wrote_stays(tmp_path: Path) -> None:
    client, experiment = tracking.open_store()
    client.set_experiment_tag(experiment, "mlflow.note.content", "My own words.")
    page = tmp_path / "comparison.html"
    page.touch()
    ui.prepare(page)
    assert tags()["mlflow.note.content"] == "My own words."
