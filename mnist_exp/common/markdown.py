"""Texts that are shown as Markdown: descriptions of runs, tables, and parts of pages."""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import printable


def escape(text: str) -> str:
    """Text in one line, shown as it is and read neither as Markdown nor as HTML."""
    text = printable(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|\[\]*_~$`])", r"\\\1", text)


def as_table(texts: pd.DataFrame) -> str:
    """A table of texts."""
    rows: Any = [texts.columns, ["---"] * len(texts.columns), *texts.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(escape, row))} |" for row in rows)


def fill(page: Path, mark: str, text: str, end: str) -> None:
    """Put text between two marks of a page.

    Raises ExpectedError where the page lacks them.
    """
    before, _, rest = page.read_text(encoding="utf-8").partition(mark)
    _, has_end, after = rest.partition(end)
    if not has_end:
        raise ExpectedError(f"{page.name} has no place for the results: restore {mark} and {end}")
    page.write_text(f"{before}{mark}{text}{end}{after}", encoding="utf-8")
