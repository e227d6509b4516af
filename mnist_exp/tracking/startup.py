"""What is set up before MLflow is used, once in a process."""

import logging
import os

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that is away is noticed in seconds.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""What MLflow reads when it is imported, and the servers that are started from here. What a user
has set stays."""


def start_up() -> None:
    """Called when `tracking` is imported, by whomever: from then on MLflow is quiet, ends no run by
    itself, and is not interrupted within a transaction."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    # Here, since each of them imports MLflow.
    from sqlalchemy import Pool, event

    from mnist_exp.common import interrupts
    from mnist_exp.tracking import mlflow_internals

    for noisy in ("mlflow", "alembic"):  # what goes wrong is raised as well as logged
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    mlflow_internals.end_no_run_at_exit()
    mlflow_internals.skip_package_scan()
    # An interrupt within a transaction can leave it open, and the store locked, also for the one
    # who would say that the run has ended, until SQLite gives up waiting. So it waits for its end.
    event.listen(Pool, "checkout", lambda *_: interrupts.hold())
    event.listen(Pool, "checkin", lambda *_: interrupts.release())
