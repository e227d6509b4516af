"""Where the code of a script is, and what the package gives to scripts."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mnist_exp
from mnist_exp.scripts import origin

ASKING = "from mnist_exp.scripts.origin import calling_code\nfound = calling_code()\n"


def asked(file: str, **names: Any) -> tuple[str, str]:
    """What is found for code of that file."""
    names["__name__"] = "__main__"
    exec(compile(ASKING, file, "exec"), names)
    found: tuple[str, str] = names["found"]
    return found


def test_a_script_is_known_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(ASKING)
    assert asked(str(file)) == (str(file), ASKING)
    file.write_text("#" * (origin.LARGEST + 1))
    assert asked(str(file)) == (str(file), "")


def test_a_notebook_is_its_cells_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    cells = ["", "net = Net()", "with track(...)"]
    name, text = asked("/tmp/ipykernel_1/2.py", get_ipython=print, In=cells)
    assert name == "notebook"
    assert text == "# In [1]\nnet = Net()\n\n# In [2]\nwith track(...)\n"


def test_a_prompt_has_no_file() -> None:
    assert asked("<stdin>") == ("", "")


def test_the_package_is_imported_at_once_and_the_rest_when_it_is_asked_for() -> None:
    looking = """
import sys, mnist_exp
assert mnist_exp.ROOT.is_dir()
assert not {"torch", "mlflow", "pandas"} & set(sys.modules)
from mnist_exp import load_digits
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", looking], check=True)
    with pytest.raises(AttributeError, match="module 'mnist_exp' has no attribute 'trak'"):
        _ = mnist_exp.trak
