"""Where the tracking store is, and how it is opened."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shlex
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlflow
import requests
from alembic.util import CommandError
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from sqlalchemy import NullPool, create_engine, func, text, update
from sqlalchemy.exc import SQLAlchemyError

from mnist_exp import ROOT
from mnist_exp.common import interrupts
from mnist_exp.common.errors import ExpectedError
from mnist_exp.tracking import liveness, mlflow_internals, variables
from mnist_exp.tracking.address import absolute_address, may_write, sqlite_file, without_secrets
from mnist_exp.tracking.proxies import by_proxy

log = logging.getLogger(__name__)

EXPERIMENT = "mnist_exp"
PAGES = "mnist_exp reports"
DEFAULT_FOLDER = ROOT / "mlruns"
ANSWER = 4.0
"""Seconds that a tracking server has to say that it is there."""
NO_ANSWERS = 407, 502, 503, 504
"""What a proxy says in place of a server: log in, or that there is none."""
ADDRESS = "MLFLOW_TRACKING_URI"
"""The variable of the environment that names the store."""


def use_store(uri: str) -> None:
    """Take the store at this address from now on, here and in processes that are started here."""
    os.environ[ADDRESS] = uri


def tracking_uri() -> str:
    """The address of the store, absolute for SQLite, and with its driver for PostgreSQL.

    Raises ExpectedError for an address that is none of a store.
    """
    variables.refuse_variables()
    default = f"sqlite:///{quote(str(DEFAULT_FOLDER / 'mlflow.db'))}"
    return absolute_address(os.environ.get(ADDRESS) or default)


def make_tables() -> None:
    """Make the tables of the store's database, without an experiment in it, so that a server may
    choose where artifacts go."""
    with readable_errors(), only_one():
        make_client(tracking_uri()).search_experiments(max_results=1)


def is_served() -> bool:
    """Whether a tracking server keeps the store, which then has its UI as well."""
    return tracking_uri().startswith(("http://", "https://"))


class UnreachableError(ExpectedError):
    """The store does not answer, but may do so again."""


class DeletedError(ExpectedError):
    """The experiment is there, but was deleted, as in the UI."""


def shown(uri: str) -> str:
    """An address as it is printed: the file of an SQLite store, and no passwords."""
    return str(sqlite_file(uri) or without_secrets(uri))


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """A block, or a function, in which the store is used: what the store or the way to it refuses
    becomes one line for the user, an ExpectedError.

    It is UnreachableError where trying again may help, so that a training can go on meanwhile.
    """
    # An interrupt that came where Python swallows exceptions, or within a transaction, is raised
    # before and after the block, never in its midst.
    interrupts.check()
    try:
        yield
    # What else is raised is a mistake of ours, and stays a traceback.
    except (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError) as error:
        # Or an interrupt, which comes out of a file that is closed just then as a bad descriptor.
        interrupts.check()
        # SQLAlchemy adds the whole statement.
        reason = " ".join(str(error).partition("[SQL:")[0].split())[:300]
        if "Max retries exceeded" in reason:
            reason = "it does not answer"
        if is_served() and "it does not answer" in reason:
            reason += by_proxy(tracking_uri())
        if isinstance(error, MlflowException) and error.get_http_status_code() == 401:
            reason = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a login of it"
        uri = tracking_uri()
        message = f"the tracking store {shown(uri)} cannot be used: {reason.replace(uri, 'it')}"
        kind = UnreachableError if _may_come_back(error) else ExpectedError
        raise kind(f"{message} (MLFLOW_TRACKING_URI names another)") from error
    interrupts.check()


def _may_come_back(error: Exception) -> bool:
    """Whether the store may answer later: one that is no file, and gave no answer now."""
    # An answer has a code of its own. That of a connection that failed is MLflow's default, and an
    # error that isn't MLflow's has none.
    code = getattr(error, "error_code", "INTERNAL_ERROR")
    silent = code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
    return silent and sqlite_file(tracking_uri()) is None


def open_store() -> tuple[MlflowClient, str]:
    """A client of the store, which is made when it is not there yet, and the experiment's id.

    Safe to call from several processes at once. Raises ExpectedError when the store cannot be used.
    """
    with readable_errors():
        return connect()


def connect(*, write: bool = False) -> tuple[MlflowClient, str]:
    """What `open_store` gives, with MLflow's own exceptions. `mlflow.pytorch.load_model` and the
    like read the same store from then on.

    Raises ExpectedError for a store that may only be read, to `write`.
    """
    uri = tracking_uri()
    if write:
        require_temporary_folder()
    if write and not may_write(uri):
        raise ExpectedError(
            f"the tracking store {shown(uri)} may only be read: copy its folder to where you may "
            "write, and name it with MLFLOW_TRACKING_URI"
        )
    experiment = _opened(uri)
    mlflow.set_tracking_uri(uri)
    return make_client(uri), experiment


def make_client(uri: str) -> MlflowClient:
    """A client of the store at this address, which is that of registered networks as well."""
    return MlflowClient(uri, registry_uri=uri)


def require_temporary_folder() -> None:
    """Raise ExpectedError where there is no folder for files that are gone in a moment, before a
    run begins that would miss it."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise ExpectedError(f"{error.strerror}: set TMPDIR to a folder with some space") from None


