"""A real store: what is written is read back, whoever else writes."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient
from servers import mlflow_server
from sqlalchemy import Engine, event

from mnist_exp import ROOT, tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.tracking import names, ui

pytestmark = pytest.mark.usefixtures("store")


def record(name: str, *, epochs: int = 2, **parameters: object) -> str:
    with tracking.start_run(name, parameters, {"overrides": "none"}) as run:
        for epoch in range(1, epochs + 1):
            run.log_metrics({"test/errors": 100 - epoch, "train/accuracy": 0.5}, step=epoch)
        run.log_metrics({"parameters": 7_416})
    return run.run_id


def test_runs_are_tidy() -> None:
    ids = [record("first", model=5, optimizer="SGD"), record("second", model=6, seed=3)]
    runs = tracking.runs()
    assert runs["run_id"].tolist() == ids
    assert runs["run_name"].tolist() == ["first", "second"]
    assert runs["status"].tolist() == ["FINISHED"] * 2
    assert runs["model"].tolist() == [5, 6]
    assert runs["optimizer"].tolist()[0] == "SGD"
    assert pd.isna(runs["optimizer"][1])
    assert runs["parameters"].tolist() == [7_416] * 2
    assert runs["test_errors"].tolist() == [98, 98]  # the last
    assert (runs["end_time"] >= runs["start_time"]).all()
    assert pd.api.types.is_numeric_dtype(runs["seed"])
    assert runs["overrides"].isna().all()


def test_what_a_run_overrides_is_missing_only_where_it_says_that_it_overrides_nothing() -> None:
    for tags in ({"overrides": "none"}, {"overrides": "epochs=2"}, {}):
        with tracking.start_run("run", {}, tags):
            pass
    overrides = tracking.runs()["overrides"]
    assert overrides.isna().tolist() == [True, False, False]
    assert overrides.tolist()[1:] == ["epochs=2", "not recorded"]


def test_history_has_a_row_per_run_and_epoch() -> None:
    first, second = record("first"), record("second", epochs=3)
    history = tracking.history()
    assert history.groupby("run_id")["epoch"].apply(list).to_dict() == {
        first: [1, 2],
        second: [1, 2, 3],
    }
    assert list(history.columns) == ["run_id", "epoch", "time", "train_accuracy", "test_errors"]
    now = pd.Timestamp.now(tz="UTC")
    assert history["time"].between(now - pd.Timedelta(minutes=1), now).all()
    only = tracking.history([second])
    assert only["test_errors"].tolist() == [99, 98, 97]


def test_the_learning_rate_of_a_run_is_that_of_its_recipe() -> None:
    with tracking.start_run("decaying", {"learning_rate": 0.01}, {}) as run:
        run.log_metrics({"learning_rate": 0.0001}, step=1)
    assert tracking.runs()["learning_rate"].tolist() == [0.01]
    assert tracking.history()["learning_rate"].tolist() == [0.0001]


def test_runs_of_others_do_not_disturb_ours() -> None:
    record("ours", model=6)
    client, experiment = tracking.open_store()
    theirs = client.create_run(experiment, run_name="theirs").info.run_id
    parameters = {"model": "resnet", "seed": "1e3", "optimizer": "12", "code_sha256": "123e4567"}
    for name, value in parameters.items():
        client.log_param(theirs, name, value)
    runs = tracking.runs()
    assert runs["model"].tolist() == [6, "resnet"]
    assert runs["seed"].tolist()[1] == 1000
    assert set(tracking.RUN_COLUMNS) <= set(runs.columns)


def test_one_process_can_use_two_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    record("in the first")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/second/mlflow.db")
    record("in the second")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    record("in the first again")
    assert tracking.runs()["run_name"].tolist() == ["in the first", "in the first again"]


def test_a_doubled_point_stays_visible() -> None:
    with tracking.start_run("doubled", {}, {}) as run:
        run.log_metrics({"test/errors": 5}, step=1)
        run.log_metrics({"test/errors": 6}, step=1)
    history = tracking.history([run.run_id])
    assert history["epoch"].tolist() == [1, 1]
    assert sorted(history["test_errors"]) == [5, 6]


def test_histories_come_in_the_order_asked_for() -> None:
    ids = [record(f"run {number}", epochs=2) for number in range(4)][::-1]
    assert tracking.history(ids)["run_id"].tolist() == [run_id for run_id in ids for _ in range(2)]


def test_reading_more_runs_takes_no_more_queries() -> None:
    def queries() -> int:
        count = 0

        def counted(*_: object) -> None:
            nonlocal count
            count += 1

        event.listen(Engine, "before_cursor_execute", counted)
        tracking.runs()
        tracking.history()
        event.remove(Engine, "before_cursor_execute", counted)
        return count

    record("first")
    queries()  # the store may be looked over once
    few = queries()
    for number in range(8):
        record(f"run {number}")
    assert queries() == few


def test_what_a_run_was_given_is_read_back() -> None:
    sheet = np.arange(56, dtype=np.uint8).reshape(7, 8)
    with tracking.start_run("named", {}, {}) as run:
        run.log_table(pd.DataFrame({"layer": ["conv1"], "kernel": [3]}), "receptive_field")
        run.log_image(sheet, "misclassified")
    table = tracking.table(run.run_id, "receptive_field")
    assert table.to_dict("list") == {"layer": ["conv1"], "kernel": [3]}
    assert (tracking.image(run.run_id, "misclassified") == sheet).all()
    assert tracking.table(run.run_id, "confusion_matrix") is None
    assert tracking.image(record("bare"), "misclassified") is None


@pytest.mark.parametrize(
    "write",
    [
        lambda run: run.log_parameters({"colour": "red"}),
        lambda run: run.set_tags({"colour": "red"}),
        lambda run: run.log_metrics({"colour": 3}),
        lambda run: run.log_metrics({"dev/accuracy": 0.5}),
        lambda run: run.log_table(pd.DataFrame({"name": ["red"]}), "colours"),
        lambda run: run.log_text("red", "colours.txt"),
        lambda run: run.log_figure(None, "colours"),
        lambda run: run.log_image(np.zeros((2, 3), np.uint8), "colours"),
    ],
)
def test_what_has_no_name_is_not_written(write: Callable[[tracking.RunWriter], None]) -> None:
    with (
        tracking.start_run("named", {}, {}) as run,
        pytest.raises(ValueError, match=r"colour|dev/accuracy"),
    ):
        write(run)
    client, _ = tracking.open_store()
    kept = client.get_run(run.run_id).data
    assert kept.params == kept.metrics == {}
    assert set(names.TAGS) & set(kept.tags) == {"process", "heartbeat", "mlflow.user"}
    assert client.list_artifacts(run.run_id) == []


def test_an_empty_store_gives_empty_tables() -> None:
    assert tracking.runs().empty
    assert tracking.runs().columns.tolist() == list(tracking.RUN_COLUMNS)
    assert tracking.history().empty


def test_an_exception_fails_the_run_and_says_why() -> None:
    with pytest.raises(ExpectedError), tracking.start_run("wild", {}, {}):
        raise ExpectedError("the loss became nan")
    run = tracking.runs().iloc[0]
    assert run["status"] == "FAILED"
    assert run["failure"] == "ExpectedError: the loss became nan"


def test_a_run_that_is_finished_has_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the answer of a server, which has entered its end, is lost on the way."""
    enter = MlflowClient.set_terminated

    def lose_the_answer(*arguments: object) -> None:
        enter(*arguments)
        raise ConnectionResetError("lost")

    monkeypatch.setattr(MlflowClient, "set_terminated", lose_the_answer)
    with pytest.raises(ExpectedError, match="lost"), tracking.start_run("whole", {}, {}):
        pass
    run = tracking.runs().iloc[0]
    assert run["status"] == "FINISHED"
    assert "failure" not in run.dropna()


