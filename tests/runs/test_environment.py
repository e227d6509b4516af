"""What decides the numbers of a run beside its recipe and seed."""

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