@cache
def _opened(uri: str) -> str:
    """Open the store for the first time in this process; returns the id of the experiment."""
    check_answers()
    with only_one():  # a database that two processes make or upgrade at once breaks
        database = sqlite_file(uri)
        _mention_restore(database)
        upgrade(uri, database)
        experiment = experiment_id(uri)
        if database and may_write(uri):
            bring_home(uri, database, experiment)
    # Last, and not with the others waiting: it may take a request for each run.
    liveness.mark_lost(make_client(uri), experiment, local_folder() / ".heartbeats.json")
    return experiment


def check_answers() -> None:
    """Raise UnreachableError when a tracking server keeps the store and does not answer within
    seconds, where MLflow would try for longer."""
    if not is_served():
        return
    with readable_errors():
        try:
            health = requests.get(f"{tracking_uri().rstrip('/')}/health", timeout=ANSWER)
        except requests.RequestException as error:
            raise OSError("it does not answer") from error
        if health.status_code in NO_ANSWERS:
            raise OSError(f"it does not answer ({health.status_code} {health.reason})")


@cache
def experiment_id(uri: str, name: str = EXPERIMENT) -> str:
    """The id of the experiment called `name`, which is made when it is not there."""
    client = make_client(uri)
    experiment = client.get_experiment_by_name(name)
    if experiment:
        number = str(experiment.experiment_id)
        if experiment.lifecycle_stage == LifecycleStage.DELETED:
            brings_back = restoring(uri, f"experiments restore --experiment-id {number}")
            raise DeletedError(
                f"the experiment {name} was deleted, and all its runs with it: {brings_back} "
                "brings it back"
            )
        return number
    database = sqlite_file(uri)
    try:
        return str(client.create_experiment(name, _artifacts(database) if database else None))
    except MlflowException:  # another process on another machine was faster
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return str(experiment.experiment_id)


def restoring(uri: str, command: str) -> str:
    """What to type to bring back what was deleted: a command of MLflow's."""
    # That of another store has a login, which is in the environment, and is not to be printed.
    address = f"{ADDRESS}={shlex.quote(uri)} " if sqlite_file(uri) else ""
    return f"{address}{shlex.quote(sys.executable)} -m mlflow {command}"


def _artifacts(database: Path) -> str:
    return (database.parent / "artifacts").as_uri()


def bring_home(uri: str, database: Path, experiment: str) -> None:
    """Point a store that was moved or copied at the artifacts beside it: MLflow keeps their places
    as absolute addresses."""
    client = make_client(uri)
    old, new = client.get_experiment(experiment).artifact_location, _artifacts(database)
    if not _has_moved(old, database):
        return
    with mlflow_internals.database(client, write=True) as session:
        for column in mlflow_internals.ADDRESSES:
            # In a folder's name, "%" and "_" are no wildcards.
            inside: Any = column.startswith(f"{old}/", autoescape=True)
            moved = new + func.substr(column, len(old) + 1)
            session.execute(
                update(column.class_).where(inside | (column == old)).values({column.key: moved})
            )
    log.info("the store has moved: its artifacts are now those in %s", database.parent)


