"""Notebooks are executed: `python tests/support/notebooks.py` writes docs/tour.ipynb with what its
cells show now, or, where a file is named, writes that in its place."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

TOUR = Path(__file__).parents[2] / "docs" / "tour.ipynb"
LONGEST = 120
"""Seconds that a cell may take."""


def executed(file: Path) -> NotebookNode:
    """The notebook with the outputs of its cells, which run in its folder, with this Python. Raises
    CellExecutionError for a cell that does."""
    notebook = nbformat.read(file, as_version=4)
    resources = {"metadata": {"path": str(file.parent)}}
    # When a cell ran is of no interest to who reads it.
    NotebookClient(
        notebook, timeout=LONGEST, kernel_name="python3", resources=resources,
        record_timing=False, coalesce_streams=True,  # of a bar that moves, where it was last
    ).execute()  # fmt: skip
    notebook.metadata["language_info"] = {"name": "python"}  # not the version of who executed it
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output["output_type"] == "stream":  # a command believes in a terminal
                output["text"] = output["text"].replace("\r\n", "\n")
    return notebook


if __name__ == "__main__":
    target = Path(sys.argv[1]) if sys.argv[1:] else TOUR
    nbformat.write(executed(TOUR), target)
