"""The whole of a local store in one file, and back."""

from __future__ import annotations

import contextlib
import sqlite3
import tarfile
import tempfile
import time
from pathlib import Path

from mnist_exp import ExpectedError
from mnist_exp.tracking import liveness
from mnist_exp.tracking.store import (
    connect,
    copy_database,
    only_one,
    readable_errors,
    sqlite_file,
    tracking_uri,
)

PARTS = ("artifacts", "checkpoints")
"""The folders of a store, beside its database."""


def back_up(file: Path) -> None:
    """Write the database as it is at one moment, the artifacts and the checkpoints to `file`, a
    .tar.gz, which is there whole or not at all. Runs may go on meanwhile."""
    database = _database()
    if not database.is_file():
        raise ExpectedError(f"there is no store to back up: {database} is missing")
    if file.exists():
        raise ExpectedError(f"{file} is there already; choose another BACKUP=")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=file.parent) as folder:
            # Artifacts of runs that are newer than the database's copy do no harm.
            copy, packed = Path(folder, database.name), Path(folder, "backup.tar.gz")
            copy_database(database, copy)
            with tarfile.open(packed, "w:gz", compresslevel=1) as archive:
                archive.add(copy, database.name)
                for part in PARTS:
                    if (database.parent / part).is_dir():
                        archive.add(database.parent / part, part)
            packed.replace(file)
    except OSError as error:
        raise ExpectedError(f"{file} cannot be written: {error.strerror or error}") from None


def restore(file: Path) -> Path | None:
    """Put the store of a backup in the place of the one that is there, which is kept; returns the
    folder that it is kept in, if there was one.

    Raises ExpectedError for a file that is no backup, before anything is touched, and while a run
    is under way.
    """
    database = _database()
    _check_idle(database)
    home = database.parent
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=home) as folder:
        _unpack(file, Path(folder), database.name)
        with only_one():
            there = [home / name for name in (database.name, *PARTS) if (home / name).exists()]
            kept = home / time.strftime("before-restore-%Y%m%d-%H%M%S") if there else None
            if kept:
                kept.mkdir()
                for path in there:
                    path.rename(kept / path.name)
            for part in Path(folder).iterdir():
                part.rename(home / part.name)
    return kept


def _database() -> Path:
    database = sqlite_file(tracking_uri())
    if database is None:
        raise ExpectedError(
            "only a store in a file of this machine is backed up so; for a database there is "
            "pg_dump, and for its artifacts a copy of their folder or bucket"
        )
    return database


def _check_idle(database: Path) -> None:
    if not database.exists():
        return
    with readable_errors():
        client, experiment = connect()
        under_way = client.search_runs([experiment], "attributes.status = 'RUNNING'")
    for run in under_way:
        if not liveness.is_gone(run.data.tags):
            raise ExpectedError(
                f"{run.info.run_name} is under way (run {run.info.run_id}): wait for its end, or "
                "stop it"
            )


def _unpack(file: Path, folder: Path, database: str) -> None:
    try:
        with tarfile.open(file) as archive:
            members = archive.getmembers()
            strange = [
                member.name for member in members
                if member.name.split("/")[0] not in (database, *PARTS)
                or not (member.isfile() or member.isdir())
            ]  # fmt: skip
            if strange or database not in archive.getnames():
                raise ExpectedError(f"{file} is no backup of a store (make backup writes them)")
            archive.extractall(folder, filter="data")
        with contextlib.closing(sqlite3.connect(folder / database)) as connection:
            (health,) = connection.execute("PRAGMA quick_check").fetchone()
        if health != "ok":
            raise ExpectedError(f"the database in {file} is damaged: {health}")
    except (OSError, EOFError, tarfile.TarError, sqlite3.Error) as error:
        raise ExpectedError(f"{file} cannot be restored: {error}") from None
