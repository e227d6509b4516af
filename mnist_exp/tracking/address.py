"""Addresses of stores: read as SQLAlchemy reads them, or refused in one line."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from sqlalchemy import URL, make_url
from sqlalchemy.exc import SAWarning, SQLAlchemyError
from sqlalchemy.util import asbool

from mnist_exp.common.errors import ExpectedError

DATABASES = "sqlite", "postgresql", "mysql", "mssql"
"""What MLflow keeps a store in."""
EXAMPLES = "as in sqlite:////home/me/mlflow.db or http://host:5000"


def absolute_address(text: str) -> str:
    """The address of a store as MLflow takes it, which means the same in any working directory:
    with an absolute path for SQLite, and with its driver for PostgreSQL.

    Raises ExpectedError for what cannot be a store, or not this one as it is written.
    """
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme in ("http", "https"):
        if not re.fullmatch(r"[^/?#\s]+", urlsplit(text).netloc):
            raise ExpectedError(f"{_named(text)} names no host: an address is needed, {EXAMPLES}")
        try:
            _ = urlsplit(text).port
        except ValueError as error:
            raise ExpectedError(f"{_named(text)}: {error}") from None
        return text
    if scheme.partition("+")[0] not in (*DATABASES, "postgres"):
        raise ExpectedError(
            f"{_named(text)} is no store: the address of a database or of a server is needed, "
            f"{EXAMPLES}; a folder cannot be one"
        )
    try:
        url = make_url(scheme + text[len(scheme) :])
        url = url.set(drivername=re.sub("^postgres(ql)?$", "postgresql+psycopg2", scheme))
        return _settled(url).render_as_string(hide_password=False)
    except (SAWarning, SQLAlchemyError, sqlite3.Error, TypeError, ValueError) as error:
        # In the words of SQLAlchemy, whose first line is what is wrong.
        reason = str(error).partition("\n")[0].replace(text, "it")
        raise ExpectedError(f"{_named(text)} cannot be read as an address: {reason}") from None


def _settled(url: URL) -> URL:
    if url.get_backend_name() != "sqlite":
        dialect = url.get_dialect()
        try:
            dialect.import_dbapi()
        except ImportError as error:
            install = f"{sys.executable} -m pip install ..., or name another driver"
            if dialect.driver == "psycopg2":
                install = f"{sys.executable} -m pip install --editable '.[cluster]'"
            raise ExpectedError(
                f"a store on {dialect.name} needs {error.name}, which is not installed: {install}"
            ) from None
        return url
    with warnings.catch_warnings(action="error", category=SAWarning):  # of an option without effect
        (filename,), options = url.get_dialect()().create_connect_args(url)
    sqlite3.connect(":memory:", **options).close()  # raises for what SQLite does not take
    if options.get("uri") and "?" in filename and not filename.startswith("file:"):
        raise ValueError(f"with uri=true, options need file: before the path, file:{url.database}")
    file = sqlite_path(url)
    if file is None:
        raise ExpectedError(
            f"{_named(str(url))} is a database in memory, which is gone with each command: name "
            "a file, as in sqlite:////home/me/mlflow.db"
        )
    database = f"file:{quote(str(file))}" if _is_uri(url) else str(file)
    # With the driver, since MLflow makes a folder of the rest of any "sqlite:///...", as it is
    # written, with escapes and options.
    return url.set(drivername="sqlite+pysqlite", database=database)


def sqlite_path(url: URL) -> Path | None:
    """The file of an SQLite database, absolute; None for one in memory."""
    path = url.database or ""
    if _is_uri(url):
        path = "" if url.query.get("mode") == "memory" else unquote(urlsplit(path).path)
    return None if path in ("", ":memory:") else Path(path).absolute()


def _is_uri(url: URL) -> bool:
    """Whether SQLite is to read what names the file as an address of its own."""
    return asbool(url.query.get("uri", False)) and str(url.database).startswith("file:")


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store at an address from `absolute_address`; None for any other."""
    return sqlite_path(make_url(uri)) if uri.startswith("sqlite") else None


def may_write(uri: str) -> bool:
    """Whether a store may be written to, as far as the system tells before it is tried."""
    file = sqlite_file(uri)
    if file is None or not file.exists():
        return True
    # Beside the database SQLite keeps a journal while it writes.
    options = make_url(uri).query
    read_only = options.get("mode") == "ro" or "immutable" in options
    return not read_only and os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)


def without_secrets(text: str) -> str:
    """An address without its login, and without options, which may hold one as well."""
    text = re.sub(r"//.*@", "//", text, flags=re.DOTALL)  # a password may have / and @
    return text if text.lower().startswith("sqlite") else text.partition("?")[0]


def _named(text: str) -> str:
    return f"MLFLOW_TRACKING_URI={without_secrets(text)[:100]}"


def need(module: str, who: str) -> None:
    """Raise ExpectedError when a module that only `who` needs is not installed."""
    if find_spec(module) is None:
        install = f"{sys.executable} -m pip install --editable '.[cluster]'"
        raise ExpectedError(f"{who} needs {module}, which is not installed: {install}")
