"""docs/tour.ipynb is executed; and what is committed of it shows what its cells do."""

import getpass
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from notebooks import TOUR

from mnist_exp import ROOT
from mnist_exp.data import obtain

LARGEST = 300_000
"""Bytes: git keeps each version of the pictures."""


def cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(notebook: NotebookNode) -> list[list[str]]:
    """What each cell shows: pictures, tables, or lines."""
    return [[_kind(output.get("data", {})) for output in cell.outputs] for cell in cells(notebook)]


def _kind(data: NotebookNode) -> str:
    return next((kind for kind in ("image/png", "text/html") if kind in data), "lines")


@pytest.fixture(scope="module")
def committed() -> NotebookNode:
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    return notebook


@pytest.mark.slow
def test_every_cell_runs_and_shows_what_is_committed(
    committed: NotebookNode, tmp_path: Path, store: Path
) -> None:
    file = tmp_path / "tour.ipynb"
    variables = os.environ | {"MNIST_EXP_DATA": str(obtain.default_folder())}
    program = ROOT / "tests" / "support" / "notebooks.py"
    subprocess.run(
        [sys.executable, "-W", "ignore", program, file], env=variables, check=True, cwd=tmp_path
    )
    executed = nbformat.read(file, as_version=4)
    assert [cell.source for cell in executed.cells] == [cell.source for cell in committed.cells]
    assert kinds(executed) == kinds(committed)
    last_but_one = cells(executed)[-2].outputs[0].text
    assert "Imported 285 runs" in last_but_one
    assert "iteration 2 with Adam: too few epochs" in last_but_one
    assert (store / "mlflow.db").stat().st_size > 1_000_000  # the one that the shell names


def test_what_is_committed_is_whole_and_small(committed: NotebookNode) -> None:
    assert TOUR.stat().st_size < LARGEST
    counts = [cell.execution_count for cell in cells(committed)]
    assert counts == list(range(1, len(counts) + 1))
    shown = [kind for cell in kinds(committed) for kind in cell]
    assert (shown.count("image/png"), shown.count("text/html")) == (4, 1)
    streams = [x for cell in cells(committed) for x in cell.outputs if x.output_type == "stream"]
    assert {stream.name for stream in streams} == {"stdout"}


def test_nothing_in_it_is_of_the_machine_that_executed_it(committed: NotebookNode) -> None:
    text = TOUR.read_text(encoding="utf-8")
    for word in (str(ROOT), str(Path.home()), "/home/", "/tmp/", f"/{getpass.getuser()}/"):
        assert word not in text, word
    assert set(committed.metadata) == {"kernelspec", "language_info"}
    assert not any("execution" in cell.metadata for cell in committed.cells)


def test_its_links_lead_somewhere(committed: NotebookNode) -> None:
    texts = [cell.source for cell in committed.cells if cell.cell_type == "markdown"]
    links = re.findall(r"\]\((?!http)(.*?)(?:#.*?)?\)", "".join(texts))
    assert len(links) > 4
    assert all((TOUR.parent / link).is_file() for link in links)
