"""What decides the numbers of a run beside its recipe and seed."""

import ast
import importlib.util
import inspect

from mnist_exp.runs import environment


def is_module(name: str) -> bool:
    """Whether a dotted name is that of a module, and not of what a module holds."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_all_code_that_takes_part_in_a_training_is_hashed() -> None:
    hashed = {module.__name__ for module in environment.TRAINING_CODE}
    imported = set()
    for module in environment.TRAINING_CODE:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mnist_exp"):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                modules = {name for name in names if is_module(name)}
                imported |= modules or {node.module}
    # The face of the data, where they come from, what their folds are called, which a run records,
    # the errors, what is asked for, and the compiled library, which has a hash of its own.
    others = {
        "mnist_exp.common.errors",
        "mnist_exp.data",
        "mnist_exp.data.obtain",
        "mnist_exp.data.splits",
        "mnist_exp.engine.library",
        "mnist_exp.recipe",
    }
    assert imported - hashed <= others
    assert "mnist_exp.data.obtain" not in hashed  # another mirror is no other training
