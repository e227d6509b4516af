"""Run, record and compare iterations of a small MNIST classifier."""

import atexit
import gc
import os
from pathlib import Path

from mnist_exp.common.words import printable

# Torch's threads spin while they wait for each other: by default for so long that beside another
# busy process an epoch takes up to fifty times as long, and without spinning at all a quiet epoch
# takes a third longer. Read when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parents[1]
"""The checkout: `experiments/`, `data/` and `mlruns/` lie in it, wherever a command is started."""


def collect_rarely() -> None:
    """For a process that is a command: look for garbage less often, and not at its end.

    The libraries are millions of objects that stay, and Python looks through them again and again
    for cycles that nobody uses: a quarter of a start, and seconds after the last line.
    """
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)


class ExpectedError(Exception):
    """Something that the user can put right; its text is one line that says what and how.

    The command line prints it without a traceback and exits with 2.
    """

    def __str__(self) -> str:
        return printable(super().__str__())