def artifacts_of(client: MlflowClient, run_id: str) -> Path | None:
    """The folder of what a run keeps, also where a store has moved that may only be read; None if
    it is not on this machine."""
    run = client.get_run(run_id)
    place, database = run.info.artifact_uri, sqlite_file(tracking_uri())
    if not place.startswith("file:") or database is None:
        return None
    old = client.get_experiment(run.info.experiment_id).artifact_location
    if _has_moved(old, database) and place.startswith(f"{old}/"):
        place = _artifacts(database) + place.removeprefix(old)
    return mlflow_internals.local_path(place)


def _has_moved(old: str, database: Path) -> bool:
    """Whether artifacts that were kept below the address `old` are now beside the database."""
    if old == _artifacts(database) or not old.startswith("file:"):
        return False
    # If the database alone was copied, the artifacts are where they were.
    return (database.parent / "artifacts").is_dir() or not mlflow_internals.local_path(old).is_dir()


def _mention_restore(database: Path | None) -> None:
    """Say where a restore that was killed between its renames has left the store."""
    if database and not database.exists():
        attics = sorted(database.parent.glob("before-restore-*"))
        if attics:
            log.warning(
                "this is a new store: a restore was interrupted, and what was here is in %s; make "
                "restore again, or move it back", attics[-1],
            )  # fmt: skip


def upgrade(uri: str, database: Path | None) -> None:
    """Bring a database of an older MLflow to the schema of this one, after keeping a copy of it.

    Raises ExpectedError for one that only its owner can back up, and for one of a newer MLflow.
    """
    if is_served() or (database and not database.exists()):
        return
    engine = create_engine(uri, poolclass=NullPool)
    current = mlflow_internals.schema_of(engine)
    if current in (None, mlflow_internals.newest_schema()):
        return
    if current not in mlflow_internals.known_schemas():
        raise ExpectedError(
            f"{database or 'the tracking database'} was written by a newer MLflow (schema "
            f"{current}) than is installed, {mlflow.__version__}: update the environment, or name "
            "another store with MLFLOW_TRACKING_URI"
        )
    if database is None:
        raise ExpectedError(
            "the tracking database has the schema of another MLflow: keep a copy (pg_dump), then "
            "upgrade it (.venv/bin/mlflow db upgrade <address>)"
        )
    # Never over an older copy: it may be the only whole one, of an upgrade that was interrupted.
    copy = free(database.with_name(f"{database.name}.{current}"))
    copy_database(database, copy)
    mlflow_internals.upgrade_schema(engine)
    log.warning("the store was of an older MLflow: it is upgraded, and kept as it was in %s", copy)


def free(path: Path) -> Path:
    """`path`, or the first of `path`-2, -3, ... that is not there."""
    others = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(place for place in itertools.chain([path], others) if not place.exists())


def copy_database(database: Path, copy: Path) -> None:
    """Copy an SQLite database as it is at one moment, whoever writes to it meanwhile; `copy` is
    there whole or not at all."""
    part = copy.with_name(f"{copy.name}.part")
    try:
        with (
            contextlib.closing(sqlite3.connect(database)) as source,
            contextlib.closing(sqlite3.connect(part)) as target,
        ):
            source.backup(target)
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)


def local_folder() -> Path:
    """The folder on this machine for what belongs to the store: that of its SQLite database, or,
    for a store elsewhere, `mlruns/remote/` in the checkout."""
    database = sqlite_file(tracking_uri())
    return database.parent if database else DEFAULT_FOLDER / "remote"


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """A block that one process at a time enters: on this machine for SQLite, on any machine for
    PostgreSQL. A tracking server sees to it itself.

    Either lock goes with its process, however that ends.
    """
    uri = tracking_uri()
    database = sqlite_file(uri)
    if database and not may_write(uri):
        yield  # nobody makes or upgrades a database that may only be read
    elif database:
        database.parent.mkdir(parents=True, exist_ok=True)
        # A singleton, so that a block within the block does not wait for itself.
        with FileLock(database.parent / ".lock", is_singleton=True):
            yield
    elif uri.startswith("postgresql"):
        with create_engine(uri, poolclass=NullPool).connect() as connection:
            # Held until the connection is closed, hence no pool, which would keep it open.
            connection.execute(text("SELECT pg_advisory_lock(hashtext('mnist_exp'))"))
            yield
    else:
        yield
