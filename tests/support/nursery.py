"""What fault injection starts: the command line on 1,000 real digits.

Imported by the process that all of them are children of, so that none spends seconds on imports.
"""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import torch

from mnist_exp import data
from mnist_exp.commands import cli, display  # noqa: F401
from mnist_exp.runs import reproduce, run  # noqa: F401
from mnist_exp.tracking import store, ui  # noqa: F401

torch.set_num_threads(1)
train, test = data.load()


def few(*_: object) -> tuple[data.Digits, data.Digits]:
    return train[:1000], test[:500]


def follow(clock: Path) -> None:
    """Take for the machine's clock, from now on, one that is ahead by the seconds that a file
    names: that of Python, and that by which the kernel tells when it was started."""
    real, booted = time.time, psutil.boot_time()

    def ahead() -> float:
        return float(clock.read_text() or 0)

    time.time = lambda: real() + ahead()
    psutil._psplatform.boot_time = lambda: booted + ahead()


def command(arguments: list[str], uri: str, folder: Path, said: Path) -> None:
    """Carry out a command over the store `uri`; `folder` takes the place of the checkout's mlruns,
    and the file `said` what it prints."""
    data.load = few
    os.environ["MLFLOW_TRACKING_URI"] = uri
    store.DEFAULT_FOLDER = folder
    if (clock := folder / "clock").exists():
        follow(clock)
    sys.stdout = sys.stderr = said.open("w", buffering=1)
    # A shell that starts the tests in the background has their children ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(cli.main(arguments))
