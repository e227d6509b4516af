"""Run, record and compare iterations of a small MNIST classifier."""

from pathlib import Path

from mnist_exp.common import startup

startup.at_import()

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parents[1]
"""The checkout: `experiments/`, `data/` and `mlruns/` lie in it, wherever a command is started."""
