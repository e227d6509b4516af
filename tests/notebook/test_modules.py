"""An iteration and the helpers that it imports: found, hashed, and executed afresh each time."""

import hashlib
import shutil
import sys
from pathlib import Path

import pytest
import torch

from mnist_exp import ROOT
from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import code_hash, entries, loading
from mnist_exp.notebook.loading import Iteration

HEAD = '"""Model 7: blocks.\n\nTarget: a\nChange: b\nExpect: c\nAnalysis: d"""\n'  # six lines
RECIPE = """
from functools import partial
from torch.optim import SGD
from mnist_exp.recipe import Recipe
RECIPE = Recipe(network=Network, batch_size=64, epochs=1, optimizer=partial(SGD, lr=0.1))
"""
BLOCKS = """
from torch import nn

class Network(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))
"""
NETWORK = f"{BLOCKS}{RECIPE}"


def write(folder: Path, main: str, files: dict[str, str]) -> Path:
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    (folder / "model_7.py").write_text(HEAD + main)
    return folder


def load(folder: Path, main: str, files: dict[str, str]) -> Iteration:
    return loading.load_iteration(7, write(folder, main, files))


def refusal(folder: Path, main: str, files: dict[str, str]) -> str:
    with pytest.raises(ExpectedError) as refused:
        load(folder, main, files)
    said = str(refused.value)
    assert "\n" not in said
    return said.replace(f"{folder}/", "")


PACKAGE = {"blocks/__init__.py": "from .nets import Network\n", "blocks/nets.py": BLOCKS}


@pytest.mark.parametrize(
    ("main", "files"),
    [
        ("from experiments.blocks import Network", {"blocks.py": BLOCKS}),
        ("from experiments.blocks import *", {"blocks.py": BLOCKS}),
        ("import experiments.blocks as b\nNetwork = b.Network", {"blocks.py": BLOCKS}),
        (
            "import experiments.blocks\nNetwork = experiments.blocks.Network",
            {"blocks.py": BLOCKS},
        ),
        ("from experiments import blocks\nNetwork = blocks.Network", {"blocks.py": BLOCKS}),
        ("from .blocks import Network", {"blocks.py": BLOCKS}),
        ("from . import blocks as b\nNetwork = b.Network", {"blocks.py": BLOCKS}),
        ("from experiments.blocks import Network", PACKAGE),
        ("from experiments.blocks.nets import Network", PACKAGE),
        ("from experiments.blocks.nets import Network", {"blocks/nets.py": BLOCKS}),
        ("from experiments.blocks import nets\nNetwork = nets.Network", PACKAGE),
        (
            "from experiments.first import Network",
            {"first.py": "from experiments.second import Network", "second.py": BLOCKS},
        ),
        (
            "from experiments.first import Network",  # they import each other, which Python allows
            {
                "first.py": f"import experiments.second\n{BLOCKS}",
                "second.py": "from . import first",
            },
        ),
        ("from experiments.torch import Network", {"torch.py": BLOCKS}),  # beside the real one
        (
            "from experiments.model_9 import Network",
            {"model_9.py": (ROOT / "experiments" / "model_9.py").read_text()},
        ),
        ("from experiments.blocks import Network", {"__init__.py": "", "blocks.py": BLOCKS}),
    ],
)
def test_helpers_are_imported_as_python_does_and_kept(
    main: str, files: dict[str, str], tmp_path: Path
) -> None:
    before = set(sys.modules)
    iteration = load(tmp_path, f"{main}\n{RECIPE}", files)
    assert iteration.recipe.network()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert iteration.helpers == files
    assert not {name for name in set(sys.modules) - before if name.startswith("experiments")}
    assert entries.read_entry(7, tmp_path).code_sha256 == iteration.code_sha256
    assert loading.recipe_of(iteration.entry).network is not iteration.recipe.network


