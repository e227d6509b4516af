"""Runs are deleted, with what the Model Registry has of them.

MLflow keeps a deleted run, with all that it recorded, until `mlflow gc` removes it for good.
"""

from __future__ import annotations

from mnist_exp.common.errors import ExpectedError
from mnist_exp.tracking import liveness
from mnist_exp.tracking.store import connect, readable_errors, restoring, tracking_uri


def delete_run(run_id: str) -> tuple[str, ...]:
    """Delete a run, and the versions of registered models that are its network, which would lead
    nowhere without it; returns these versions, in words.

    Raises ExpectedError for a run that is under way, and for a version that an alias names: by that
    others load it.
    """
    with readable_errors():
        client, _ = connect(write=True)
        run = client.get_run(run_id)  # as it is now: the process of one may have ended meanwhile
        _refuse_under_way(run_id, run.info.status, run.data.tags)
        versions = client.search_model_versions(f"run_id = '{run_id}'")
        for version in versions:
            # Which the search leaves out.
            aliases = client.get_model_version(version.name, version.version).aliases
            if aliases:
                raise ExpectedError(
                    f"run {run_id} is version {version.version} of {version.name}, which the alias "
                    f"{aliases[0]} names: take the alias away first, in the UI (make ui)"
                )
        # The run last: where this is cut short, the same command goes on.
        for version in versions:
            client.delete_model_version(version.name, version.version)
        client.delete_run(run_id)
    return tuple(f"version {version.version} of {version.name}" for version in versions)


def remove_run(run_id: str) -> None:
    """Take a run out of every list; MLflow keeps it as deleted."""
    with readable_errors():
        connect(write=True)[0].delete_run(run_id)


def to_restore(run_id: str) -> str:
    """What to type to bring a deleted run back."""
    return restoring(tracking_uri(), f"runs restore --run-id {run_id}")


def _refuse_under_way(run_id: str, status: str, tags: dict[str, str]) -> None:
    if status != "RUNNING":
        return
    if liveness.is_named(tags):
        raise ExpectedError(
            f"run {run_id} is under way: end it first, with Ctrl-C where it trains; a process that "
            "is gone is noticed within five minutes"
        )
    raise ExpectedError(
        f"run {run_id} is under way, by a program that does not say whether it is still there: "
        "delete it in the UI (make ui)"
    )
