"""What decides the numbers of a run beside its recipe and seed."""

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnist_exp.runs import environment

X86 = """\
processor	: 0
vendor_id	: AuthenticAMD
cpu family	: 25
model		: 97
model name	: AMD Ryzen 9 7950X 16-Core Processor
cpu MHz		: 4500.000
"""
ARM = """\
processor	: 0
BogoMIPS	: 243.75
CPU implementer	: 0x41
CPU part	: 0xd0c
"""


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    environment.processor.cache_clear()
    yield
    environment.processor.cache_clear()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (X86 + "\n" + X86, "AMD Ryzen 9 7950X 16-Core Processor, family 25, model 97"),
        (ARM, "implementer 0x41, part 0xd0c"),
        ("", "unknown"),
    ],
)
def test_linux_tells_the_processor(
    text: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(text)
    assert environment.processor() == name


def test_elsewhere_python_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(environment.platform, "processor", lambda: "arm")
    assert environment.processor() == "arm"


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
    # The face of the data, where they come from, the errors, and what is asked for.
    others = {
        "mnist_exp.common.errors",
        "mnist_exp.data",
        "mnist_exp.data.obtain",
        "mnist_exp.recipe",
    }
    assert imported - hashed <= others
    assert "mnist_exp.data.obtain" not in hashed  # another mirror is no other training
