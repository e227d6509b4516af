"""Serving the store: to a browser on this machine, or to other machines."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from mnist_exp.common import interrupts
from mnist_exp.common.errors import ExpectedError
from mnist_exp.tracking.address import need
from mnist_exp.tracking.store import (
    ADDRESS,
    make_tables,
    require_temporary_folder,
    tracking_uri,
    use_store,
)
from mnist_exp.tracking.variables import SERVING

LOOPBACK = "127.0.0.1"
APP = "mnist-exp"
"""The app of `mnist_exp.tracking.root`, by the name that pyproject.toml gives it for MLflow."""
PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"
"""The variable of the environment with the first user's password."""
MANUAL = "https://mlflow.org/docs/latest/self-hosting/security/basic-http-auth/"


def check_port(port: int, host: str = LOOPBACK) -> None:
    """Raise ExpectedError when no server can listen on `host` at `port`."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        where = "" if host == LOOPBACK else f" on {host}"
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise ExpectedError(
            f"port {port} cannot be used{where} ({reason}); choose another: "
            f"PORT={port + 1 if port < 65535 else 5001}"
        ) from None


def serve(port: int, *, artifacts: str = "", host: str = LOOPBACK) -> int:
    """Run MLflow's server over the store until it is interrupted; returns its exit code.

    With a folder or bucket for `artifacts`, clients on other machines read and write them through
    the server. A `host` that others can reach has MLflow's own login in front.
    """
    require_temporary_folder()
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", SERVING: "yes"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", f"{port}"]
    command += ["--workers", "1"]
    if host == LOOPBACK and _knows(APP):
        command += ["--app-name", APP]
    # Not as an argument, in which everyone on this machine could read a password.
    environment["MLFLOW_BACKEND_STORE_URI"] = tracking_uri()
    if artifacts:
        command += ["--artifacts-destination", artifacts]
    with tempfile.TemporaryDirectory() as folder:  # which nobody else can read
        if host != LOOPBACK:
            command += ["--app-name", "basic-auth"]
            environment = _login(Path(folder) / "login.ini", host) | environment
        # In a session of its own, and told to end: at Ctrl-C it would print a traceback.
        server = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            return server.wait()
        except KeyboardInterrupt:
            interrupts.heard()
            end = getattr(os, "killpg", os.kill)  # Windows has no groups of processes
            end(server.pid, signal.SIGTERM)
            server.wait()
            return 0


def _knows(name: str) -> bool:
    """Whether MLflow finds an app of that name: it reads what was installed, not what was pulled
    since."""
    return bool(entry_points(group="mlflow.app", name=name))


def announcement(port: int, artifacts: str, host: str) -> str:
    """What to say to whoever starts a server for other machines."""
    lines = [f"Serving at http://{host}:{port}, artifacts in {artifacts}"]
    if host != LOOPBACK:
        lines += [
            f"Log in as admin, with what {PASSWORD} was when the database was first served.",
            "HTTP sends passwords as they are: use a network that you trust.",
            f"More users: {MANUAL}",
        ]
    return "\n".join([*lines, f"Clients: export {ADDRESS}=<this address>"])


def _login(file: Path, host: str) -> dict[str, str]:
    """Settings with which MLflow asks for a login, in part written to `file`."""
    # The users stand beside the runs: MLflow would keep them in a file in the working directory.
    database = tracking_uri().replace("%", "%%")
    file.write_text(
        f"[mlflow]\nadmin_username = admin\ndefault_permission = READ\ndatabase_uri = {database}\n"
    )
    settings = {
        "MLFLOW_AUTH_CONFIG_PATH": f"{file}",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
    }
    if host != "0.0.0.0":  # for which MLflow answers to any private address
        settings["MLFLOW_SERVER_ALLOWED_HOSTS"] = f"{host},{host}:*"
    return settings


def check_server(backend: str, artifacts: str, host: str) -> None:
    """Take the database `backend` as the store, and make its tables before anyone opens it.

    Raises ExpectedError when it is no database that a server can keep, or cannot be reached, or
    when something is not installed.
    """
    if not re.match("postgres(ql)?([+][a-z0-9]+)?://", backend):
        raise ExpectedError(
            "BACKEND= names the database, as in BACKEND=postgresql://user:password@host/mlflow"
        )
    if artifacts.startswith("s3://") and find_spec("boto3") is None:
        raise ExpectedError("a bucket needs boto3: .venv/bin/python -m pip install boto3")
    if host != LOOPBACK and len(os.environ.get(PASSWORD, "")) < 12:
        raise ExpectedError(
            f"a server that others can reach asks for a login: set {PASSWORD} to 12 characters or "
            "more, which become the password of its first user, admin"
        )
    if host != LOOPBACK:
        need("flask_wtf", "the login of MLflow's server")
    use_store(backend)
    make_tables()
