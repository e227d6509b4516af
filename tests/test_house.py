"""The house keeps its order: rooms, names and the size of what is in them."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnist_exp import ROOT

PACKAGE = ROOT / "mnist_exp"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 40
"""Lines of a function: a longer one is two."""
MLFLOWS_WORDS = re.compile(r"\bmlflow\.[a-zA-Z]|MLFLOW_")
"""Its tags, modules and settings, as far as they stand in code."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for file in FILES:
        yield file.relative_to(ROOT), ast.parse(file.read_text(encoding="utf-8"))


def test_a_name_stands_for_one_thing() -> None:
    places = defaultdict(list)
    for file, tree in trees():
        for node in tree.body:
            if isinstance(node, Definition) and not node.name.startswith("_"):
                places[node.name].append(str(file))
    del places["main"]  # what `python -m` runs, in each module that it runs
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_function_is_long() -> None:
    long = [
        f"{file}: {node.name}, {node.end_lineno - node.lineno + 1} lines"
        for file, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > LONGEST
    ]
    assert long == []


def test_every_module_says_what_it_is_about() -> None:
    for file, tree in trees():
        if tree.body:
            assert ast.get_docstring(tree), file


@pytest.mark.parametrize(
    "file", [f for f in FILES if "tracking" not in f.parts], ids=lambda f: f.stem
)
def test_only_tracking_holds_mlflows_words(file: Path) -> None:
    docstrings = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.add(id(node.value))
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    ]
    assert [text for text in texts if MLFLOWS_WORDS.search(text)] == []
