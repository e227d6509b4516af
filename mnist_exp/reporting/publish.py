"""The record in the repository: the evidence that travels with git.

`experiments/results/` holds the runs that count, and those by which candidates were chosen, as
CSV, with the figures and the candidates themselves; `experiments/RESULTS.md` and a table in the
README show them. Written from a store; `enter` enters them into another.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from mnist_exp import ROOT, tracking
from mnist_exp.common import markdown
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import percent
from mnist_exp.evidence import mistakes
from mnist_exp.evidence.comparison import Comparison, nearest
from mnist_exp.evidence.mistakes_archive import write_archive
from mnist_exp.notebook import candidates, entries
from mnist_exp.notebook.candidates import Candidate
from mnist_exp.notebook.code_hash import has_code
from mnist_exp.notebook.entries import EXPERIMENTS
from mnist_exp.notebook.loading import load_iteration
from mnist_exp.reporting.answer import summary
from mnist_exp.reporting.contents import contents_of
from mnist_exp.reporting.networks import Field, as_a_run_writes_it
from mnist_exp.reporting.page import as_markdown
from mnist_exp.reporting.pictures import write_figures
from mnist_exp.showing.tables import plain

PAGES = ("steps", "candidates", "receptive_fields", "mistakes", "course_figures")
"""What `RESULTS.md` leads to, in `results/`: a template each."""
MARK, END = "<!-- made by make results -->", "<!-- end of what make results made -->"
"""Between these the README has its table."""


def publish(comparison: Comparison, folder: Path = EXPERIMENTS) -> Path:
    """Write `RESULTS.md` and `results/` to `folder` from the runs that count, and those by which
    candidates were chosen; returns the page.

    Raises ExpectedError when none counts, or when the store lacks published runs that still count
    or served to choose: they would be lost.
    """
    counting, trials = comparison.counting, comparison.validation_runs
    if counting.empty:
        raise ExpectedError("no run in the store counts, so there is no result: make compare")
    archive = tracking.archive([*counting["run_id"], *trials["run_id"]])
    lost = _lost(archive, folder / "results" / "runs.csv")
    if lost:
        raise ExpectedError(
            f"{lost} published runs are not in the store, and would be lost: make import first"
        )
    contents = contents_of(comparison)
    # Beside the old results, which stay until the new ones are complete.
    new, results = folder / "results.new", folder / "results"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    archive.to_csv(new / "runs.csv", index=False)
    _write_history(comparison, archive, new)
    _write_fields(contents.fields, new)
    _write_mistakes(comparison, new / "mistakes")
    tried = _candidates(comparison, results / candidates.FILE.name)
    candidates.write(tried, new / candidates.FILE.name)
    write_figures(contents.pictures, new / "figures", ("png",))
    for name in PAGES:
        text = as_markdown(f"{name}.md.j2", contents, "figures")
        (new / f"{name}.md").write_text(text, encoding="utf-8")
    text = as_markdown("results.md.j2", contents, "results/figures")
    shutil.rmtree(results, ignore_errors=True)
    new.rename(results)
    page = folder / "RESULTS.md"
    page.write_text(text, encoding="utf-8")
    return page


def write_summary(comparison: Comparison, readme: Path = ROOT / "README.md") -> None:
    """Put the table of iterations between the marks of the README."""
    markdown.fill(readme, MARK, f"\n{_summary(comparison)}\n", END)


def _summary(comparison: Comparison) -> str:
    """How many iterations meet the target, and what came of each, as a Markdown table."""
    from mnist_exp.training.classifier import count_parameters  # with torch, only where it is used

    verdicts = {verdict.model: verdict for verdict in comparison.verdicts}
    last = f"worst of the last {comparison.target.last_epochs} epochs"
    names = ["model", "idea", "parameters", "seeds that meet the target", last]
    lines = [names, ["---"] * len(names)]
    for number in entries.numbers():
        cells = ["not run" if number in comparison.unrun else "no run counts", "–"]
        if verdict := verdicts.get(number):
            worst = percent(verdict.worst.accuracy) if verdict.worst else "–"
            cells = [f"{verdict.passing} of {len(verdict.seeds)}", worst]
        iteration = load_iteration(number)
        parameters = count_parameters(iteration.recipe.network())
        link = f"[{number}](experiments/model_{number}.py)"
        lines.append([link, markdown.escape(iteration.title), f"{parameters:,}", *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in lines)
    return f"**{summary(comparison.verdicts, comparison.verdicts)}**\n\n{table}"


def _lost(archive: pd.DataFrame, published: Path) -> int:
    """How many of the published runs were made with the code as it is, or served to choose, and are
    not in `archive`."""
    if not published.is_file():
        return 0
    before = pd.read_csv(published, dtype=str)
    on_test = before["params.split"] == "test"
    current = {entries.read_entry(number).code_sha256 for number in entries.numbers()}
    counting = before[on_test & before["tags.code_sha256"].isin(current)]
    lost_trials = ~before.loc[~on_test, "run_id"].isin(archive["run_id"])
    settings = ["params.model", "params.seed"]  # a newer run of a seed takes the place of another
    tested = archive.loc[archive["params.split"] == "test", settings]
    in_store = set(tested.itertuples(index=False, name=None))
    keys = counting[settings].itertuples(index=False, name=None)
    return sum(key not in in_store for key in keys) + int(lost_trials.sum())


def _write_history(comparison: Comparison, archive: pd.DataFrame, folder: Path) -> None:
    """Write the epochs of the archived runs, under the ids that the archive has: in the store a run
    that was imported has another."""
    entered = comparison.runs.set_index("run_id")["imported_from"].dropna()
    originals = comparison.history["run_id"].replace(entered.to_dict())
    history = comparison.history.assign(run_id=originals)
    history = history[history["run_id"].isin(archive["run_id"])]
    history.to_csv(folder / "history.csv", index=False)


def _write_fields(fields: tuple[Field, ...], folder: Path) -> None:
    """Write the receptive-field tables of all iterations below each other."""
    tables = {number: field.table for field in fields for number in field.numbers}
    empty = pd.DataFrame(columns=["model", "layer"])
    ordered = dict(sorted(tables.items()))
    table = pd.concat(ordered, names=["model"]).reset_index("model") if ordered else empty
    table.to_csv(folder / "receptive_field.csv", index=False)


def _write_mistakes(comparison: Comparison, folder: Path) -> None:
    """Write what the runs that count get wrong, under the ids that the archive has."""
    found = {}
    rows: Any = comparison.counting.itertuples()
    for run in rows:
        with as_a_run_writes_it(run.run_id):
            own = mistakes.mistakes_of(run.run_id)
        if own:
            found[run.run_id if pd.isna(run.imported_from) else run.imported_from] = own
    if found:
        write_archive(found, folder)


def _candidates(comparison: Comparison, published: Path) -> list[Candidate]:
    """The candidates that are published, and those of the store of which a run holds the source:
    without it none could be trained again."""
    known = {}
    if published.is_file():
        known = {
            candidate.code_sha256: candidate for candidate in candidates.read_candidates(published)
        }
    rows: Any = comparison.validation_runs.itertuples()
    for run in rows:
        if run.code_sha256 not in known:
            source, helpers = tracking.source(run.run_id, int(run.model)) or ("", {})
            if has_code(source, run.code_sha256, helpers):
                known[run.code_sha256] = Candidate(
                    code_sha256=run.code_sha256, idea=plain(run.idea), nearest=0, source=source,
                    helpers=helpers or None,
                )  # fmt: skip
    iterations = {number: entries.read_entry(number) for number in entries.numbers()}
    return [
        dataclasses.replace(candidate, nearest=nearest(candidate.entry, iterations))
        for candidate in known.values()
    ]
