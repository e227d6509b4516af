"""What is set once in a process: for whoever imports the package, and for commands."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_exp import ROOT


def says(code: str, *options: str, **environment: str) -> str:
    """What a new process prints that runs the code, with `options` of Python's, and `environment`
    added to its own."""
    options = options or ("-W", "ignore")
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True,
        env=os.environ | environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("name", "value"), [("GOMP_SPINCOUNT", "1000"), ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")]
)
def test_torch_is_told_how_to_compute_unless_a_user_has(name: str, value: str) -> None:
    code = f"import mnist_exp, os; print(os.environ['{name}'])"
    assert says(f"import os; os.environ.pop('{name}', 0); {code}") == value
    assert says(code, **{name: "7"}) == "7"


def test_an_import_changes_nothing_else() -> None:
    code = """
import atexit, gc, logging, os, sys
before = dict(os.environ), gc.get_threshold(), atexit._ncallbacks()
import mnist_exp, mnist_exp.recipe, mnist_exp.notebook.entries, mnist_exp.evidence.effect
import mnist_exp.common.interrupts, mnist_exp.commands.cli
after = dict(os.environ), gc.get_threshold(), atexit._ncallbacks()
assert before == after, (before, after)
print(sorted({"torch", "mlflow", "matplotlib", "distributed"} & set(sys.modules)))
"""
    assert says(code, GOMP_SPINCOUNT="1000", CUBLAS_WORKSPACE_CONFIG=":4096:8") == "[]"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("mnist_exp.reporting.page", {"torch", "mlflow.pytorch"}),
        ("mnist_exp.runs.plan", {"torchvision", "mlflow.pytorch"}),
    ],
)
def test_a_command_loads_only_what_it_needs(module: str, absent: set[str]) -> None:
    """Reading needs no torch, and a run whose recipe names nothing of torchvision no torchvision:
    each takes a second or more."""
    assert says(f"import sys, {module}; print(sorted({absent} & set(sys.modules)))") == "[]"


def test_a_set_has_the_same_order_in_each_command() -> None:
    code = """
from mnist_exp.commands import cli
cli._obey = lambda words: print(hash("a"), words) or 0
cli.main()
"""
    assert len({says(code, PYTHONHASHSEED=seed) for seed in ("1", "2", "random")}) == 1


def test_a_warning_of_a_library_does_not_end_a_command() -> None:
    code = """
import warnings
from mnist_exp.common import startup
startup.of_command()
warnings.warn("will be removed", DeprecationWarning)
print("goes on")
"""
    assert says(code, "-W", "error") == "goes on"


@pytest.mark.slow
@pytest.mark.parametrize("screen", ["", ":99"])  # none, and one that is not there
def test_figures_are_drawn_and_logged_without_a_screen(
    screen: str, store: Path, tmp_path: Path
) -> None:
    code = f"""
import sys
import pandas as pd
from pathlib import Path
from mnist_exp import tracking
from mnist_exp.reporting.pictures import Picture, write_figures
from mnist_exp.notebook import loading
from mnist_exp.showing import iterations, one_run
from mnist_exp.tracking import names
columns = ["train_accuracy", "test_accuracy", "train_loss", "test_loss"]
history = pd.DataFrame({{"epoch": [1, 2]}} | dict.fromkeys(columns, [0.5, 0.6]))
curves = one_run.curves(history, "test", loading.load_target())
with tracking.start_run("drawn", {{}}, {{}}) as run:
    run.log_figure(curves, names.Figure.CURVES)
write_figures([Picture("curves", curves, "", "")], Path({str(tmp_path)!r}), ["svg", "png"])
print("tkinter" in sys.modules)
"""
    assert says(code, MPLBACKEND="TkAgg", DISPLAY=screen) == "False"
    (logged,) = (store / "artifacts").rglob("curves.png")
    for png in (logged, tmp_path / "curves.png"):
        assert png.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_a_command_in_a_notebook_draws_where_the_notebook_could_not() -> None:
    """A kernel names a backend of its own for matplotlib, and hands it to what it starts."""
    draw = "from mnist_exp.showing import style; print('imported')"
    code = f"""
from mnist_exp.common import startup
startup.of_command()
{draw}"""
    assert says(code, MPLBACKEND="module://not_installed_here.backend") == "imported"


def test_no_other_module_does_anything_when_it_is_imported() -> None:
    calls = set()
    for file in (ROOT / "mnist_exp").rglob("*.py"):
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                calls.add((file.relative_to(ROOT).as_posix(), ast.unparse(statement)))
    assert calls == {
        ("mnist_exp/__init__.py", "startup.at_import()"),
        ("mnist_exp/tracking/__init__.py", "start_up()"),
        ("mnist_exp/__main__.py", "sys.exit(main())"),  # which nobody imports
    }
