"""An epoch here, and as it was before there were kernels of our own, at a commit."""

import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.epoch import prepare_own, process, turn_own
from benchmarks.measure import Contender, in_turns, median_seconds, ratio, ratios
from benchmarks.section import Section
from mnist_exp import ROOT
from mnist_exp.data import obtain

COMMIT = "aaf9fb5"
MODELS = (14, 16, 18, 21)
ROUNDS = 5
PART = 3
"""A third of the digits is timed, which takes a third of the time."""
GOAL = 3.0

EPOCHS = """
import dataclasses, sys, torch
from mnist_exp import data, recipe
from mnist_exp.training import Training
number, part = map(int, sys.argv[1:])
train, test = (digits[: len(digits) // part] for digits in data.load())
endless = dataclasses.replace(recipe.load(number).recipe, epochs=10**6)
epochs = Training(endless, train, test, seed=1, device=torch.device("cpu")).epochs()
for _ in sys.stdin:
    print(next(epochs).seconds, flush=True)
"""
"""The epochs of a training, one for each line of stdin, as the code of COMMIT has it."""


def measure() -> Section:
    """All models, in turns."""
    text = f"""\
Seconds of a third of an epoch and of its evaluation (20,000 and 3,333 digits) on all cores, here
and with the code of commit {COMMIT}, {ROUNDS} rounds in turns.

Goal: {GOAL:g} times as fast."""
    rows, missed = [], []
    with tempfile.TemporaryDirectory() as folder:
        try:
            check_out(Path(folder))
        except subprocess.CalledProcessError:  # as in a shallow clone
            return Section("An epoch before", text, [], [f"there is no commit {COMMIT} here"])
        for number in MODELS:
            seconds = in_turns(
                {
                    "own": Contender(prepare_own, (number, "compiled", None, PART), turn_own),
                    "before": Contender(prepare_before, (number, folder, PART), turn_before),
                },
                ROUNDS,
            )
            own, before = seconds["own"], seconds["before"]
            rows.append(
                {
                    "model": str(number),
                    "here": median_seconds(own),
                    "before": median_seconds(before),
                    "before / here": ratio(before, own),
                }
            )
            times = statistics.median(ratios(before, own))
            if times < GOAL:
                missed.append(f"model {number} is {times:.2f} times as fast, not {GOAL:g}")
    return Section("An epoch before", text, [pd.DataFrame(rows)], missed)


def check_out(folder: Path) -> None:
    """Put the files of COMMIT into a folder; raises CalledProcessError where git lacks them."""
    command = ["git", "archive", COMMIT, "mnist_exp", "experiments"]
    packed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")


def prepare_before(number: int, folder: str, part: int) -> None:
    process["before"] = subprocess.Popen(
        [sys.executable, "-c", EPOCHS, str(number), str(part)],
        cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        env=os.environ | {"PYTHONPATH": folder, "MNIST_EXP_DATA": str(obtain.default_folder())},
    )  # fmt: skip


def turn_before() -> float:
    asked = process["before"]
    print(file=asked.stdin, flush=True)
    return float(asked.stdout.readline())
