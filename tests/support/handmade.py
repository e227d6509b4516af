"""Runs that are written to a store by hand, with known answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
from torch import nn

from mnist_exp import recipe, tracking
from mnist_exp.common import markdown
from mnist_exp.notebook import entries
from mnist_exp.recipe import Target
from mnist_exp.training.receptive_field import receptive_field_table

SCRIPT = "<script>alert(1)</script>"

GOOD = (500,) * 10 + (60,) * 5
"""Errors on 10,000 test digits in 15 epochs that just meet the target."""

TARGET = Target(test_accuracy=0.994, last_epochs=5, max_epochs=15, parameters_below=8_000)
RUN = {
    "run_id": "a", "model": 6, "seed": 1, "status": "FINISHED", "overrides": None,
    "split": "test", "fold": None, "code_sha256": "now", "start_time": pd.Timestamp("2026-01-01"),
    "parameters": 7_416, "test_images": 10_000, "receptive_field": 28, "resumed": None,
    "resumes": None,
}  # fmt: skip


def history(errors: Sequence[float], run_id: str = "a") -> pd.DataFrame:
    """The epochs of a run as `tracking.history` gives them."""
    columns = {"epoch": range(1, len(errors) + 1), "test_errors": errors, "train_accuracy": 0.9}
    return pd.DataFrame({"run_id": run_id} | columns)


def run_rows(*changes: Mapping[str, object]) -> pd.DataFrame:
    """Runs as `tracking.runs` gives them: RUN, each with its changes."""
    return pd.DataFrame([RUN | dict(change) for change in changes])


def record_run(
    number: int = 6, errors: Sequence[int | None] = GOOD, *, seed: int = 1, split: str = "test",
    status: str = "FINISHED", tags: Mapping[str, str] | None = None, **parameters: object,
) -> str:  # fmt: skip
    """Write a run of an iteration to the store by hand; an epoch whose errors are None is missing.
    On the validation split it is on the first fold, unless it is given another; with the fold None
    it says nothing of it, as runs of old.

    Returns its id.
    """
    own = {
        "model": number, "seed": seed, "parameters": 7_416, "receptive_field": 28,
        "split": split, "fold": "1" if split == "validation" else None,
        f"{split}_images": 10_000, "threads": 2,
    } | parameters  # fmt: skip
    own = {name: value for name, value in own.items() if value is not None}
    marks = {"overrides": "none", "idea": f"idea {number}"} | (tags or {})
    if "code_sha256" not in marks:
        marks["code_sha256"] = entries.read_entry(number).code_sha256
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tracking.RunWriter, "end", lambda run, _: run.client.set_terminated(run.run_id, status)
        )
        with tracking.start_run(f"model-{number} · seed {seed}", own, marks) as run:
            worst = max((wrong for wrong in errors[-5:] if wrong is not None), default=0)
            summary = {"worst_of_last_5_test_accuracy_percent": (10_000 - worst) / 100}
            run.log_metrics({"parameters": 7_416, "model": number} | summary)
            link = f"[x](/#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/x)"
            change = markdown.escape(SCRIPT)
            run.describe(f"## Model {number}\n\n**Change:** {change}\n\n{link}")
            for epoch, wrong in enumerate(errors, start=1):
                if wrong is not None:
                    metrics = {f"{split}/errors": wrong, f"{split}/accuracy": 1 - wrong / 10_000}
                    metrics |= {"train/accuracy": 0.9 + epoch / 200, "epoch_seconds": 6}
                    run.log_metrics(metrics, step=epoch)
    return run.run_id


def add_field(run_id: str, network: nn.Module) -> None:
    """Give a run the receptive-field table of a network."""
    table = receptive_field_table(network, recipe.PIXELS)
    tracking.RunWriter(run_id, "1", 0).log_table(table, "receptive_field")


def add_evidence(run_id: str) -> None:
    """Give a run its receptive-field table, and two digits that it misclassified."""
    tables = {
        "receptive_field": pd.DataFrame(
            {"layer": ["input", "conv1"], "r_out": [1, 3], "n_out": [28, 26], "kernel": [None, 3]}
        ),
        "confusion_matrix": pd.DataFrame(np.diag([5] * 10), columns=[str(i) for i in range(10)]),
        "misclassified": pd.DataFrame(
            {"index": [7, 9], "truth": [4, 2], "guess": [9, 7], "probability": [0.5, 0.987]}
        ),
    }
    counts = tables["confusion_matrix"]
    counts.loc[4, "9"], counts.loc[2, "7"] = 1, 1
    counts.insert(0, "truth", range(10))
    writer = tracking.RunWriter(run_id, "1", 0)
    for name, table in tables.items():
        writer.log_table(table, name)
    sheet = np.zeros((28, 280), np.uint8)
    sheet[:, 28:56] = 255
    writer.log_image(sheet, "misclassified")


OLD = "0584bdc529eb"
"""The schema of MLflow 3.0 to 3.1."""


def make_old_store(database: Path) -> None:
    """Make a store's database as MLflow 3.0 made it, with one run in it, called "of old"."""
    engine = sqlalchemy.create_engine(f"sqlite:///{database}")
    InitialBase.metadata.create_all(engine)
    config = _get_alembic_config(f"sqlite:///{database}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLD)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
            f"VALUES (1, 'mnist_exp', '{(database.parent / 'artifacts').as_uri()}', 'active')"
        ))  # fmt: skip
        connection.execute(sqlalchemy.text(
            "INSERT INTO runs (run_uuid, name, experiment_id, status, start_time, end_time, "
            "lifecycle_stage, user_id) VALUES "
            "('0123456789abcdef0123456789abcdef', 'of old', 1, 'FINISHED', 1, 2, 'active', 'me')"
        ))  # fmt: skip
    engine.dispose()
