"""A report as a page that holds everything itself, and as Markdown."""

import base64
import shutil
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mnist_exp.common import markdown
from mnist_exp.evidence.comparison import Comparison
from mnist_exp.evidence.verdict import as_frame
from mnist_exp.reporting.contents import Contents, contents_of
from mnist_exp.reporting.pictures import write_figures

MOST_EMBEDDED = 2_000_000
"""Bytes of a table that the page holds itself; a larger one stays beside it."""


def write_page(comparison: Comparison, folder: Path) -> Path:
    """Write the page, its Markdown, figures and tables to `folder`; returns the page."""
    tables = {
        "verdicts.csv": (as_frame(comparison.verdicts), "one row per iteration"),
        "runs.csv": (comparison.runs, "one row per run, with its scores and why it does not count"),
        "history.csv": (comparison.history, "one row per run and epoch"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (table, _) in tables.items():
        table.to_csv(folder / name, index=False)
    files = [
        {"name": name, "what": what, "uri": _embedded(folder / name)}
        for name, (_, what) in tables.items()
    ]
    shutil.rmtree(folder / "figures", ignore_errors=True)  # those of an earlier report
    contents = contents_of(comparison)
    write_figures(contents.pictures, folder / "figures", ("svg", "png"))
    text = as_markdown("comparison.md.j2", contents, "figures")
    (folder / "comparison.md").write_text(text, encoding="utf-8")
    page = folder / "comparison.html"
    template = _templates(_unbroken).get_template("comparison.html.j2")
    page.write_text(template.render(report=contents, files=files), encoding="utf-8")
    return page


def as_markdown(template: str, contents: Contents, figures: str) -> str:
    """What a report says as Markdown, as a template lays it out; it finds its figures in the folder
    `figures`."""
    return _templates(_markdown).get_template(template).render(report=contents, figures=figures)


def _templates(finalize: Any) -> jinja2.Environment:
    """The templates; each value stands in them as `finalize` makes it."""
    loader = jinja2.PackageLoader("mnist_exp.reporting")
    undefined = jinja2.StrictUndefined
    return jinja2.Environment(
        loader=loader, undefined=undefined, autoescape=True, finalize=finalize,
        keep_trailing_newline=True,
    )  # fmt: skip


def _embedded(file: Path) -> str:
    content = file.read_bytes()
    if len(content) > MOST_EMBEDDED:
        return ""
    return f"data:text/csv;base64,{base64.b64encode(content).decode()}"


def _unbroken(value: Any) -> Any:
    """A percent sign stays on the line of its number."""
    return value.replace(" %", "\N{NO-BREAK SPACE}%") if isinstance(value, str) else value


def _markdown(value: object) -> Markup:
    """Any value as Markdown that shows it as it is."""
    return value if isinstance(value, Markup) else Markup(markdown.escape(str(value)))
