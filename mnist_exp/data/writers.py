"""Who wrote each digit, and folds of the training digits that share no writer.

Whoever chooses on digits of people whose other digits were trained on chooses what knows these
people. MNIST's test digits are of people of whom no digit is trained on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mnist_exp.common.errors import ExpectedError

FILE = Path(__file__).with_name("qmnist") / "writers.npz"
FOLDS = 6
"""So many folds of some 10,000 digits each, as many as the test set has."""
CLASSES = 10
FOLDS_SHA256 = "5035d7b0310a6ba5459ddb2ce9875230fde1ef52655bc0fa5ac1122dfc493aee"
"""SHA-256 (hexadecimal) of the fold of each training digit (uint8), which the rule must give."""


@dataclass(frozen=True)
class Writers:
    """Who wrote digits: `number`, the writer's in NIST's Special Database 19, and `series`, 0 for
    employees of the census bureau and 4 for students; both int64 (N,), in MNIST's order."""

    number: NDArray[np.int64]
    series: NDArray[np.int64]


def writers(part: Literal["train", "test"]) -> Writers:
    """Of the 60,000 training digits, or of the 10,000 test digits."""
    with np.load(FILE) as table:
        columns = (table[f"{part}_{name}"].astype(np.int64) for name in ("writer", "series"))
        return Writers(*columns)


def folds(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fold, 1 to FOLDS, of each training digit, int64 (60000,); `labels` are theirs, int64.

    All digits of a writer are in one fold. Writers are dealt out one after the other, those with
    the most digits first: each goes into the fold in which the sum of the squared counts, over
    series and classes, grows least. So the folds are nearly alike in both.

    Raises ExpectedError where that gives other folds than it should.
    """
    own = writers("train")
    numbers, writer = np.unique(own.number, return_inverse=True)
    kind = CLASSES * (own.series > 0) + labels
    counts = np.zeros((len(numbers), 2 * CLASSES), dtype=np.int64)
    np.add.at(counts, (writer, kind), 1)
    held = np.zeros((FOLDS, 2 * CLASSES), dtype=np.int64)
    chosen = np.zeros(len(numbers), dtype=np.int64)
    for place in np.argsort(-counts.sum(axis=1), kind="stable"):
        # (h + c)² - h² = 2hc + c², of which the second is the same for every fold.
        chosen[place] = np.argmin(held @ counts[place])
        held[chosen[place]] += counts[place]
    found = 1 + chosen[writer]
    if hashlib.sha256(found.astype(np.uint8).tobytes()).hexdigest() != FOLDS_SHA256:
        raise ExpectedError(f"{FILE} is not as it was published: the folds come out differently")
    return found
