"""Somebody's file becomes an iteration: what is taken of it, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import entries, loading
from mnist_exp.notebook.excerpt import Script
from mnist_exp.runs.adoption import Adopted, adopt_file

NET = """

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(784, 10)

    def forward(self, x):
        return self.last(x.flatten(1))
"""
HEAD = "import torch\nfrom torch import nn\n"
SCRIPT = f'''#!/usr/bin/env python
"""My first network."""
import sys
import numpy, nowhere
import torch
from torch import nn, optim
from torch.utils.data import DataLoader
from torchvision import datasets

# how many
width = 8
loader = DataLoader(datasets.MNIST("/nowhere", download=True))
{NET.replace("784, 10", "28 * 28, 2 + width")}
model = Net()
for x, y in loader:
    optim.SGD(model.parameters(), lr=0.1).step()
if __name__ == "__main__":
    sys.exit("trained")
'''


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook of its own, with iteration 6 in it."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "model_6.py").write_text(entries.path(6).read_text())
    return folder


def adopt(folder: Path, text: str, file_name: str = "alice.py", **settings: Any) -> Adopted:
    file = folder.parent / file_name
    file.write_text(text)
    return adopt_file(file, **({"like": 6, "folder": folder} | settings))


def test_the_class_is_taken_with_what_it_needs_and_nothing_else(notebook: Path) -> None:
    made = adopt(notebook, SCRIPT)
    assert made.parameters == 7_850  # 784 x 10 + 10
    assert made.entry.path == notebook / "model_7.py"
    six = (notebook / "model_6.py").read_text()
    recipe = six[six.index("RECIPE") :].replace("network=Network", "network=Net")
    assert made.entry.path.read_text() == (
        '"""Model 7: Alice.\n\nTarget: not written yet.\n'
        "Change: Net of alice.py, with the recipe of model 6.\n"
        'Expect: not written yet.\nAnalysis: not written yet.\n"""\n\n'
        "from functools import partial\n\nfrom torch import nn\nfrom torch.optim import SGD\n"
        "from torch.optim.lr_scheduler import StepLR\n\n"
        "from mnist_exp.augment import RandomRotation\nfrom mnist_exp.recipe import Recipe\n\n"
        f"# how many\nwidth = 8\n{NET.replace('784, 10', '28 * 28, 2 + width')}\n\n{recipe}"
    )
    iteration = loading.load_iteration(7, notebook)
    assert (iteration.title, iteration.recipe.epochs) == ("Alice", 15)
    assert list(iteration.written) == ["Change"]


def test_the_name_is_the_title_whatever_it_is(notebook: Path) -> None:
    for name in ('Ann "the""" net\\', "Zoë B.", "Ω"):
        made = adopt(notebook, HEAD + NET, name=name)
        assert loading.load_iteration(made.entry.number, notebook).title == name
    assert adopt(notebook, HEAD + NET, "bob_c.py").entry.title == "Bob C"
    assert entries.numbers(notebook) == [6, 7, 8, 9, 10]


def test_a_recipe_brings_what_it_needs_of_its_own_file(notebook: Path) -> None:
    six = entries.path(6).read_text()
    own = "def slow(weights):\n    return SGD(weights, lr=RATE)\n\n\nRATE = 0.5\n\n\nRECIPE"
    six = six.replace("Model 6", "Model 5").replace("RECIPE", own)
    six = six.replace("network=Network", "network=partial(\n        Network\n    )")
    six = six.replace("partial(SGD, lr=0.01, momentum=0.9)", "slow")
    (notebook / "model_5.py").write_text(six)
    made = adopt(notebook, HEAD + NET, like=5)
    assert "class Network" not in made.entry.source
    recipe = loading.load_iteration(made.entry.number, notebook).recipe
    assert recipe.optimizer([torch.zeros(1, requires_grad=True)]).param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("a = []\nfor size in 1, 2:\n    a.append(size)\nb = []\nb.append(1)", "a=0 for=1"),
        ("a = {}\na['x'] = 1\nb = {}\nb['x'] = 1", "a=0 a=1"),
        ("a = 1\na += 1", "a=0 a=1"),
        ("def a(x):\n    y = x\n    return z\nx = y = 1\nz = 2", "a=0 z=2"),
        ("def a():\n    return b\ndef a():\n    b = 2\nb = 1", "a=1"),
        ("a = 1\ndef a(x=a):\n    pass", "a=0 a=1"),
        ("from os import path as a, sep\nimport sys", "a=0"),
        ("from os import *\nimport sys\nb = 1\ndef a():\n    return getcwd()", "*=0 a=3"),
        ("if 1:\n    import sys as b\nelse:\n    b = 2\na = b", "if=0 a=1"),
        ("if __name__ == '__main__':\n    b = 1\na = b", "a=0"),
        ("from __future__ import annotations\na = 1; b = 2", "future=0 a=1"),
    ],
)
def test_what_a_name_needs(text: str, needs: str) -> None:
    script = Script(text, "x.py")
    places = [script.statements.index(statement) for statement in script.needed(["a"])]
    assert places == [int(need.partition("=")[2]) for need in needs.split()]


