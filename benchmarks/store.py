"""How reading, comparing and reporting grow with the number of runs in the store.

Peak memory is read from /proc, so this is for Linux.
"""

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmarks.section import Section
from mnist_exp import recipe, tracking
from mnist_exp.notebook import loading
from mnist_exp.training import classifier
from mnist_exp.training.receptive_field import receptive_field_table

MODELS = (2, 3, 4, 5, 6)
EPOCHS = 15
ROUNDS = 3
SIZES = (100, 1_000, 10_000)
MOST_TIMES, MOST_MEMORY, MOST_PAGE, MOST_GROWN = 5, 1000, 10, 1.5

COMPARE = "from mnist_exp.evidence import comparison; comparison.compare()"
REPORT = """
from mnist_exp.evidence import comparison
from mnist_exp.reporting.page import write_page
write_page(comparison.compare(), Path(sys.argv[1]))
"""
MEASURE = """
import json, re, sys, time
from pathlib import Path
start = time.perf_counter()
exec(sys.stdin.read())
# What getrusage calls the peak includes the process that started this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({"seconds": time.perf_counter() - start, "memory": peak}))
"""


def measure() -> Section:
    """Stores of all sizes, one after the other."""
    rows = []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(of_size(size, Path(folder)))
    table = pd.DataFrame(rows)
    grown = (table["read"] / table["runs"]).iloc[-1] / (table["read"] / table["runs"]).iloc[-2]
    figures = [
        ("times what the search for the runs takes", table["times"].max(), MOST_TIMES),
        ("megabytes to compare", table["compare, MB"].max(), MOST_MEMORY),
        ("megabytes to report", table["report, MB"].max(), MOST_MEMORY),
        ("megabytes of the page", table["page, MB"].max(), MOST_PAGE),
        (f"times as long per run with {SIZES[-1]:,} as with {SIZES[-2]:,}", grown, MOST_GROWN),
    ]
    missed = [f"{value:.2f} {name}, not {most:g}" for name, value, most in figures if value > most]
    text = f"""\
Seconds to search for the runs with MLflow alone and to read them here with every epoch, in turns;
then of `compare` and `report` in processes of their own, with imports, and their peak memory.

Limits: at most {MOST_TIMES} times what MLflow's search takes, {MOST_MEMORY:g} MB of memory,
{MOST_PAGE:g} MB of page; and reading a run takes at most {MOST_GROWN:g} times as long in the
largest store as in the next."""
    shown = table.astype({"runs": str}).map(lambda x: x if isinstance(x, str) else f"{x:.2f}")
    return Section("Stores of many runs", text, [shown], missed)


def of_size(size: int, folder: Path) -> dict[str, float]:
    """Seconds, megabytes and the size of the page, for a store of `size` runs."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    fill(size, folder / "mlflow.db")
    client, experiment = tracking.open_store()

    def search() -> None:
        page = client.search_runs([experiment], max_results=1_000)
        while page.token:
            page = client.search_runs([experiment], max_results=1_000, page_token=page.token)

    def read() -> None:
        assert len(tracking.runs()) == size
        assert len(tracking.history()) == size * EPOCHS

    searched, own = alternate(search, read)
    compared = in_a_process(COMPARE, folder)
    reported = in_a_process(REPORT, folder)
    return {
        "runs": size,
        "search": searched,
        "read": own,
        "times": own / searched,
        "compare": compared["seconds"],
        "compare, MB": compared["memory"] / 1e6,
        "report": reported["seconds"],
        "report, MB": reported["memory"] / 1e6,
        "page, MB": (folder / "comparison.html").stat().st_size / 1e6,
    }


def alternate(*actions: Callable[[], None]) -> list[float]:
    """The median seconds of each action, measured in turns."""
    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(ROUNDS):
        for action, own in zip(actions, seconds, strict=True):
            start = time.perf_counter()
            action()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in seconds]


def in_a_process(code: str, folder: Path) -> dict[str, float]:
    """Seconds, with imports, and peak memory in bytes of a process of its own."""
    command = [sys.executable, "-c", MEASURE, str(folder)]
    done = subprocess.run(command, input=code, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def fill(size: int, database: Path) -> None:
    """Make a store of `size` finished runs of the models, each with its own seed and accuracies."""
    templates = [record(number) for number in MODELS]
    with sqlite3.connect(database) as store:
        for place in range(len(MODELS), size):
            copy_run(store, templates[place % len(MODELS)], seed=1 + place // len(MODELS))
    store.close()


def record(number: int) -> str:
    """A run of an iteration with what real ones record per epoch; returns its id."""
    iteration = loading.load_iteration(number)
    network = iteration.recipe.network()
    parameters = {
        "model": number, **iteration.recipe.hyperparameters(), "seed": 1, "split": "test",
        "parameters": classifier.count_parameters(network), "receptive_field": 28, "device": "cpu",
        "threads": 1, "machine": "Linux x86_64", "python": "3.11.7", "test_images": 10_000,
    }  # fmt: skip
    tags = {"code_sha256": iteration.code_sha256, "overrides": "none", "git_dirty": "false"}
    with tracking.start_run(f"{iteration.name} · seed 1", parameters, tags) as run:
        run.describe("A run to measure with. " * 20)
        run.log_table(receptive_field_table(network, recipe.PIXELS), "receptive_field")
        run.log_metrics({"model": number, "worst_of_last_5_test_accuracy_percent": 99.0})
        for epoch in range(1, EPOCHS + 1):
            wrong = 60 + 200 // epoch + 5 * number
            metrics = {
                "train/accuracy": 0.9 + epoch / 200, "train/loss": 1 / epoch,
                "test/accuracy": 1 - wrong / 10_000, "test/loss": 1 / epoch, "test/errors": wrong,
                "learning_rate": 0.01, "epoch_seconds": 20.0,
            }  # fmt: skip
            run.log_metrics(metrics, step=epoch)
    return run.run_id


def copy_run(store: sqlite3.Connection, template: str, seed: int) -> None:
    """A run like another, but for its id, its seed and a shift of its errors."""
    new, shift = uuid.uuid4().hex, seed * 7 % 41 - 20
    for table in ("runs", "metrics", "latest_metrics", "params", "tags"):
        columns = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
        copied = ["?" if name == "run_uuid" else f'"{name}"' for name in columns]
        store.execute(
            f"INSERT INTO {table} SELECT {', '.join(copied)} FROM {table} WHERE run_uuid = ?",
            (new, template),
        )
    store.execute("UPDATE params SET value = ? WHERE key = 'seed' AND run_uuid = ?", (seed, new))
    for table in ("metrics", "latest_metrics"):
        for key, step in (("test/errors", shift), ("test/accuracy", -shift / 10_000)):
            store.execute(
                f"UPDATE {table} SET value = value + ? WHERE key = ? AND run_uuid = ?",
                (step, key, new),
            )
