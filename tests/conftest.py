"""What the tests share: real MNIST, and a real store that is made once and copied."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mnist_exp import ROOT, data, recipe, tracking
from mnist_exp.data import Digits

# `make test` runs these tests, and they run make, which is to behave as it does for a user.
for inherited in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(inherited, None)

# Two threads on two cores spin while they wait for each other: beside another busy process, tests
# that are otherwise quick take minutes.
torch.set_num_threads(1)

REFERENCE = ROOT / "tests" / "reference"


@pytest.fixture(scope="session")
def mnist() -> tuple[Digits, Digits]:
    """The training and test digits; fetched by the first test that asks."""
    return data.load()


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty store: a new database takes seconds, a copy none."""
    folder = tmp_path_factory.mktemp("fresh")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    tracking.open_store()
    return folder


@pytest.fixture
def store(fresh_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty store of the test's own, which tracking uses."""
    folder = tmp_path / "mlruns"
    shutil.copytree(fresh_store, folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    return folder


GOOD = (500,) * 10 + (60,) * 5
"""Errors on 10,000 test digits in 15 epochs that just meet the target."""


def record_run(
    number: int = 6, errors: Sequence[int | None] = GOOD, *, seed: int = 1,
    status: str = "FINISHED", tags: Mapping[str, str] | None = None, **parameters: object,
) -> str:  # fmt: skip
    """Write a run of an iteration to the store by hand; an epoch whose errors are None is missing.

    Returns its id.
    """
    own = {
        "model": number, "seed": seed, "parameters": 7_416, "receptive_field": 28,
        "split": "test", "test_images": 10_000,
    } | parameters  # fmt: skip
    marks = {"overrides": "none", "code_sha256": recipe.load(number).code_sha256} | (tags or {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking.RunWriter, "end", lambda *_: tracking.mlflow.end_run(status))
        with tracking.start_run(f"model-{number} · seed {seed}", own, marks) as run:
            for epoch, wrong in enumerate(errors, start=1):
                if wrong is not None:
                    metrics = {"test/errors": wrong, "test/accuracy": 1 - wrong / 10_000}
                    run.log_metrics(metrics | {"train/accuracy": 0.9 + epoch / 200}, step=epoch)
    return run.run_id


def add_evidence(run_id: str) -> None:
    """Give a run its receptive-field table, and two digits that it misclassified."""
    tables = {
        "receptive_field": pd.DataFrame(
            {"layer": ["input", "conv1"], "kernel": [None, 3], "r_out": [1, 3], "n_out": [28, 26]}
        ),
        "confusion_matrix": pd.DataFrame(np.diag([5] * 10), columns=[str(i) for i in range(10)]),
        "misclassified": pd.DataFrame(
            {"index": [7, 9], "truth": [4, 2], "guess": [9, 7], "probability": [0.5, 0.987]}
        ),
    }
    counts = tables["confusion_matrix"]
    counts.loc[4, "9"], counts.loc[2, "7"] = 1, 1
    counts.insert(0, "truth", range(10))
    writer = tracking.RunWriter(run_id, "1")
    with tracking.mlflow.start_run(run_id):
        for name, table in tables.items():
            writer.log_table(table, name)
        sheet = torch.zeros(28, 280, dtype=torch.uint8)
        sheet[:, 28:56] = 255
        writer.log_image(sheet, "misclassified")


@pytest.fixture
def few_digits(mnist: tuple[Digits, Digits], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs train on 2,000 real digits and are scored on 1,000, whatever their split."""
    monkeypatch.setattr(data, "load", lambda _: (mnist[0][:2000], mnist[1][:1000]))
