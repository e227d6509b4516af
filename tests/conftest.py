"""What the tests share: real MNIST, and a real store that is made once and copied."""

# isort: off
import bare_shell  # noqa: F401 (first, and by its import alone)
# isort: on

import dataclasses
import gc
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import committed
import pytest
import torch
from handmade import GOOD, SCRIPT, add_evidence, record_run
from once import once

from mnist_exp import ROOT, data, tracking
from mnist_exp.commands import arguments
from mnist_exp.commands.cli import COMMANDS
from mnist_exp.data import Digits
from mnist_exp.evidence import comparison
from mnist_exp.notebook import entries
from mnist_exp.notebook.entries import EXPERIMENTS, Entry
from mnist_exp.reporting.page import write_page
from mnist_exp.runs import trial
from mnist_exp.runs.trial import Findings
from mnist_exp.tracking import ui

# `make test` runs these tests, and they run make, which is to behave as it does for a user.
settable = {name for command in COMMANDS.values() for name in arguments.settings(command)}
for inherited in settable:
    os.environ.pop(inherited, None)

# A shell that starts the tests in the background has them, and what they run, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Two threads on two cores spin while they wait for each other: beside another busy process, tests
# that are otherwise quick take minutes.
torch.set_num_threads(1)

# What has been imported stays: whoever looks at all objects, as the engine does for the functions
# around a network's, need not look at the hundreds of thousands of torch and MLflow.
gc.freeze()

REFERENCE = ROOT / "tests" / "reference"
LONGEST = (
    "runs/test_own_ideas.py", "test_documents.py", "tracking/test_server.py",
    "runs/test_sweep.py", "faults/test_faults.py", "runs/test_trial.py", "runs/test_resume.py",
    "test_tour.py", "engine/test_sanitizers.py", "test_user_files.py", "commands/test_cli.py",
    "runs/test_tune.py", "runs/test_run.py", "runs/test_plan.py", "tracking/test_names.py",
    "common/test_startup.py", "tracking/test_surroundings.py", "runs/test_property_recipes.py",
    "training/test_loop.py", "reporting/test_publish.py", "data/test_data.py", "test_setup.py",
)  # fmt: skip
"""The files whose tests take longest, longest first. Each is one worker's: one that came last would
leave the other worker idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    files = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: files.get(item.path, len(files)))


@pytest.fixture(scope="session", autouse=True)
def _committed_notebook() -> Iterator[None]:
    """Of the checkout's own iterations, tests see those that are committed: beside them may lie one
    that is half written."""
    numbers, committed_numbers = entries.numbers, committed.iterations()

    def seen(folder: Path = EXPERIMENTS) -> list[int]:
        return committed_numbers if folder == EXPERIMENTS else numbers(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "numbers", seen)
        yield


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


@pytest.fixture(scope="session")
def report_folder(fresh_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on a store with every kind of run, and with hostile text in it."""
    read = entries.read_entry

    def hostile(number: int) -> Entry:
        iteration = read(number)
        changed = iteration.sections | {"Change": f"{SCRIPT} | ![x](http://example.org/x)"}
        return dataclasses.replace(iteration, title=f"{iteration.title} {SCRIPT}", sections=changed)

    folder = tmp_path_factory.mktemp("written")
    shutil.copytree(fresh_store, folder / "mlruns")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlruns/mlflow.db")
        for seed in (1, 2, 3):
            record_run(5, errors=[80] * 14 + [50 + seed], seed=seed)
            add_evidence(record_run(6, errors=[*GOOD[:-1], 55 - seed], seed=seed))
        record_run(4, tags={"code_sha256": f"{SCRIPT} changed", "git_commit": SCRIPT})
        record_run(6, seed=9, tags={"overrides": SCRIPT})
        patch.setattr(entries, "read_entry", hostile)
        page = write_page(comparison.compare(), folder / "reports" / "comparison.html")
        ui.prepare_ui(5, page)
    assert page == folder / "reports" / "comparison.html"
    return page.parent


@pytest.fixture(scope="session")
def try_out_once() -> Callable[..., Findings]:
    """Tries a recipe out, or knows what came of it: a trial takes longer than a run of few digits,
    and most tests begin runs that another has begun before."""
    return once(trial.try_out)


@pytest.fixture
def few_digits(
    mnist: tuple[Digits, Digits], try_out_once: Callable[..., Findings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Runs train on 500 real digits and are scored on 500, whatever their split."""
    monkeypatch.setattr(data, "load", lambda *_: (mnist[0][:500], mnist[1][:500]))
    monkeypatch.setattr(trial, "try_out", try_out_once)
