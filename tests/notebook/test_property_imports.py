"""Any graph of helpers: the hash covers those that can be reached, and nothing else."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_exp.notebook import entries, loading

HEAD = '"""Model 7: blocks.\n\nTarget: a\nChange: b\nExpect: c\nAnalysis: d"""\n'
RECIPE = """
from mnist_exp.recipe import Recipe
RECIPE = Recipe(network=lambda: VALUE, batch_size=1, epochs=1, optimizer=print)
"""
# One name for each: what is imported is called `it`, its value VALUE.
STYLES = (
    "import experiments.{0} as it",
    "import experiments.{0}\nit = experiments.{0}",
    "from experiments.{0} import VALUE",
    "from experiments.{0} import *",
    "from experiments import {1} as it",
    "def later():\n    from experiments.{0} import VALUE\n    return VALUE",
)
MODULES = ("a", "b", "c", "box", "box.d")
FILES = {"a": "a.py", "b": "b.py", "c": "c.py", "box": "box/__init__.py", "box.d": "box/d.py"}

# An edge leads from a module to one after it, or from the iteration, so that no circle arises.
Graph = Mapping[str, list[tuple[str, str]]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    graph = {}
    for place, name in enumerate(("model_7", *MODULES)):
        # What lies in a package is executed after it.
        after = [other for other in MODULES[place:] if not (name == "box" and other == "box.d")]
        edges = st.tuples(st.sampled_from(after or ["a"]), st.sampled_from(STYLES))
        graph[name] = draw(st.lists(edges, max_size=2)) if after else []
    return graph


def source(edges: list[tuple[str, str]], value: int) -> str:
    lines = [f"VALUE = {value}"]
    for place, (target, style) in enumerate(edges):
        name = target if "." not in target or "{1}" not in style else "box"
        style = style.replace("later", f"later{place}")
        lines += [style.format(name, name)]
    return "\n".join([*lines, f"VALUE = {value}\n"])


def reached(graph: Graph) -> set[str]:
    """The modules that are executed or may be: a package comes with what lies in it."""
    found: set[str] = set()
    waiting = ["model_7"]
    while waiting:
        for target, style in graph[waiting.pop()]:
            name = "box" if "." in target and "{1}" in style else target
            for each in {name, name.partition(".")[0]} - found:
                found.add(each)
                waiting.append(each)
    return found


@settings(derandomize=True, max_examples=60, deadline=None)
@given(graph=graphs(), changed=st.sampled_from(MODULES))
def test_the_hash_changes_with_a_helper_that_can_be_reached(
    graph: Graph, changed: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("graph")
    (folder / "box").mkdir()
    for name in MODULES:
        (folder / FILES[name]).write_text(source(graph[name], 1))
    (folder / "model_7.py").write_text(HEAD + source(graph["model_7"], 1) + RECIPE)
    before = loading.load_iteration(7, folder)
    assert set(before.helpers) == {FILES[name] for name in reached(graph)}
    file = folder / FILES[changed]
    file.write_text(f"# a comment\n{file.read_text()}")
    assert entries.read_entry(7, folder).code_sha256 == before.code_sha256
    file.write_text(source(graph[changed], 2))
    after = loading.load_iteration(7, folder).code_sha256
    assert (after != before.code_sha256) == (changed in reached(graph))
    assert loading.recipe_of(before.entry).network() == 1
