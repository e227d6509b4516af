"""What the system says of the processor."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mnist_exp.common import processor

X86 = """\
processor	: 0
vendor_id	: AuthenticAMD
cpu family	: 25
model		: 97
model name	: AMD Ryzen 9 7950X 16-Core Processor
cpu MHz		: 4500.000
flags		: fpu sse2 avx2
"""
ARM = """\
processor	: 0
BogoMIPS	: 243.75
Features	: fp asimd
CPU implementer	: 0x41
CPU part	: 0xd0c
"""


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    processor.processor.cache_clear()
    yield
    processor.processor.cache_clear()


@pytest.mark.parametrize(
    ("text", "name", "instructions"),
    [
        (
            X86 + "\n" + X86, "AMD Ryzen 9 7950X 16-Core Processor, family 25, model 97",
            "fpu sse2 avx2",
        ),
        (ARM, "implementer 0x41, part 0xd0c", "fp asimd"),
        ("", "unknown", ""),
    ],
)  # fmt: skip
def test_linux_tells_the_processor(
    text: str, name: str, instructions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(text)
    assert processor.processor() == name
    assert processor.instruction_sets() == instructions


def test_elsewhere_python_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(processor.platform, "processor", lambda: "arm")
    assert processor.processor() == "arm"