def test_an_interrupt_kills_the_run() -> None:
    def interrupted() -> None:
        with tracking.start_run("stopped", {}, {}) as run:
            run.log_metrics({"test/errors": 5}, step=1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert tracking.runs()["status"].tolist() == ["KILLED"]
    assert len(tracking.history()) == 1


def test_the_default_store_is_in_the_checkout_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    assert tracking.tracking_uri() == f"sqlite+pysqlite:///{ROOT}/mlruns/mlflow.db"


def test_artifacts_lie_beside_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "elsewhere"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    with tracking.start_run("named", {}, {}) as run:
        run.log_table(pd.DataFrame({"layer": ["conv1"], "kernel": [3]}), "receptive_field")
    (table,) = (folder / "artifacts").rglob("receptive_field.csv")
    assert table.read_text() == "layer,kernel\nconv1,3\n"
    assert table.with_suffix(".json").is_file()


RECORD = """
import sys
from mnist_exp import tracking
with tracking.start_run(sys.argv[1], {"model": 5}, {}) as run:
    for epoch in range(1, 6):
        run.log_metrics({"test/errors": epoch}, step=epoch)
"""


@pytest.mark.slow
def test_processes_that_open_a_fresh_store_at_once_all_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new/mlflow.db")
    writers = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", RECORD, f"writer {i}"])
        for i in range(4)
    ]
    assert [writer.wait(120) for writer in writers] == [0] * 4
    assert sorted(tracking.runs()["run_name"]) == [f"writer {i}" for i in range(4)]
    assert len(tracking.history()) == 4 * 5


