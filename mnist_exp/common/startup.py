"""What is set once in a process, before anything else happens in it.

- Whoever imports the package: how long torch's threads wait, and that what a graphics card
  multiplies comes to the same each time (`at_import`).
- Whoever imports `tracking`: how MLflow behaves (`tracking.startup.start_up`).
- A command, and each training of a sweep, which is one: in what order sets are, when Python looks
  for garbage, and what it knows of a screen and of warnings (`SAME_HASHES`, `of_command`,
  `loading`).

Elsewhere nothing is set by an import alone: a `Training` asks for memory to be kept when it is
made, and a cluster for silence when it is connected to.
"""

import atexit
import contextlib
import gc
import os
import sys
import warnings
from collections.abc import Iterator


def at_import() -> None:
    """Let torch's threads spin for a thousand rounds while they wait for each other, and cuBLAS be
    deterministic.

    By default they spin for so long that beside another busy process an epoch takes up to fifty
    times as long, and without spinning at all a quiet epoch takes a third longer. Read when torch
    is first imported; cuBLAS reads its own when it is first used.
    https://docs.nvidia.com/cuda/cublas/#results-reproducibility
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


SAME_HASHES = {"PYTHONHASHSEED": "0"}
"""The variable with which a text has the same hash in each process. The order of a set depends on
it, and so may the order in which an iteration makes its layers: one seed, one result."""


def hash_as_always() -> None:
    """Begin the process again, with the same hashes in each. Does nothing on Windows, which cannot,
    and where Python is told to look at no variable."""
    if sys.flags.hash_randomization and not sys.flags.ignore_environment and os.name == "posix":
        os.execve(
            sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **SAME_HASHES}
        )


def of_command() -> None:
    """For a process that does one thing and ends."""
    _collect_rarely()
    if sys.warnoptions:  # as by PYTHONWARNINGS=error: a library's warning would be the end
        warnings.simplefilter("ignore")
    # As set by a notebook for itself, it may name what is not installed here; matplotlib would
    # refuse to be imported. No figure needs a screen.
    os.environ.pop("MPLBACKEND", None)


def _collect_rarely() -> None:
    """Look for garbage less often, and not at the end.

    The libraries are millions of objects that stay, and Python looks through them again and again
    for cycles that nobody uses: a quarter of a start, and seconds after the last line.
    """
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """A block that imports what a command needs: none of it is looked at for garbage, then or
    later, which is a tenth of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
