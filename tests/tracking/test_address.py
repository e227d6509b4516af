"""An address of a store means what SQLAlchemy means by it, or is refused in one line."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from mnist_exp import tracking
from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError
from mnist_exp.tracking.address import absolute_address, sqlite_file, without_secrets

SQLITE = [
    "sqlite:///{}/x.db", "sqlite:///{}/x.db?timeout=60", "sqlite+pysqlite:///{}/x.db",
    "sqlite:///{}/a%20b.db", "sqlite:///{}/a b.db", "sqlite:///{}/a%2520b.db",
    "sqlite:///{}/a%3Fb.db?timeout=7", "sqlite:///{}/50%.db", "sqlite:///{}/a+b#c.db",
    "sqlite:///{}/ü%C3%BC ∞.db", "sqlite:///x.db", "sqlite:///./x.db", "sqlite:///C:/x.db",
    "sqlite:///file:x.db", "sqlite:///file:{}/x.db?uri=true", "sqlite:///file:x.db?uri=true",
    "sqlite:///file:{}/x.db?uri=true&mode=rwc&timeout=60", "sqlite:///file://{}/x.db?uri=1",
    "sqlite:///file:{}/a%2520b.db?uri=true", "sqlite:///{}/x.db?uri=true", "sqlite:///{}/{}.db",
]  # fmt: skip


def opened(address: str) -> tuple[str, int]:
    """The file that SQLAlchemy opens at an address, and how long it waits for a lock there (ms)."""
    engine = create_engine(address)
    with engine.connect() as connection:
        (file,) = {row[2] for row in connection.execute(text("PRAGMA database_list"))}
        return file, connection.execute(text("PRAGMA busy_timeout")).scalar_one()


@pytest.mark.parametrize("form", SQLITE)
def test_the_file_is_that_which_sqlalchemy_opens(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("C:", str(tmp_path).strip("/")):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    address = form.replace("{}", str(tmp_path))
    file, wait = opened(address)
    settled = absolute_address(address)
    monkeypatch.chdir("/")  # it means the same in any folder
    assert opened(settled) == (file, wait)
    assert str(sqlite_file(settled)) == file
    assert absolute_address(settled) == settled


def test_capital_letters_are_those_of_a_scheme() -> None:
    for address in ("SQLITE:////p/x.db", "SQLite+PySQLite:////p/x.db"):
        assert sqlite_file(absolute_address(address)) == Path("/p/x.db")
    assert absolute_address("HTTP://host:5000/p") == "HTTP://host:5000/p"


NO_STORES = {
    "": "is no store", "mlruns": "is no store", "./mlruns": "a folder cannot be one",
    "/p/x.db": "is no store", "file:/p/mlruns": "is no store", "file:///p/mlruns": "is no store",
    "localhost:5000": "is no store", "gopher://host": "is no store", "C:\\mlruns": "is no store",
    "databricks": "is no store", "databricks://x": "is no store", "uc:x": "is no store",
    "oracle://u:p@h/db": "is no store", "://": "is no store", "s3://bucket/x": "is no store",
    "http://": "names no host", "https:///path": "names no host",
    "http://host:99999": "Port out of range 0-65535", "http://host:http": "Port could not be cast",
    "sqlite://": "in memory", "sqlite:///": "in memory", "sqlite:///:memory:": "in memory",
    "sqlite:///file::memory:?uri=true": "in memory",
    "sqlite:///file:x.db?uri=true&mode=memory": "in memory",
    "sqlite://x.db": "Invalid SQLite URL", "sqlite://u:p@h/x.db": "Invalid SQLite URL",
    "sqlite:////p/x.db?timeout=soon": "could not convert", "sqlite:////p/x.db?uri=x": "true/false",
    "sqlite:////p/x.db?mode=ro": "'mode'", "sqlite:////p/x.db?timeot=60": "'timeot'",
    "sqlite:////p/x.db?uri=true&mode=ro": "need file: before",
    "sqlite+nothing:////p/x.db": "Can't load plugin",
    "postgresql://u:secret@h:port/db": "invalid literal",
    "postgresql+nothing://u:secret@h/db": "Can't load plugin",
    "mysql://u:secret@h/db": "needs MySQLdb", "mysql+pymysql://u:secret@h/db": "needs pymysql",
    "mssql+pyodbc://u:secret@h/db": "needs pyodbc",
}  # fmt: skip


@pytest.mark.parametrize("address", NO_STORES)
def test_what_cannot_be_a_store_is_one_line(address: str) -> None:
    with pytest.raises(ExpectedError) as refused:
        absolute_address(address)
    said = str(refused.value)
    assert NO_STORES[address] in said
    assert said.isprintable()
    assert len(said) < 400
    assert "secret" not in said


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://user:se/cr@et@host/db", "postgresql://host/db?user=u&password=secret",
        "http://user:secret@host:5000", "postgresql://u:s ecr et@h/db", "http://:secret@h",
    ],
)  # fmt: skip
def test_what_is_printed_of_an_address_has_no_password(address: str) -> None:
    printed = without_secrets(address)
    assert all(part not in printed for part in ("secret", "cr@et", "cr et", "user"))
    assert "h" in printed


def test_a_postgresql_has_its_driver_and_keeps_its_options() -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg2", "PostgreSQL"):
        assert absolute_address(f"{scheme}://u:p%40@h:1/db?sslmode=require") == (
            "postgresql+psycopg2://u:p%40@h:1/db?sslmode=require"
        )


def test_a_store_with_an_option_is_the_same_store(
    store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with tracking.start_run("one", {}, {}):
        pass
    monkeypatch.chdir(tmp_path)
    for address in (
        f"sqlite:///{store}/mlflow.db?timeout=60", "sqlite:///mlruns/mlflow.db",
        f"sqlite:///file:{store}/mlflow.db?uri=true", f"SQLITE+pysqlite:///{store}/mlflow.db",
    ):  # fmt: skip
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert tracking.runs()["run_name"].tolist() == ["one"]
        assert tracking.local_folder() == store
        tracking.back_up(tmp_path / "backup.tar.gz")
        (tmp_path / "backup.tar.gz").unlink()
        with tracking.start_run("two", {}, {}) as run:  # with an artifact
            run.log_text("text", "layers.txt")
        tracking.remove_run(run.run_id)
    assert {file.name for file in tmp_path.iterdir()} == {"mlruns"}
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (5,)


@pytest.mark.parametrize("address", ["file:///nowhere", "sqlite://", "mysql://u:secret@h/db"])
@pytest.mark.parametrize(
    "command",
    ["run MODEL=6", f"resume RUN={'a' * 32}", f"reproduce RUN={'a' * 32}", "check", "compare",
     "report", "results", "import", "backup", "restore BACKUP=x", "ui", "sweep MODELS=6 SEEDS=1"],
)  # fmt: skip
def test_every_command_refuses_what_is_no_store(
    address: str, command: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("mnist-exp: ")
    assert said.count("\n") == 1
    assert "secret" not in said


def test_the_line_is_that_of_a_user() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mnist_exp", "compare"], capture_output=True, text=True,
        env=os.environ | {"MLFLOW_TRACKING_URI": "./mlruns"}, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "mnist-exp: MLFLOW_TRACKING_URI=./mlruns is no store: the address of a database or of a "
        "server is needed, as in sqlite:////home/me/mlflow.db or http://host:5000; a folder "
        "cannot be one\n"
    )
