"""Run, record and compare iterations of a small MNIST classifier."""

from pathlib import Path

from mnist_exp.common import startup
from mnist_exp.common.words import printable

startup.at_import()

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parents[1]
"""The checkout: `experiments/`, `data/` and `mlruns/` lie in it, wherever a command is started."""


class ExpectedError(Exception):
    """Something that the user can put right; its text is one line that says what and how.

    The command line prints it without a traceback and exits with 2.
    """

    def __str__(self) -> str:
        return printable(super().__str__())