def test_an_iteration_without_helpers_has_the_hash_of_its_file(tmp_path: Path) -> None:
    iteration = load(tmp_path, NETWORK, {"blocks.py": "stands beside it, and is not imported"})
    assert iteration.helpers == {}
    assert iteration.code_sha256 == code_hash.code_sha256(HEAD + NETWORK)
    # As the store has it of the published runs.
    published = "2408c444"
    assert entries.read_entry(9).code_sha256.startswith(published)


def test_the_hash_covers_the_code_of_helpers_and_nothing_else_of_them(tmp_path: Path) -> None:
    main = f"from experiments.blocks import Network\n{RECIPE}"
    known = load(tmp_path, main, {"blocks.py": BLOCKS}).code_sha256
    own, helper = code_hash.code_sha256(main), code_hash.code_sha256(BLOCKS)
    assert known == hashlib.sha256(f"{own}\n{helper} blocks.py".encode()).hexdigest()
    commented = f'"""Layers to share."""\n# of model 7\n{BLOCKS}'
    assert load(tmp_path, main, {"blocks.py": commented}).code_sha256 == known
    changed = BLOCKS.replace("nn.Flatten()", "nn.Flatten(), nn.ReLU()")
    assert load(tmp_path, main, {"blocks.py": changed}).code_sha256 != known
    # The same two texts under each other's names are other code.
    two = f"from experiments import a, b\n{NETWORK}"
    one, other = ({"a.py": x, "b.py": y} for x, y in (("n = 1", "n = 2"), ("n = 2", "n = 1")))
    assert load(tmp_path, two, one).code_sha256 != load(tmp_path, two, other).code_sha256


def test_what_is_executed_is_what_was_read(tmp_path: Path) -> None:
    overwriting = f"""
from pathlib import Path
blocks = Path(__file__).with_name("blocks.py")
blocks.write_text("raise RuntimeError('it was read again')")
from experiments.blocks import Network
{RECIPE}"""
    iteration = load(tmp_path, overwriting, {"blocks.py": BLOCKS})
    assert (tmp_path / "blocks.py").read_text() != BLOCKS
    assert iteration.helpers == {"blocks.py": BLOCKS}


def test_an_entry_is_executed_without_its_files(tmp_path: Path) -> None:
    main = f"from experiments.blocks import Network\n{RECIPE}"
    iteration = load(tmp_path, main, {"blocks.py": BLOCKS})
    shutil.rmtree(tmp_path)
    assert issubclass(loading.recipe_of(iteration.entry).network, torch.nn.Module)


COUNTING = """
from torch import nn
from experiments import blocks

class Network(nn.Module):
    def forward(self, x):
        from experiments.later import act
        blocks.calls.append(len(x))
        return act(len(blocks.calls))
"""


def test_executions_share_no_module(tmp_path: Path) -> None:
    """Nor one that is imported when the execution of the file is over."""
    files = {
        "blocks.py": "calls = []",
        "later.py": "seen = []\ndef act(x):\n    seen.append(x)\n    return list(seen)\n",
    }
    iteration = load(tmp_path, COUNTING + RECIPE, files)
    assert list(iteration.helpers) == ["blocks.py", "later.py"]
    first, second = iteration.recipe.network(), loading.recipe_of(iteration.entry).network()
    assert (first([0]), first([0]), second([0])) == ([1], [1, 2], [1])
    assert "experiments.later" not in sys.modules


def test_modules_of_the_same_name_that_others_imported_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("experiments", "experiments.blocks"):
        monkeypatch.setitem(sys.modules, name, pytest)
    load(tmp_path, f"from experiments.blocks import Network\n{RECIPE}", {"blocks.py": BLOCKS})
    assert sys.modules["experiments.blocks"] is pytest


def test_a_dataclass_of_a_helper_knows_what_its_annotations_name(tmp_path: Path) -> None:
    base = """
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Base:
    shared: ClassVar[int] = 1
    amount: float = 2
"""
    derived = """
from __future__ import annotations
from dataclasses import dataclass, fields
import typing
from experiments.base import Base

@dataclass(frozen=True)
class Own(Base):
    more: float = 3

assert [field.name for field in fields(Own)] == ["amount", "more"]
assert typing.get_type_hints(Own)["amount"] is float
"""
    assert load(tmp_path, derived + NETWORK, {"base.py": base}).recipe.epochs == 1


