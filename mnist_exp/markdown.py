"""Texts that are shown as Markdown: descriptions of runs, and tables."""

import re
from typing import Any

import pandas as pd

from mnist_exp.common.words import printable
from mnist_exp.evidence.verdict import RunVerdict
from mnist_exp.recipe import SECTIONS, Entry


def escape(text: str) -> str:
    """Text in one line, shown as it is and read neither as Markdown nor as HTML."""
    text = printable(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|\[\]*_~$`])", r"\\\1", text)


def run_description(iteration: Entry, summary: str, details: str = "") -> str:
    """What a run is about and how it ended, as the tracking UI shows it.

    The UI folds all but the first lines: `summary` comes first, `details` last.
    """
    title = f"## Model {iteration.number}: {escape(iteration.title)}"
    sections = [f"**{name}:** {escape(iteration.sections[name])}" for name in SECTIONS]
    return "\n\n".join(filter(None, [title, summary, *sections, details]))


def table(texts: pd.DataFrame) -> str:
    """A table of texts."""
    rows: Any = [texts.columns, ["---"] * len(texts.columns), *texts.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(escape, row))} |" for row in rows)


def verdict_table(verdict: RunVerdict) -> str:
    """A verdict, condition by condition."""
    rows = [
        f"| {condition.name} | {condition.measured} | {'yes' if condition.met else '**no**'} |"
        for condition in verdict.conditions
    ]
    return "\n".join(["| condition | measured | met |", "|---|---|---|", *rows])
