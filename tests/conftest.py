"""What the tests share: real MNIST, and a real store that is made once and copied."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from mnist_exp import ROOT, data, tracking
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


@pytest.fixture
def few_digits(mnist: tuple[Digits, Digits], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs train on 2,000 real digits and are scored on 1,000, whatever their split."""
    monkeypatch.setattr(data, "load", lambda _: (mnist[0][:2000], mnist[1][:1000]))