@pytest.mark.parametrize(
    ("main", "files", "said"),
    [
        ("", {"a.py": "x = = 1"}, "a.py, line 1: syntax error"),
        ("", {"a.py": "x = 1\nreturn x"}, "a.py, line 2: syntax error: 'return' outside"),
        ("", {"a.py": "x = 1\nundefined"}, "a.py, line 2: NameError: name 'undefined' is not"),
        ("", {"a.py": "from .b import x", "b.py": "\n1 / 0"}, "b.py, line 2: ZeroDivisionError"),
        ("\na.missing", {"a.py": "x = 1"}, "model_7.py, line 8: AttributeError"),
        ("", {}, "model_7.py, line 7: ImportError: cannot import name 'a' .*: there is no a.py"),
        ("\nimport experiments.b", {"a.py": ""}, "line 8: ModuleNotFoundError: there is no b.py"),
        ("\nfrom .a import x", {"a.py": ""}, "model_7.py, line 8: ImportError: .* name 'x'"),
        ("\nfrom ... import x", {"a.py": ""}, "model_7.py, line 8: ImportError: .* beyond top-lev"),
        (
            "",
            {"a.py": "\nfrom experiments.b import x", "b.py": "from experiments.a import y"},
            "b.py, line 1: ImportError: cannot import name 'y' from experiments.a, which is not",
        ),
        ("\neval('1 +')", {"a.py": ""}, "model_7.py, line 8: SyntaxError"),
    ],
)
def test_an_error_names_the_innermost_line(
    main: str, files: dict[str, str], said: str, tmp_path: Path
) -> None:
    main = f"from experiments import a{main}\n{NETWORK}"
    with pytest.raises(ExpectedError, match=said):
        raise ExpectedError(refusal(tmp_path, main, files))


def test_a_helper_that_is_no_text_or_too_deep_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, f"from experiments import a\n{NETWORK}", {})
    (tmp_path / "a.py").write_bytes(b"\xff\xfe")
    with pytest.raises(ExpectedError, match=r"a\.py cannot be read"):
        entries.read_entry(7, tmp_path)
    (tmp_path / "a.py").write_text("x = " + "-" * 100_000 + "1")
    with pytest.raises(ExpectedError, match=r"a\.py: the code is nested too deeply"):
        entries.read_entry(7, tmp_path)


UNREAD = {
    "by its name": "import importlib\nimportlib.import_module('experiments.a')",
    "by a text": "__import__('experiments.a')",
    "by its path": "import runpy\nrunpy.run_path(__file__.replace('model_7', 'a'))",
    "by a loader": "from importlib.util import *\n"
    "spec = spec_from_file_location('a', __file__.replace('model_7', 'a'))\n"
    "spec.loader.exec_module(module_from_spec(spec))",
    "as text": "from pathlib import Path\neval(Path(__file__).with_name('a.py').read_text())",
    "by sys.path": "import sys, pathlib; sys.path.insert(0, str(pathlib.Path(__file__).parent))\n"
    "import a",
    "of the benchmarks": "import benchmarks.tried",
    "of the tests": "from tests.support import waiting",
}


