"""A report as a page that holds everything itself, and as Markdown."""

import base64
import hashlib
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup

from mnist_exp.common import markdown
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import percent, points
from mnist_exp.evidence.comparison import Comparison
from mnist_exp.evidence.verdict import JUDGING, as_frame
from mnist_exp.reporting.contents import Contents, contents_of
from mnist_exp.reporting.layout import CHAIN, Layout
from mnist_exp.reporting.pictures import write_figures

MOST_EMBEDDED = 2_000_000
"""Bytes of a table that the page holds itself; a larger one stays beside it."""


def write_page(comparison: Comparison, page: Path, layout: Layout = CHAIN) -> Path:
    """Write a page and, to a folder beside it, its Markdown, figures and tables; returns the page.

    The folder of `class.html` is `class_files`.
    """
    folder = page.with_name(f"{page.stem}_files")
    folder.mkdir(parents=True, exist_ok=True)
    contents = contents_of(comparison, layout)
    described = _tables(comparison, contents)
    for name, (table, _) in described.items():
        table.to_csv(folder / name, index=False)
    files = [
        {"name": name, "what": what, **_embedded(folder / name)}
        for name, (_, what) in described.items()
    ]
    shutil.rmtree(folder / "figures", ignore_errors=True)  # those of an earlier report
    write_figures(contents.pictures, folder / "figures", ("svg", "png"))
    text = as_markdown("comparison.md.j2", contents, "figures")
    (folder / f"{page.stem}.md").write_text(text, encoding="utf-8")
    page.write_text(_as_html(contents, files), encoding="utf-8")
    return page


def refuse_place(page: Path) -> None:
    """Raise ExpectedError where no page can be, before anything is worked out for it."""
    above = next((folder for folder in page.absolute().parents if folder.exists()), page)
    if page.suffix.lower() not in (".html", ".htm") or page.is_dir() or not above.is_dir():
        raise ExpectedError(
            f"OUT={page}: the name of a page is needed, as in OUT=reports/class.html; its figures "
            "and tables go to a folder beside it, reports/class_files"
        )


def _as_html(contents: Contents, files: list[dict[str, str]]) -> str:
    """The page. It holds a script, and says by its hash that no other may run."""
    templates = _templates(_unbroken)
    script, _, _ = templates.loader.get_source(templates, "page.js")  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return templates.get_template("comparison.html.j2").render(
        report=contents, files=files, percent=percent, points=points, script=Markup(script),
        script_hash=f"sha256-{digest}", numbers=[row.number for row in contents.rows],
    )  # fmt: skip


def _tables(comparison: Comparison, contents: Contents) -> dict[str, tuple[pd.DataFrame, str]]:
    """The tables of a report and what they are, by the names of their files."""
    runs = comparison.runs_on_split
    history = comparison.history[comparison.history["run_id"].isin(runs["run_id"])]
    verdicts = as_frame(comparison.verdicts)
    if comparison.split != "test":
        verdicts = verdicts.drop(columns=list(JUDGING))
    tables = {
        "verdicts.csv": (verdicts, "one row per iteration"),
        "runs.csv": (runs, "one row per run, with its scores and why it does not count"),
        "history.csv": (history, "one row per run and epoch"),
    }
    if "tried" in contents.headings:
        what = "one row per recipe and fold that it was tried on"
        tables["candidates.csv"] = comparison.candidates, what
    return tables


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


def _embedded(file: Path) -> dict[str, str]:
    """Where the page has a file: its address, and the content as an address if it is not large."""
    content = file.read_bytes()
    data = f"data:text/csv;base64,{base64.b64encode(content).decode()}"
    address = quote(f"{file.parent.name}/{file.name}")
    return {"uri": data if len(content) <= MOST_EMBEDDED else "", "address": address}


def _unbroken(value: Any) -> Any:
    """A percent sign stays on the line of its number."""
    return value.replace(" %", "\N{NO-BREAK SPACE}%") if isinstance(value, str) else value


def _markdown(value: object) -> Markup:
    """Any value as Markdown that shows it as it is."""
    return value if isinstance(value, Markup) else Markup(markdown.escape(str(value)))
