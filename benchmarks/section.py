"""RESULTS.md: a section for each benchmark, which it replaces when it is run again."""

import platform
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import psutil

from mnist_exp import ROOT
from mnist_exp.common import markdown
from mnist_exp.common.processor import processor
from mnist_exp.runs import checkout

FILE = Path(__file__).with_name("RESULTS.md")
README = ROOT / "README.md"
MARK, END = "<!-- made by python -m benchmarks agreement -->", "<!-- end of what it made -->"
"""Between these the README has the sentence of a section."""
HEAD = """# What is fast, and how fast

Written by `make bench`, on the machine and from the commit that each section names. Times are
medians; a ratio is the median of the ratios within a round, with the lowest and the highest.
"""


@dataclass
class Section:
    """What a benchmark found: text, tables, and the goals that were missed, one line each (None
    where it has no goals)."""

    title: str
    text: str
    tables: list[pd.DataFrame] = field(default_factory=list)
    missed: list[str] | None = None
    sentence: str | None = None
    """What the README says of it, on the one line that it has for that."""

    def __str__(self) -> str:
        parts = [self.text, *map(markdown.as_table, self.tables)]
        if self.missed is not None:
            missed = "\n".join(f"- Missed: {line}." for line in self.missed)
            parts.append(missed or "Every goal is kept.")
        parts.append(_circumstances())
        return f"## {self.title}\n\n" + "\n\n".join(part.strip() for part in parts) + "\n"


def write(section: Section) -> None:
    """Put a section into RESULTS.md, in the place of the one with its title, and list the goals
    that were missed, of all sections, on top; and its sentence into the README."""
    text = FILE.read_text() if FILE.exists() else ""
    sections = re.findall(r"^## .*?(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    kept = [own.strip() for own in sections if not own.startswith(f"## {section.title}\n")]
    kept.append(str(section).strip())
    missed = [
        f"- {own.splitlines()[0].removeprefix('## ')}: {line}"
        for own in kept
        for line in re.findall(r"^- Missed: (.*)", own, flags=re.MULTILINE)
    ]
    summary = "\n".join(["Goals that were missed:", "", *missed])
    FILE.write_text("\n\n".join([HEAD.strip(), *([summary] if missed else []), *kept]) + "\n")
    if section.sentence is not None:
        markdown.fill(README, MARK, section.sentence, END)


def _circumstances() -> str:
    commit = (checkout.commit() or "unknown")[:10]
    # But for the file that the section before has written.
    changed = [path for path, code in checkout.changes().items() if code != checkout.NEW]
    commit += "-dirty" if set(changed) - {"benchmarks/RESULTS.md"} else ""
    versions = [f"{name} {version(name)}" for name in ("torch", "torchvision", "mlflow", "numpy")]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}, {processor()}, "
        f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GB, "
        f"Python {platform.python_version()}, {', '.join(versions)}."
    )
