"""A store that was deleted, may only be read, or lies where nothing can be written."""

import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from handmade import add_evidence, record_run

from mnist_exp import tracking
from mnist_exp.commands.cli import main
from mnist_exp.tracking import names

ANYTHING = "a" * 32


def said(command: str, capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """The one line that a command says."""
    capsys.readouterr()
    assert main(command.split()) == code
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith("mnist-exp: ")
    return line


def type_in(command: str) -> None:
    """What a user does who copies a command out of a line."""
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)


def test_a_deleted_experiment_is_brought_back_by_what_the_line_says(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = record_run(6)
    client, experiment = tracking.open_store()
    tracking.back_up(tmp_path / "before.tar.gz")
    client.delete_experiment(experiment)
    tracking.store._opened.cache_clear()  # as in a new process
    tracking.store.experiment_id.cache_clear()
    commands = ["check", "compare", "ui", "report", "import", "sweep MODELS=6 SEEDS=1 EPOCHS=1"]
    for command in [*commands, f"reproduce RUN={ANYTHING}", f"resume RUN={ANYTHING}"]:
        line = said(command, capsys)
        assert "the experiment mnist_exp was deleted, and all its runs with it: " in line
    copied = line.partition("with it: ")[2].removesuffix(" brings it back\n")
    assert copied == (
        f"MLFLOW_TRACKING_URI={shlex.quote(tracking.tracking_uri())} {sys.executable} -m mlflow "
        f"experiments restore --experiment-id {experiment}"
    )
    type_in(copied)
    assert tracking.runs()["run_id"].tolist() == [run_id]
    client.delete_experiment(experiment)
    assert main(["restore", f"BACKUP={tmp_path / 'before.tar.gz'}"]) == 0
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        (stage,) = database.execute("SELECT lifecycle_stage FROM experiments WHERE name = ?",
                                    [tracking.store.EXPERIMENT]).fetchone()  # fmt: skip
    assert stage == "active"


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_a_deleted_run_is_brought_back_by_what_the_line_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_id = record_run(6)
    tracking.remove_run(run_id)
    line = said(f"reproduce RUN={run_id}", capsys)
    assert f"run {run_id} was deleted: MLFLOW_TRACKING_URI=" in line
    type_in(line.partition("deleted: ")[2].removesuffix(" brings it back\n"))
    assert tracking.find_run(run_id)["status"].item() == "FINISHED"
    assert "holds no run aaaa" in said(f"reproduce RUN={ANYTHING}", capsys)


@pytest.fixture(params=["address", "permissions"])
def read_only(
    request: pytest.FixtureRequest, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The folder of a copy that may only be read, of a store with a run that says what it holds.

    By what its address says, or by its permissions, which do not bind root.
    """
    add_evidence(record_run(6))
    copy = tmp_path / "share"
    shutil.copytree(store, copy)
    (store / "artifacts").rename(tmp_path / "hidden")  # so that only its own can be read
    (copy / ".lock").unlink(missing_ok=True)
    address = f"sqlite:///file:{copy}/mlflow.db?uri=true&mode=ro"
    if request.param == "permissions":
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        address = f"sqlite:///{copy}/mlflow.db"
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    yield copy
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755)


@pytest.mark.slow
def test_a_store_that_may_only_be_read_is_read(
    read_only: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = {file: file.read_bytes() for file in read_only.rglob("*") if file.is_file()}
    (run_id,) = tracking.runs()["run_id"]
    assert tracking.table(run_id, names.Table.MISCLASSIFIED)["truth"].tolist() == [4, 2]
    assert tracking.image(run_id, names.Image.MISCLASSIFIED).shape == (28, 280)
    assert main(["check"]) == 0
    assert main(["compare"]) == 0
    assert main(["runs"]) == 0
    assert main(["compare", f"RUNS={run_id[:8]}"]) == 0
    tracking.back_up(tmp_path / "backup.tar.gz")
    with tarfile.open(tmp_path / "backup.tar.gz") as archive:
        assert "mlflow.db" in archive.getnames()
    monkeypatch.setattr("mnist_exp.ROOT", tmp_path)
    assert main(["report"]) == 0
    assert "may only be read, so what its UI shows first stays as it is" in caplog.text
    assert "7" in (tmp_path / "reports" / "comparison.html").read_text()
    refused = said("sweep MODELS=6 SEEDS=1 EPOCHS=1", capsys)
    assert f"store {read_only}/mlflow.db may only be read: copy its folder" in refused
    for command in ("import", f"delete RUN={run_id}"):
        assert "may only be read" in said(command, capsys)
    assert {file: file.read_bytes() for file in read_only.rglob("*") if file.is_file()} == before


def test_a_database_that_is_locked_for_long_is_one_line(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db?timeout=0.2")
    with closing(sqlite3.connect(store / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        for command in ("compare", "import", "ui"):
            assert "database is locked" in said(command, capsys)


def test_artifacts_that_were_removed_are_missing_and_no_more(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = record_run(6)
    add_evidence(run_id)
    shutil.rmtree(store / "artifacts")
    assert tracking.table(run_id, names.Table.MISCLASSIFIED) is None
    assert tracking.image(run_id, names.Image.MISCLASSIFIED) is None
    assert main(["check"]) == 0
    capsys.readouterr()
    tracking.back_up(store.parent / "backup.tar.gz")
    add_evidence(run_id)
    assert tracking.table(run_id, names.Table.MISCLASSIFIED) is not None


@pytest.mark.parametrize("command", ["import", "ui PORT=5999"])
@pytest.mark.usefixtures("store")
def test_no_temporary_folder_is_one_line_before_anything_begins(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where TMPDIR, /tmp and the like are full, or may only be read."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
    line = said(command, capsys)
    assert "No usable temporary directory" in line
    assert "set TMPDIR to a folder with some space" in line
    assert tracking.runs().empty


@pytest.mark.usefixtures("store")
def test_a_full_disk_under_the_checkout_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record_run(6)
    monkeypatch.setattr("mnist_exp.reporting.page.write_page", full)
    assert said("report", capsys) == "mnist-exp: No space left on device\n"


def full(*_: object) -> None:
    with open("/dev/full", "wb", buffering=0) as disk:  # noqa: PTH123
        disk.write(b"a page")