@pytest.mark.parametrize("kind", ["below a file", "not a database", "file store", "unknown"])
def test_a_store_that_cannot_be_used_is_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("this is no database, and never was one\n" * 100)
    uri = {
        "below a file": f"sqlite:///{tmp_path}/file/mlflow.db",
        "not a database": f"sqlite:///{tmp_path}/file",
        "file store": f"file://{tmp_path}/runs",
        "unknown": "gopher://user:a/b@secret@example.org",
    }[kind]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    says = r"tracking store .* cannot be used|is no store: the address of a database"
    with pytest.raises(ExpectedError, match=says) as raised:
        tracking.open_store()
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_server_that_is_away_is_one_line_within_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        start = time.monotonic()
        with pytest.raises(ExpectedError, match=address):
            tracking.open_store()
        assert time.monotonic() - start < 10


@pytest.fixture
def server(store: Path, tmp_path: Path) -> Iterator[str]:
    """A real MLflow server over a store of its own."""
    with mlflow_server(f"sqlite:///{store}/mlflow.db", tmp_path) as address:
        yield address


def test_a_server_works_like_the_local_store(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy in ("http_proxy", "https_proxy", "ALL_PROXY"):  # which this machine does not ask
        monkeypatch.setenv(proxy, "http://user:secret@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    run_id = record("through a server", model=5)
    assert tracking.runs()["run_id"].tolist() == [run_id]
    assert tracking.history()["test_errors"].tolist() == [99, 98]
    monkeypatch.setattr(tracking.reading, "POINTS_PER_REQUEST", 2)  # as if it were cut off
    assert tracking.history()["test_errors"].tolist() == [99, 98]
    assert tracking.is_served()
    assert ui.address() == server
    assert ui.prepare_ui(5).startswith("/#/experiments/")


@pytest.mark.slow
def test_the_end_of_a_run_waits_seconds_for_a_server_that_hangs(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    processes = psutil.Process().children(recursive=True)
    with suppress(KeyboardInterrupt), tracking.start_run("told to end", {}, {}):
        for process in processes:
            process.suspend()
        begun = time.monotonic()
        raise KeyboardInterrupt
    took = time.monotonic() - begun
    for process in processes:
        process.resume()
    assert took < 8  # MLflow asks twice, and waits for ten seconds each time
    assert tracking.runs()["status"].tolist() == ["RUNNING"]  # until this process is gone


@pytest.mark.parametrize("silent", [True, False])
def test_a_server_that_is_away_is_one_line_within_seconds(
    silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if not silent:
            listener.close()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        begun = time.monotonic()
        with pytest.raises(tracking.UnreachableError, match="it does not answer") as refused:
            tracking.runs()
        assert "\n" not in str(refused.value)
        assert time.monotonic() - begun < 6
