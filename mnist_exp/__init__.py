"""Run, record and compare iterations of a small MNIST classifier.

For scripts and notebooks of one's own there are `receptive_field_table`, `load_digits` and `track`:
see docs/own-scripts.md.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.common import startup

if TYPE_CHECKING:
    from mnist_exp.data import load as load_digits
    from mnist_exp.scripts.track import track
    from mnist_exp.training.receptive_field import receptive_field_table
else:

    def __getattr__(name: str) -> object:
        """Import what is asked for, with torch and MLflow, for which no other need wait."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, function = _PLACES[name].rpartition(".")
        globals()[name] = getattr(importlib.import_module(module), function)
        return globals()[name]


__all__ = ["ROOT", "load_digits", "receptive_field_table", "track"]
__version__ = "0.1.0"

startup.at_import()

ROOT = Path(__file__).resolve().parents[1]
"""The checkout: `experiments/`, `data/` and `mlruns/` lie in it, wherever a command is started."""

_PLACES = {
    "load_digits": "mnist_exp.data.load",
    "receptive_field_table": "mnist_exp.training.receptive_field.receptive_field_table",
    "track": "mnist_exp.scripts.track.track",
}
"""Where each of the functions is, by its name."""
