"""What is set once in a process, before anything else happens in it.

- Whoever imports the package: how long torch's threads wait, and that what a graphics card
  multiplies comes to the same each time (`at_import`).
- Whoever imports `tracking`: how MLflow behaves (`tracking.startup.start_up`).
- A command, and each training of a sweep, which is one: when Python looks for garbage, and what it
  knows of a screen (`of_command`, `loading`).

Elsewhere nothing is set by an import alone: a `Training` asks for memory to be kept when it is
made, and a cluster for silence when it is connected to.
"""

import atexit
import contextlib
import gc
import os
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


def of_command() -> None:
    """For a process that does one thing and ends."""
    _collect_rarely()
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