@pytest.mark.parametrize("how", UNREAD)
def test_code_that_no_run_would_keep_is_refused(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    said = refusal(tmp_path, f"{UNREAD[how]}\n{NETWORK}", {"a.py": "raise SystemExit('it ran')"})
    line = 6 + len(UNREAD[how].splitlines())
    assert said.startswith(f"model_7.py, line {line}: "), said
    assert "code that no run would keep" in said or "cannot be found by reading" in said
    assert "it ran" not in said


@pytest.mark.parametrize(
    "read",
    [
        "open('{0}').read()", "Path('{0}').read_text()", "json.load(open('{0}', 'r+'))",
        "np.loadtxt('{0}')", "torch.load('{0}')",
    ],
)  # fmt: skip
def test_data_that_no_run_would_keep_is_refused(read: str, tmp_path: Path) -> None:
    data = tmp_path / "widths.json"
    data.write_text("3")
    begin = "import json\nfrom pathlib import Path\nimport numpy as np\nimport torch\n"
    said = refusal(tmp_path, f"{begin}{read.format(data)}\n{NETWORK}", {})
    assert said.startswith("model_7.py, line 11: ImportError: ")
    assert "ImportError: widths.json is data that no run would keep" in said


def test_files_may_be_written_and_folders_looked_at(tmp_path: Path) -> None:
    log, other = tmp_path / "log.txt", tmp_path.parent / "of_the_machine.txt"
    other.write_text("not of the checkout")
    lines = (
        "import os\nfrom pathlib import Path\n"
        f"Path('{log}').write_text('x')\nos.listdir('{tmp_path}')\nPath('{other}').read_text()"
    )
    load(tmp_path, f"{lines}\n{NETWORK}{RECIPE}", {})
    assert log.read_text() == "x"


def test_code_that_another_program_imported_before_is_refused(tmp_path: Path) -> None:
    assert "waiting" in sys.modules or __import__("waiting")  # a module of tests/support
    said = refusal(tmp_path, f"\nimport waiting\n{NETWORK}", {})
    assert said.startswith("model_7.py, line 8: ImportError: tests/support/waiting.py is code that")


def test_a_helper_that_is_reached_in_training_by_its_path_is_refused(tmp_path: Path) -> None:
    main = (
        "\ndef network():\n    import runpy\n    return runpy.run_path(__file__)\nNetwork = network"
    )
    recipe = load(tmp_path, f"{main}\n{RECIPE}", {}).recipe
    with pytest.raises(ImportError, match=r"model_7\.py is code that no run would keep") as raised:
        recipe.network()
    assert loading.where(raised.value, Path("some")).startswith(f"{tmp_path}/model_7.py, line 10: ")


@pytest.mark.parametrize("call", ["exec('x = 1')", "compile('1', '', 'eval')"])
def test_text_is_not_run_as_code(call: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, f"{call}\n{NETWORK}", {})
    assert said.startswith("model_7.py, line 7: ImportError: exec and compile run code that no run")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("from mnist_exp import data", "mnist_exp.data is not for the notebook"),
        ("from mnist_exp.training.loop import Training", "mnist_exp.training is not for"),
        ("import mnist_exp.runs.plan", "mnist_exp.runs is not for the notebook"),
        ("from mnist_exp import *", "is not for the notebook"),
        ("import mnist_exp; mnist_exp.tracking", "has no attribute 'tracking'"),
    ],
)
def test_of_the_package_only_the_vocabulary_is_imported(
    line: str, said: str, tmp_path: Path
) -> None:
    refused = refusal(tmp_path, f"{line}\n{NETWORK}", {})
    assert refused.startswith("model_7.py, line 7: ")
    assert said in refused


def test_the_vocabulary_is_imported_in_any_way(tmp_path: Path) -> None:
    ways = """
import mnist_exp.augment as a, mnist_exp.views
from mnist_exp import augment, preprocess
from mnist_exp.augment import RandomRotation
assert a is augment and augment.RandomRotation is RandomRotation
assert mnist_exp.views.Rotations
"""
    assert load(tmp_path, ways + NETWORK, {}).helpers == {}


def test_the_target_may_import_too(tmp_path: Path) -> None:
    source = (ROOT / "experiments" / "target.py").read_text()
    own = source.replace("0.994", "BAR").replace(
        "\nTARGET", "from experiments.bar import BAR\nTARGET"
    )
    write(tmp_path, "", {"target.py": own, "bar.py": "BAR = 0.5"})
    assert loading.load_target(tmp_path).test_accuracy == 0.5
    (tmp_path / "bar.py").write_text("\n1 / 0")
    with pytest.raises(ExpectedError, match=r"bar\.py, line 2: ZeroDivisionError"):
        loading.load_target(tmp_path)
