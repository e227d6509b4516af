"""A new iteration begins as a copy."""

import re
from pathlib import Path

import pytest

from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import entries, loading
from mnist_exp.notebook.new import ANALYSIS, create

FIVE = entries.path(5).read_text()
VALID = FIVE.replace("Model 5:", "Model 7:")


def test_a_new_iteration_is_a_copy_under_its_own_number(tmp_path: Path) -> None:
    (tmp_path / "model_5.py").write_text(FIVE)
    created = create(7, 5, tmp_path)
    head, analysis, rest = re.split(r"(Analysis: .*?\n)(?=\"\"\")", VALID, flags=re.DOTALL)
    assert analysis != ANALYSIS
    assert created.read_text() == head + ANALYSIS + rest
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
