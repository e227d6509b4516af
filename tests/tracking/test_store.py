"""Stores that were moved, copied, or made by another MLflow."""

import contextlib
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from handmade import OLD, add_evidence, make_old_store, record_run
from servers import free_port, wait_until_healthy
from short_runs import carry_out, short

from mnist_exp import data, tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.data import Digits
from mnist_exp.evidence import comparison
from mnist_exp.notebook import entries
from mnist_exp.reporting.page import write_page
from mnist_exp.tracking.mlflow_internals import newest_schema


@pytest.fixture(scope="module")
def made(
    fresh_store: Path, mnist: tuple[Digits, Digits], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The folder of a store with one real run of model 6, which is registered, and the run's id."""
    folder = tmp_path_factory.mktemp("made") / "mlruns"
    shutil.copytree(fresh_store, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", address(folder))
        patch.setattr(data, "load", lambda *_: (mnist[0][:500], mnist[1][:500]))
        return folder, carry_out(short()).run_id


def address(folder: Path) -> str:
    return f"sqlite:///{urllib.parse.quote(str(folder))}/mlflow.db"


def contents(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*") if file.is_file()
    }  # fmt: skip


def check_everything_is_read(run_id: str, folder: Path) -> None:
    """The store that tracking uses gives all that the run was given to keep, from `folder`."""
    (confusion,) = (folder / "artifacts").rglob(f"{run_id}/**/confusion_matrix.csv")
    text = confusion.read_text().splitlines()
    confusion.write_text("\n".join([*text[:-1], "9" + ",77" * 10]))  # to tell it from a copy
    assert tracking.table(run_id, "confusion_matrix")["0"].tolist()[-1] == 77
    wrong = tracking.table(run_id, "misclassified")
    kept, helpers = tracking.source(run_id, 6)
    assert (kept, helpers) == (entries.read_entry(6).source, {})
    sheet = tracking.image(run_id, "misclassified")
    assert sheet.shape == (28 * -(-len(wrong) // 10), 280)
    pixels = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    own = mlflow.pytorch.load_model(f"runs:/{run_id}/network")(pixels)
    registered = mlflow.pytorch.load_model("models:/model-6/1")(pixels)
    assert own.shape == (2, 10)
    assert torch.equal(own, registered)


PLACES = ["plain", "with a space, ü and 50 %"]


@pytest.mark.parametrize("place", PLACES)
def test_a_copy_has_its_own_artifacts_and_leaves_the_original_alone(
    place: str, made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, run_id = made
    before = contents(original)
    folder = tmp_path / place / "mlruns"
    shutil.copytree(original, folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(folder))
    check_everything_is_read(run_id, folder)
    with tracking.start_run("new", {}, {}) as run:
        run.log_image(np.zeros((2, 3), np.uint8), "misclassified")
    assert len(list((folder / "artifacts").rglob(f"{run.run_id}/**/misclassified.png"))) == 1
    assert contents(original) == before
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(original))
    assert tracking.table(run_id, "confusion_matrix")["0"].tolist()[-1] != 77


@pytest.mark.parametrize("place", PLACES)
def test_a_store_that_was_moved_works_where_it_is(
    place: str, made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, run_id = made
    old, folder = tmp_path / "old" / "mlruns", tmp_path / place / "mlruns"
    shutil.copytree(original, old)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(old))
    for seed in (1, 2):  # which count
        add_evidence(record_run(6, seed=seed))
    folder.parent.mkdir()
    old.rename(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(folder))
    check_everything_is_read(run_id, folder)
    page = write_page(comparison.compare(), tmp_path / "reports" / "comparison.html")
    assert "data:image/png" in page.read_text()
    tracking.keep_page("comparison report", page)
    assert len(list((folder / "artifacts").rglob("comparison.html"))) == 1
    assert list(old.parent.iterdir()) == []


def test_a_moved_store_that_may_only_be_read_has_the_sources(
    made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, run_id = made
    old, folder = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    shutil.copytree(original, old)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(old))
    tracking.runs()  # a copy knows where it is when it is first opened
    folder.parent.mkdir()
    old.rename(folder)
    read_only = f"sqlite:///file:{urllib.parse.quote(str(folder))}/mlflow.db?mode=ro&uri=true"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", read_only)
    assert tracking.source(run_id, 6) == (entries.read_entry(6).source, {})


def test_a_database_that_was_copied_alone_reads_the_artifacts_where_they_are(
    made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, run_id = made
    shutil.copy(original / "mlflow.db", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(tmp_path))
    assert tracking.table(run_id, "confusion_matrix").shape == (10, 11)
    assert mlflow.pytorch.load_model("models:/model-6/1")


@pytest.mark.parametrize("name", ["a%20b", "a?b"])
def test_a_folder_whose_name_an_address_would_write_otherwise(
    name: str, fresh_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(fresh_store, tmp_path / name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(tmp_path / name))
    with tracking.start_run("new", {}, {}) as run:
        run.log_image(np.zeros((2, 3), np.uint8), "misclassified")
    assert tracking.image(run.run_id, "misclassified").shape == (2, 3)
    assert len(list((tmp_path / name / "artifacts").rglob("misclassified.png"))) == 1
    assert tracking.local_folder() == tmp_path / name
    assert f"{name}/" not in tracking.tracking_uri()


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_the_ui_of_a_moved_store_serves_its_artifacts(
    place: str, made: tuple[Path, str], tmp_path: Path
) -> None:
    original, run_id = made
    old, folder = tmp_path / "old" / "mlruns", tmp_path / place / "mlruns"
    shutil.copytree(original, old)
    environment = os.environ | {"MLFLOW_TRACKING_URI": address(old)}
    opened = [sys.executable, "-c", "from mnist_exp import tracking; tracking.open_store()"]
    subprocess.run(opened, env=environment, check=True)
    folder.parent.mkdir()
    old.rename(folder)
    port = free_port()
    environment["MLFLOW_TRACKING_URI"] = address(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_exp", "ui", f"PORT={port}"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}")
        query = urllib.parse.urlencode({"run_uuid": run_id, "path": "confusion_matrix.csv"})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/get-artifact?{query}") as reply:
            (kept,) = (folder / "artifacts").rglob("confusion_matrix.csv")
            assert reply.read() == kept.read_bytes()
    finally:
        process.terminate()
        assert process.wait(30) == 0


def revision(database: Path) -> str:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


@pytest.fixture
def old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a store as MLflow 3.0 made it, with one run in it."""
    folder = tmp_path / "mlruns"
    folder.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(folder))
    make_old_store(folder / "mlflow.db")
    return folder


def test_a_store_of_an_older_mlflow_is_kept_and_upgraded(
    old_store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert tracking.runs()["run_name"].tolist() == ["of old"]
    record_run(6)
    assert tracking.runs()["run_name"].tolist() == ["of old", "model-6 · seed 1"]
    copy = old_store / f"mlflow.db.{OLD}"
    assert caplog.text.count(f"kept as it was in {copy}") == 1
    assert revision(copy) == OLD
    assert revision(old_store / "mlflow.db") == newest_schema() != OLD
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT name FROM runs").fetchall() == [("of old",)]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "entity_associations" not in tables  # which came later


def test_a_copy_from_before_is_not_overwritten_by_an_upgrade(old_store: Path) -> None:
    """As when an upgrade was interrupted halfway and the command is given again."""
    (old_store / f"mlflow.db.{OLD}").write_text("the only whole one")
    tracking.open_store()
    assert (old_store / f"mlflow.db.{OLD}").read_text() == "the only whole one"
    assert revision(old_store / f"mlflow.db.{OLD}-2") == OLD


def test_a_store_of_a_newer_mlflow_is_one_line_and_stays_as_it_is(
    fresh_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "mlflow.db"
    shutil.copy(fresh_store / "mlflow.db", database)
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'fedcba987654'")
    before = database.read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(tmp_path))
    with pytest.raises(ExpectedError, match=r"newer MLflow \(schema fedcba987654\) than is inst"):
        tracking.open_store()
    assert database.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} - {".lock"} == {"mlflow.db"}
