"""The whole of a local store in one file, and back."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tarfile
import tempfile
import time
import zlib
from pathlib import Path

from mnist_exp.common.errors import ExpectedError
from mnist_exp.tracking import liveness, mlflow_internals
from mnist_exp.tracking.address import sqlite_file
from mnist_exp.tracking.store import (
    DeletedError,
    connect,
    copy_database,
    free,
    only_one,
    readable_errors,
    tracking_uri,
)

DATABASE, *PARTS = "mlflow.db", "artifacts", "checkpoints"
"""What a backup holds: the database, under this name, and the folders beside it."""
JOURNALS = ("-journal", "-wal", "-shm")
"""Files that SQLite keeps beside a database; they belong to no other."""


def back_up(file: Path) -> None:
    """Write the database as it is at one moment, the artifacts and the checkpoints to `file`, a
    .tar.gz, which is there whole or not at all. Runs may go on meanwhile."""
    database = _database()
    if not database.is_file():
        raise ExpectedError(f"there is no store to back up: {database} is missing")
    try:
        if file.exists():
            raise ExpectedError(f"{file} is there already; choose another BACKUP=")
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=file.parent) as folder:
            copy, packed = Path(folder, DATABASE), Path(folder, "backup.tar.gz")
            # Links are followed: a backup that only names what is elsewhere would be none.
            with tarfile.open(packed, "w:gz", compresslevel=1, dereference=True) as archive:
                # First: a run that ends meanwhile needs its checkpoint no more, but until then.
                _pack(archive, database.parent / "checkpoints")
                copy_database(database, copy)
                archive.add(copy, DATABASE)
                # Last: every run of the database's copy has its artifacts then. Those of newer runs
                # do no harm.
                _pack(archive, database.parent / "artifacts")
            with packed.open("rb") as whole:
                os.fsync(whole.fileno())
            packed.replace(file)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExpectedError(f"{file} cannot be written: {reason}") from None


def restore(file: Path) -> Path | None:
    """Put the store of a backup in the place of the one that is there, which is kept; returns the
    folder that it is kept in, if there was one.

    Raises ExpectedError for a file that is no backup, before anything is touched, and while a run
    is under way.
    """
    database = _database()
    home = database.parent
    names = [f"{database.name}{journal}" for journal in ("", *JOURNALS)] + PARTS
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=home) as folder, only_one():
            _check_idle(database)
            _unpack(file, Path(folder))
            replaced = [home / name for name in names if os.path.lexists(home / name)]
            attic = free(home / time.strftime("before-restore-%Y%m%d-%H%M%S")) if replaced else None
            # Renames only, on one disk: killed between two of them, it leaves everything somewhere,
            # and `store` says where when it is opened next.
            if attic:
                attic.mkdir()
                for path in replaced:
                    path.rename(attic / path.name)
            for part in Path(folder).iterdir():
                part.rename(database if part.name == DATABASE else home / part.name)
    except OSError as error:
        raise ExpectedError(f"{file} cannot be restored: {error.strerror or error}") from None
    return attic


def _database() -> Path:
    database = sqlite_file(tracking_uri())
    if database is None:
        raise ExpectedError(
            "only a store in a file of this machine is backed up so; for a database there is "
            "pg_dump, and for its artifacts a copy of their folder or bucket"
        )
    return database


def _pack(archive: tarfile.TarFile, folder: Path) -> None:
    for place, _, names in os.walk(folder, followlinks=True):
        inside = Path(place).relative_to(folder.parent)
        archive.add(place, str(inside), recursive=False)
        for name in names:
            # Opened first: a checkpoint may be replaced at any moment, by one of another size.
            with contextlib.suppress(FileNotFoundError), Path(place, name).open("rb") as content:
                archive.addfile(archive.gettarinfo(None, str(inside / name), content), content)


def _check_idle(database: Path) -> None:
    if not database.exists() or _damage(database):  # a backup is most wanted then
        return
    try:
        with readable_errors():
            client, experiment = connect()
            under_way = client.search_runs([experiment], "attributes.status = 'RUNNING'")
    except DeletedError:  # with all its runs; and a backup is most wanted then, too
        return
    for run in under_way:
        if liveness.is_named(run.data.tags) and not liveness.is_gone(run.data.tags):
            raise ExpectedError(
                f"{run.info.run_name} is under way (run {run.info.run_id}): wait for its end, or "
                "stop it"
            )


def _damage(database: Path) -> str:
    """What is wrong with an SQLite database that is to be a store; empty for a sound one."""
    try:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            (health,) = connection.execute("PRAGMA quick_check").fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.OperationalError as error:  # as when it is locked
        raise ExpectedError(f"{database} cannot be opened: {error}") from None
    except sqlite3.DatabaseError as error:
        return str(error)
    if health != "ok":
        return str(health)
    return "" if tables >= mlflow_internals.TABLES else "it is not MLflow's"


def _unpack(file: Path, folder: Path) -> None:
    try:
        with tarfile.open(file, "r:gz") as archive:
            members = archive.getmembers()
            strange = [
                member.name for member in members
                if member.name.split("/")[0] not in (DATABASE, *PARTS)
                or not (member.isfile() or member.isdir())
            ]  # fmt: skip
            if strange or DATABASE not in archive.getnames():
                raise ExpectedError(f"{file} is no backup of a store (make backup writes them)")
            archive.extractall(folder, filter="data")
            while archive.fileobj and archive.fileobj.read(1 << 20):
                pass  # to the end, where the checksum of the whole is
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExpectedError(f"{file} cannot be restored: {reason}") from None
    damage = _damage(folder / DATABASE)
    if damage:
        raise ExpectedError(f"the database in {file} cannot be used: {damage}")