ROWS = NET.replace("self.last(x.flatten(1))", "self.last(x.view(len(x), 784 * (x.dim() == 3)))")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (NET.replace("(self)", "(self, width, depth=3)"),
         "alice.py, line 6: Net needs width, and a recipe makes it without: give defaults there"),
        (NET.replace("(self)", "(self, *, width)") + "class B(Net):\n    pass",
         "line 6: B needs width,"),
        (NET.replace("x.flatten(1)", "x"),
         "cannot be multiplied (56x28 and 784x10); it takes flattened images, (N, 784): let "),
        (NET.replace("x.flatten(1)", "x"), "line 11: network: RuntimeError: mat1 and mat2 "),
        (ROWS, "it takes images without channels, (N, 28, 28): let its forward begin with x ="),
        (NET.replace("784, 10", "784, 20"),
         "alice.py, line 5: for 2 images the network gives (2, 20), not (2, 10)"),
        (NET.replace("self.last(x.flatten(1))", "x, x"), "line 5: the network gives a tuple"),
        (NET + NET.replace("Net", "Other"), "has Net, Other: choose one, as in CLASS=Other"),
        ("def train(): pass", "alice.py has no class made of torch.nn.Module"),
        ("import beside" + NET.replace("784", "beside.size"),
         "alice.py, line 3: Net needs beside of another file, beside: put it into"),
        ("from .beside import size" + NET.replace("784", "size"), "copy that file to experiments/"),
        ("import nowhere" + NET.replace("784", "nowhere.size"),
         "alice.py, line 3: ModuleNotFoundError: No module named 'nowhere'"),
        ("from torchvision import datasets\nd = datasets.MNIST('x')\nn = len(d)"
         + NET.replace("784", "n"),
         "line 4: Net needs d, which takes torchvision.datasets.MNIST: write the value itself"),
        ("import sys\nn = int(sys.argv[1])" + NET.replace("784", "n"), "which takes sys.argv:"),
        (NET.replace("784", "n") + "if __name__ == '__main__':\n    n = 784",
         "alice.py, line 8: network: NameError: name 'n' is not defined"),
        ("def partial(x):\n    return x" + NET.replace("784", "partial(784)"),
         "model_6.py, whose recipe is taken, call different things partial:"),
        ("class Net(:", "alice.py, line 3: syntax error: invalid syntax"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_one_line_and_leaves_no_file(
    notebook: Path, text: str, says: str
) -> None:
    (notebook.parent / "beside.py").write_text("size = 784\n")
    with pytest.raises(ExpectedError) as error:
        adopt(notebook, HEAD + text)
    assert says in str(error.value)
    assert "model_7" not in str(error.value)
    assert entries.numbers(notebook) == [6]


def test_the_network_is_chosen_where_it_is_obvious_or_by_its_name(notebook: Path) -> None:
    loss = "\n\nclass Loss(nn.Module):\n    def forward(self, x, y):\n        return x\n"
    assert adopt(notebook, HEAD + NET + loss).network == "Net"
    two = HEAD + NET + NET.replace("Net", "Other").replace("784, 10", "784, 10, bias=False")
    assert adopt(notebook, two, network="Net").parameters == 7_850
    assert adopt(notebook, two, network="Other").parameters == 7_840
    made = HEAD + "def net():\n    return model\nmodel = nn.Sequential(nn.Flatten(), "
    made += "nn.Linear(784, 10)).to('cpu')\n"
    adopted = adopt(notebook, made)
    assert (adopted.network, adopted.parameters) == ("model", 7_850)
    assert "net()" not in adopted.entry.source
    recipe = loading.recipe_of(adopted.entry)
    assert recipe.network() is not recipe.network()
    with pytest.raises(ExpectedError, match=r"CLASS=Nett: .*alice\.py has Net, Other: choose one"):
        adopt(notebook, two, network="Nett")


def test_nothing_is_overwritten(notebook: Path) -> None:
    before = (notebook / "model_6.py").read_bytes()
    with pytest.raises(ExpectedError, match=r"model_6\.py is there already; choose another MODEL"):
        adopt(notebook, HEAD + NET, number=6)
    assert (notebook / "model_6.py").read_bytes() == before


def test_a_softmax_at_the_end_is_told_and_its_logarithm_is_right(notebook: Path) -> None:
    ends = {"x": "", "x.log_softmax(1)": "", "x.softmax(1)": "Net gives probabilities"}
    for end, caution in ends.items():
        text = NET.replace("return ", "x = ") + f"        return {end}\n"
        assert adopt(notebook, HEAD + text).caution[: len(caution) or None] == caution


def test_what_it_prints_and_asks_for_is_not_seen(
    notebook: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    adopt(notebook, HEAD + NET.replace("return", "print(x.shape); return"))
    assert capfd.readouterr() == ("", "")


def test_a_helper_in_the_notebook_takes_part(notebook: Path) -> None:
    (notebook / "beside.py").write_text("size = 784\n")
    text = HEAD + "from experiments.beside import size\n" + NET.replace("784", "size")
    made = adopt(notebook, text)
    assert made.entry.helpers == {"beside.py": "size = 784\n"}


def test_a_jupyter_notebook_has_its_code_in_cells(notebook: Path) -> None:
    cells = ["%pip install torch\n", HEAD, "%%bash\nls -l (", "for i in 1, 2:\n    !ls\n", NET]
    code = [{"cell_type": "code", "source": text.splitlines(keepends=True)} for text in cells]
    words = [{"cell_type": "markdown", "source": ["# A (title\n"]}]
    made = adopt(notebook, json.dumps({"cells": words + code}), "my net.ipynb")
    assert (made.entry.title, made.parameters) == ("My Net", 7_850)
    for text in ("{}", "x = 1", "[]", '{"cells": [1]}'):
        with pytest.raises(ExpectedError, match=r"my\.ipynb is no Jupyter notebook"):
            adopt(notebook, text, "my.ipynb")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["FILE=/nowhere.py"], "there is no /nowhere.py"),
        (["FILE=/"], "/ is no file"),
        ([], "FILE=: a file, as in FILE=alice.py"),
        (["FILE=" + "x" * 1000], ": a file, as in FILE=alice.py"),
        (["FILE=~nosuchuser/x.py"], "there is no ~nosuchuser/x.py"),
        (["FILE=<>", "NAME= "], "NAME= : 1 to 60 letters in one line are needed, as in NAME=Alice"),
        (["FILE=<>", "NAME=a\nb"], "NAME=a\\nb: 1 to 60 letters in one line"),
        (["FILE=<>", "NAME=" + "x" * 61], ": 1 to 60 letters in one line are needed"),
        (["FILE=<>", "LIKE=98"], "there is no experiments/model_98.py"),
        (["FILE=<>", "MODEL=6"], "experiments/model_6.py is there already; choose another MODEL"),
        (["FILE=<>", "CLASS=torch"], "CLASS=torch: "),
        (["FILE=<>", "SEED=1"], "adopt takes no SEED; it takes FILE CLASS LIKE NAME MODEL"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_line(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "alice.py").write_text(HEAD + NET)
    before = entries.numbers()
    assert main(["adopt", *(word.replace("<>", f"{tmp_path}/alice.py") for word in words)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err
    assert entries.numbers() == before
