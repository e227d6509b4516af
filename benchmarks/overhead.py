"""What tracking costs, and how long short commands take."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.section import Section
from benchmarks.store import fill
from mnist_exp import tracking
from mnist_exp.notebook import loading

MODEL = 6
"""One that is right after an epoch, as at the end of a run: each digit that is wrong is kept."""
ROUNDS = 5
RUNS = 100
MOST_SHARE, MOST_ENDS, MOST_FIRST, MOST_HELP, MOST_CHECK = 0.01, 3.0, 6.0, 0.3, 3.0

BARE = f"""
import dataclasses, time, torch
from mnist_exp import data
from mnist_exp.common import startup
from mnist_exp.notebook import loading
from mnist_exp.training.loop import Training
startup.of_command()
own = dataclasses.replace(loading.load_iteration({MODEL}).recipe, epochs=1)
kind = dict(device=torch.device("cpu"), engine="compiled")
for result in Training(own, *data.load(), seed=1, **kind).epochs():
    print(result.ended - result.seconds, result.ended)
"""


@dataclass(frozen=True)
class Times:
    """Seconds of a process before its first batch and after its last epoch."""

    before: float
    after: float


def measure() -> Section:
    """Runs with and without tracking in turns, and the short commands."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        tracking.open_store()
        timed = [(tracked(), bare()) for _ in range(1 + ROUNDS)][1:]
        share = between_epochs()
        help_seconds = median_of("--help")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        fill(RUNS, Path(folder) / "mlflow.db")
        check_seconds = median_of("check", "MODEL=6")
    start = statistics.median(own.before - other.before for own, other in timed)
    end = statistics.median(own.after - other.after for own, other in timed)
    first = statistics.median(own.before for own, _ in timed)
    epochs = loading.load_iteration(MODEL).recipe.epochs
    figures = [
        ("tracking at the start of a run, beside the same training without it", start, None),
        ("tracking at its end", end, None),
        ("both together", start + end, MOST_ENDS),
        ("from the command to the first batch", first, MOST_FIRST),
        ("--help", help_seconds, MOST_HELP),
        (f"check on a store of {RUNS} runs", check_seconds, MOST_CHECK),
    ]
    rows = [
        {"": name, "measured": f"{seconds:.2f} s", "at most": f"{most:g} s" if most else ""}
        for name, seconds, most in figures
    ]
    name = f"between the epochs of a run of {epochs}, of their time"
    rows.append({"": name, "measured": f"{share:.2%}", "at most": f"{MOST_SHARE:.0%}"})
    missed = [f"{name}: {value:.2f} s" for name, value, most in figures if most and value > most]
    if share > MOST_SHARE:
        missed.append(f"{name}: {share:.2%}")
    text = f"Model {MODEL} on a local store; {ROUNDS} rounds in turns."
    return Section("What tracking costs", text, [pd.DataFrame(rows)], missed)


def tracked() -> Times:
    """A run of one epoch."""
    begun = time.time()
    command("run", f"MODEL={MODEL}", "EPOCHS=1")
    exit_time = time.time()
    ((ended, seconds),) = epochs_of_newest().to_numpy()
    return Times(ended - seconds - begun, exit_time - ended)


def bare() -> Times:
    """The same training, in a process without tracking."""
    begun = time.time()
    said = python("-c", BARE)
    exit_time = time.time()
    first, ended = map(float, said.stdout.split())
    return Times(first - begun, exit_time - ended)


def between_epochs() -> float:
    """The time between the epochs of a whole run, as a fraction of theirs."""
    command("run", f"MODEL={MODEL}")
    epochs = epochs_of_newest()
    whole = epochs["ended"].iloc[-1] - epochs["ended"].iloc[0]
    trained = epochs["epoch_seconds"].iloc[1:].sum()
    return float((whole - trained) / trained)


def epochs_of_newest() -> pd.DataFrame:
    """When each epoch of the newest run `ended`, in seconds since 1970, and its `epoch_seconds`."""
    newest = tracking.runs().sort_values("start_time")["run_id"].iloc[-1]
    epochs = tracking.history([newest])
    epochs["ended"] = [time.timestamp() for time in epochs["time"]]
    return epochs[["ended", "epoch_seconds"]]


def median_of(*arguments: str) -> float:
    """The seconds of a short command."""
    seconds = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        command(*arguments)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def command(*arguments: str) -> None:
    """Run a command of the project; that a target is missed, by `check`, is no failure."""
    done = python("-m", "mnist_exp", *arguments)
    assert done.returncode in (0, 1), done.stderr


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python, which keeps what it compiles, as it does where nobody has forbidden that."""
    kept = {key: x for key, x in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=kept
    )
