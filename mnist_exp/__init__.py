"""Run, record and compare iterations of a small MNIST classifier."""

from pathlib import Path

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parents[1]
"""The checkout: `experiments/`, `data/` and `mlruns/` lie in it, wherever a command is started."""


class ExpectedError(Exception):
    """Something that the user can put right; its text is one line that says what and how.

    The command line prints it without a traceback and exits with 2.
    """
