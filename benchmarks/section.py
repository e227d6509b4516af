"""RESULTS.md: a section for each benchmark, which it replaces when it is run again."""

import platform
import re
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import psutil

from mnist_exp import ROOT, markdown

FILE = Path(__file__).with_name("RESULTS.md")
HEAD = """# What is fast, and how fast

Written by `make bench`, on the machine that each section names. Times are medians; a ratio is the
median of the ratios within a round, with the lowest and the highest.
"""


@dataclass
class Section:
    """What a benchmark found: text, tables, and the goals that were missed, one line each (None
    where it has no goals)."""

    title: str
    text: str
    tables: list[pd.DataFrame] = field(default_factory=list)
    missed: list[str] | None = None

    def __str__(self) -> str:
        parts = [self.text, *map(markdown.table, self.tables)]
        if self.missed is not None:
            missed = "\n".join(f"- Missed: {line}." for line in self.missed)
            parts.append(missed or "Every goal is kept.")
        parts.append(_circumstances())
        return f"## {self.title}\n\n" + "\n\n".join(part.strip() for part in parts) + "\n"


def write(section: Section) -> None:
    """Put a section into RESULTS.md, in the place of the one with its title."""
    text = FILE.read_text() if FILE.exists() else HEAD
    own = rf"^## {re.escape(section.title)}\n.*?(?=^## |\Z)"
    rest = re.sub(own, "", text, flags=re.DOTALL | re.MULTILINE)
    FILE.write_text(f"{rest.rstrip()}\n\n{section}")


def _circumstances() -> str:
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    versions = [f"{name} {version(name)}" for name in ("torch", "torchvision", "mlflow", "numpy")]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit or 'unknown'}, {_processor()}, "
        f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GB, "
        f"Python {platform.python_version()}, {', '.join(versions)}."
    )


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except FileNotFoundError:
        found = None
    return found[1] if found else platform.processor()
