"""Reading iterations from their files."""

import re
from functools import partial
from pathlib import Path

import pytest
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from mnist_exp.augment import RandomRotation
from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import code_hash, entries, loading
from mnist_exp.notebook.new import UNWRITTEN, create
from mnist_exp.preprocess import Deslant
from mnist_exp.recipe import ExponentialAverage, Recipe
from mnist_exp.views import Rotations

FIVE = entries.path(5).read_text()
VALID = FIVE.replace("Model 5:", "Model 7:")


def write(folder: Path, source: str) -> Path:
    (folder / "model_7.py").write_text(source)
    return folder


def test_hyperparameters_have_readable_names() -> None:
    made = Recipe(
        network=nn.Identity,
        batch_size=32,
        epochs=3,
        optimizer=partial(SGD, lr=0.02, momentum=0.9),
        schedule=partial(StepLR, step_size=6, gamma=0.1),
        augment=RandomRotation(degrees=7),
        preprocess=Deslant(),
        averaging=ExponentialAverage(decay=0.99, every=5),
        views=Rotations(degrees=(-8, 8)),
    )
    assert made.hyperparameters() == {
        "network": "Identity",
        "batch_size": 32,
        "epochs": 3,
        "optimizer": "SGD",
        "learning_rate": 0.02,
        "optimizer.momentum": 0.9,
        "schedule": "StepLR",
        "schedule.step_size": 6,
        "schedule.gamma": 0.1,
        "augment": "RandomRotation",
        "augment.degrees": 7,
        "preprocess": "Deslant",
        "batch_schedule": "none",
        "averaging": "ExponentialAverage",
        "averaging.decay": 0.99,
        "averaging.every": 5,
        "views": "Rotations",
        "views.degrees": (-8, 8),
    }


def test_what_a_recipe_leaves_out_is_recorded_as_none() -> None:
    made = Recipe(network=nn.Identity, batch_size=1, epochs=1, optimizer=partial(SGD, lr=1))
    assert made.hyperparameters()["schedule"] == "none"
    assert made.hyperparameters()["augment"] == "none"


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": -1}, {"epochs": 1.5}])
def test_an_impossible_recipe_is_refused(wrong: dict[str, float]) -> None:
    right = {"network": nn.Identity, "batch_size": 1, "epochs": 1, "optimizer": SGD}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**(right | wrong))


def test_the_docstring_is_read_by_section(tmp_path: Path) -> None:
    folder = write(tmp_path, VALID)
    loaded = loading.load_iteration(7, folder)
    assert loaded.title == "rotate the training images"
    assert loaded.sections["Target"] == "narrow the gap between train and test accuracy."
    assert list(loaded.sections) == ["Target", "Change", "Expect", "Analysis"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (VALID.replace("RECIPE =", "recipe ="), "has no RECIPE"),
        (VALID.replace("Expect:", "Hope:"), "lacks Expect"),
        (VALID.replace("Model 7:", "The seventh"), "lacks the title line"),
        (FIVE, "lacks the title line 'Model 7: ...'"),
        (VALID.split('"""')[2], "lacks the title line .*, Target, Change, Expect, Analysis"),
        (VALID + "\nif True print()\n", r"model_7.py, line \d+: syntax error"),
        (VALID + "\nundefined\n", r"model_7.py, line \d+: NameError: name 'undefined'"),
        (VALID.replace("epochs=15", "epochs=0"), r"line \d+: ValueError: epochs must be"),
        ("import not_there", "line 1: ModuleNotFoundError"),
        ("import sys\nsys.exit(0)", "line 2: SystemExit: 0"),
        ("RECIPE = 5", "has no RECIPE"),
        ("\0", "syntax error|null bytes"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, source: str, message: str) -> None:
    folder = write(tmp_path, source)
    with pytest.raises(ExpectedError, match=message) as raised:
        loading.load_iteration(7, folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("first", ["", "from __future__ import annotations\n"])
def test_an_iteration_may_define_a_dataclass(tmp_path: Path, first: str) -> None:
    own = """
import dataclasses

@dataclasses.dataclass(frozen=True)
class Nothing:
    amount: float

    def __call__(self, images, generator):
        return images

RECIPE = dataclasses.replace(RECIPE, augment=Nothing(0))
"""
    source = VALID.replace("\nfrom functools", f"\n{first}from functools", 1) + own
    loaded = loading.load_iteration(7, write(tmp_path, source))
    assert loaded.recipe.hyperparameters()["augment.amount"] == 0
    assert first in source


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "model_7.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExpectedError, match="cannot be read"):
        loading.load_iteration(7, tmp_path)


def test_a_missing_iteration_names_those_there_are() -> None:
    with pytest.raises(ExpectedError, match=r"there is no experiments/model_99.py.* 1, 2, 3"):
        loading.load_iteration(99)


def test_the_code_hash_ignores_docstrings_comments_and_layout() -> None:
    analysed = VALID.replace("Analysis: ", "Analysis: rotation helps. ")
    commented = VALID.replace("RECIPE =", "# a comment\n\nRECIPE =")
    changed = VALID.replace("degrees=7", "degrees=8")
    assert VALID not in (analysed, commented, changed)
    expected = code_hash.code_sha256(VALID)
    assert code_hash.code_sha256(analysed) == expected
    assert code_hash.code_sha256(commented) == expected
    assert code_hash.code_sha256(changed) != expected


def test_a_string_that_is_no_docstring_counts() -> None:
    assert code_hash.code_sha256("x = 'a'") != code_hash.code_sha256("x = 'b'")
    assert code_hash.code_sha256("def f():\n 'a'") == code_hash.code_sha256("def f():\n 'b'")


def test_a_new_iteration_is_a_copy_under_its_own_number(tmp_path: Path) -> None:
    (tmp_path / "model_5.py").write_text(FIVE)
    created = create(7, 5, tmp_path)
    head, analysis, rest = re.split(r"(Analysis: .*?\n)(?=\"\"\")", VALID, flags=re.DOTALL)
    assert analysis != UNWRITTEN
    assert created.read_text() == head + UNWRITTEN + rest
    assert (
        loading.load_iteration(7, tmp_path).code_sha256
        == loading.load_iteration(5, tmp_path).code_sha256
    )


def test_a_new_iteration_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "model_5.py").write_text(FIVE)
    (tmp_path / "model_7.py").write_text("precious")
    with pytest.raises(ExpectedError, match="is there already"):
        create(7, 5, tmp_path)
    assert (tmp_path / "model_7.py").read_text() == "precious"


def test_a_copy_of_what_is_no_text_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "model_5.py").write_bytes(b"\xff\xfe")
    with pytest.raises(ExpectedError, match="cannot be read"):
        create(7, 5, tmp_path)
    assert not (tmp_path / "model_7.py").exists()


def test_a_copy_needs_an_original(tmp_path: Path) -> None:
    with pytest.raises(ExpectedError, match=r"FROM=5: the iterations to copy from are none"):
        create(7, 5, tmp_path)
    assert not list(tmp_path.iterdir())
