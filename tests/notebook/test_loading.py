"""The files of the notebook are read and run."""

from pathlib import Path

import pytest

from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import entries, loading

FIVE = entries.path(5).read_text()
VALID = FIVE.replace("Model 5:", "Model 7:")


def write(folder: Path, source: str) -> Path:
    (folder / "model_7.py").write_text(source)
    return folder


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
        (
            VALID.replace("epochs=15", "epoch=15"),
            r"argument 'epoch'; did you mean epochs\? a recipe has .*batch_size, epoch",
        ),
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


def test_what_is_run_is_what_is_recorded(tmp_path: Path) -> None:
    overwriting = VALID + "\nfrom pathlib import Path\nPath(__file__).write_text('RECIPE = 5')\n"
    loaded = loading.load_iteration(7, write(tmp_path, overwriting))
    assert entries.path(7, tmp_path).read_text() == "RECIPE = 5"
    assert loaded.source == loaded.entry.source == overwriting
    assert loaded.recipe.epochs == 15
