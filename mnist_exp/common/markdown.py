"""Texts that are shown as Markdown: descriptions of runs, and tables."""

import re
from typing import Any

import pandas as pd

from mnist_exp.common.words import printable


def escape(text: str) -> str:
    """Text in one line, shown as it is and read neither as Markdown nor as HTML."""
    text = printable(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|\[\]*_~$`])", r"\\\1", text)


def as_table(texts: pd.DataFrame) -> str:
    """A table of texts."""
    rows: Any = [texts.columns, ["---"] * len(texts.columns), *texts.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(escape, row))} |" for row in rows)
