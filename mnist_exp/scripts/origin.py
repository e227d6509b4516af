"""The code that a run comes from: the script that tracks it, or the cells of its notebook."""

import os
import sys
from pathlib import Path
from types import FrameType

PACKAGE = Path(__file__).parents[1]
LARGEST = 2**20
"""Bytes of a source that is kept."""


def calling_code() -> tuple[str, str]:
    """What called this package: the name of its file, and its text. A notebook's is that of all
    cells that were run, in their order. Both are empty where there is no file, as at a prompt."""
    frame: FrameType | None = sys._getframe()
    while frame and PACKAGE in Path(frame.f_code.co_filename).parents:
        frame = frame.f_back
    if frame is None:
        return "", ""
    cells = frame.f_globals.get("In")
    if "get_ipython" in frame.f_globals and isinstance(cells, list):
        run = [f"# In [{number}]\n{cell}" for number, cell in enumerate(cells) if cell]
        name, text = os.environ.get("JPY_SESSION_NAME", "notebook"), "\n\n".join(run) + "\n"
    else:
        file = Path(frame.f_code.co_filename)
        try:
            name, text = str(file), file.read_text(encoding="utf-8", errors="replace")
        except OSError:  # as "<stdin>"
            return "", ""
    return name, text if len(text) <= LARGEST else ""
