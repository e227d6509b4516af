"""The record in the repository: the evidence that travels with git.

`experiments/results/` holds the runs that count, and those by which candidates were chosen, as
CSV, with the figures and the source of each candidate; `experiments/RESULTS.md` and a table in the
README show them. Written from a store, and entered into a store again.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mnist_exp import ROOT, ExpectedError, markdown, report, tracking
from mnist_exp.common.words import percent
from mnist_exp.evidence.comparison import Comparison
from mnist_exp.notebook import code_hash, entries, loading
from mnist_exp.notebook.entries import EXPERIMENTS
from mnist_exp.showing.tables import short
from mnist_exp.tracking import names
from mnist_exp.tracking.names import Table

NEEDED = {"run_id", "run_name", "start_time", "end_time", "params.model"}
MARK, END = "<!-- made by make results -->", "<!-- end of what make results made -->"
"""Between these the README has its table."""
MISTAKES = (Table.CONFUSION_MATRIX, Table.MISCLASSIFIED)
"""The tables of the best run that are kept."""


@dataclass(frozen=True)
class Imported:
    """How many runs an import entered, and how many were there already."""

    entered: int
    present: int


def write(found: Comparison, folder: Path = EXPERIMENTS) -> Path:
    """Write `RESULTS.md` and `results/` to `folder` from the runs that count, and those by which
    candidates were chosen; returns the page.

    Raises ExpectedError when none counts, or when the store lacks published runs that still count
    or served to choose: they would be lost.
    """
    counting = found.counting
    if counting.empty:
        raise ExpectedError("no run in the store counts, so there is no result: make compare")
    archive = tracking.archive([*counting["run_id"], *found.trials["run_id"]])
    lost = _lost(archive, folder / "results" / "runs.csv")
    if lost:
        raise ExpectedError(
            f"{lost} published runs are not in the store, and would be lost: make import first"
        )
    # Beside the old results, which stay until the new ones are complete.
    new, results = folder / "results.new", folder / "results"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    archive.to_csv(new / "runs.csv", index=False)
    _write_history(found, archive, new)
    _write_fields(counting, new)
    _write_mistakes(found, new)
    _write_sources(found.trials, results / "sources", new / "sources")
    content = report.contents(found) | {"title": "Results"}
    report.write_figures(content["pictures"].values(), new / "figures", ("png",))
    text = report.as_markdown(content, "results/figures")
    shutil.rmtree(results, ignore_errors=True)
    new.rename(results)
    page = folder / "RESULTS.md"
    page.write_text(text, encoding="utf-8")
    return page


def write_summary(found: Comparison, readme: Path = ROOT / "README.md") -> None:
    """Put the table of iterations between the marks of the README."""
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARK)
    _, end, after = rest.partition(END)
    if not end:
        raise ExpectedError(f"README.md has no place for the results: restore {MARK} and {END}")
    table = _summary(found)
    readme.write_text(f"{before}{MARK}\n{table}\n{END}{after}", encoding="utf-8")


def enter(folder: Path = EXPERIMENTS) -> Imported:
    """Enter the runs of `folder`/results into the store, each once however often it is called.

    Raises ExpectedError when they are not there or cannot be read.
    """
    results = folder / "results"
    try:
        runs = pd.read_csv(results / "runs.csv", dtype=str)
        history = pd.read_csv(results / "history.csv", parse_dates=["time"])
        fields = pd.read_csv(results / "receptive_field.csv").convert_dtypes()
        archived: list[dict[str, str]] = [
            {str(key): value for key, value in row.dropna().items()} for _, row in runs.iterrows()
        ]
        ids = {row["run_id"] for row in archived}
        absent = {name for row in archived for name in NEEDED - row.keys()}
        mistakes = _read_mistakes(results / "best_run")
        kept = {file.stem: file.read_text("utf-8") for file in (results / "sources").glob("*.py")}
        if absent:
            raise KeyError(f"runs.csv lacks {', '.join(sorted(absent))}")
        ready = [
            tracking.archived_run(row, history[history["run_id"] == row["run_id"]])
            for row in archived
        ]
        # A run on the validation split speaks for no iteration, whose number it may share.
        models = fields["model"].astype(str)
        tables = [
            fields[(models == row["params.model"]) & (row.get("params.split") == "test")]
            for row in archived
        ]
        sources = [kept.get(short(row.get("tags.code_sha256", ""))) for row in archived]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ExpectedError(
            f"{results} cannot be imported: {reason}: restore it from git"
        ) from None
    tracking.open_store()  # which takes its turn by itself
    with tracking.only_one():
        there = tracking.runs()
        broken = there[there["imported_from"].isin(ids) & (there["status"] != "FINISHED")]
        for run_id in broken["run_id"]:  # of an import that was interrupted
            tracking.remove_run(run_id)
        there = there.drop(broken.index)
        present = ids & {*there["run_id"], *there["imported_from"]}
        for archived_run, field, source in zip(ready, tables, sources, strict=True):
            if archived_run.run_id not in present:
                with tracking.enter_run(archived_run) as run:
                    _enter_tables(run, archived_run.run_id, field, mistakes)
                    if source:
                        model = int(archived_run.params["model"])
                        run.log_text(source, names.source_file(model))
    return Imported(len(ids) - len(present), len(present))


def _summary(found: Comparison) -> str:
    """How many iterations meet the target, and what came of each, as a Markdown table."""
    from mnist_exp.training import classifier  # imports torch, which an import does without

    rows: Any = found.verdicts.itertuples()
    verdicts = {row.model: row for row in rows}
    last = f"worst of the last {found.target.last_epochs} epochs"
    names = ["model", "idea", "parameters", "seeds that meet the target", last]
    lines = [names, ["---"] * len(names)]
    for number in entries.numbers():
        cells = ["not run" if number in found.unrun else "no run counts", "–"]
        if own := verdicts.get(number):
            cells = [f"{own.passing} of {own.seeds}", percent(own.worst_accuracy)]
        iteration = loading.load_iteration(number)
        parameters = classifier.count_parameters(iteration.recipe.network())
        link = f"[{number}](experiments/model_{number}.py)"
        lines.append([link, markdown.escape(iteration.title), f"{parameters:,}", *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in lines)
    return f"**{report.summary(found)}**\n\n{table}"


def _lost(archive: pd.DataFrame, published: Path) -> int:
    """How many of the published runs were made with the code as it is, or served to choose, and are
    not in `archive`."""
    if not published.is_file():
        return 0
    before = pd.read_csv(published, dtype=str)
    on_test = before["params.split"] == "test"
    current = {entries.read(number).code_sha256 for number in entries.numbers()}
    counting = before[on_test & before["tags.code_sha256"].isin(current)]
    lost_trials = ~before.loc[~on_test, "run_id"].isin(archive["run_id"])
    settings = ["params.model", "params.seed"]  # a newer run of a seed takes the place of another
    tested = archive.loc[archive["params.split"] == "test", settings]
    there = set(tested.itertuples(index=False, name=None))
    keys = counting[settings].itertuples(index=False, name=None)
    return sum(key not in there for key in keys) + int(lost_trials.sum())


def _write_history(found: Comparison, archive: pd.DataFrame, folder: Path) -> None:
    # The runs' own ids may be those of an import.
    entered = found.runs.set_index("run_id")["imported_from"].dropna()
    originals = found.history["run_id"].replace(entered.to_dict())
    history = found.history.assign(run_id=originals)
    history = history[history["run_id"].isin(archive["run_id"])]
    history.to_csv(folder / "history.csv", index=False)


def _write_fields(counting: pd.DataFrame, folder: Path) -> None:
    newest = counting.groupby("model")["run_id"].last()
    tables = {
        model: tracking.table(run_id, Table.RECEPTIVE_FIELD) for model, run_id in newest.items()
    }
    there = {model: table for model, table in tables.items() if table is not None}
    empty = pd.DataFrame(columns=["model", "layer"])
    fields = pd.concat(there, names=["model"]).reset_index("model") if there else empty
    fields.to_csv(folder / "receptive_field.csv", index=False)


def _write_mistakes(found: Comparison, folder: Path) -> None:
    run = found.best_run()
    if run is None:
        return
    image = tracking.image(run["run_id"], names.Image.MISCLASSIFIED)
    tables = {name: tracking.table(run["run_id"], name) for name in MISTAKES}
    if image is None or any(table is None for table in tables.values()):
        return
    mistakes = folder / "best_run"
    mistakes.mkdir()
    (original,) = tracking.archive([run["run_id"]])["run_id"]
    (mistakes / "run_id").write_text(f"{original}\n")
    for name, table in tables.items():
        if table is not None:
            table.to_csv(mistakes / f"{name}.csv", index=False)
    Image.fromarray(image).save(mistakes / "misclassified.png")


@dataclass(frozen=True)
class Mistakes:
    """What the best run gets wrong."""

    run_id: str
    tables: dict[Table, pd.DataFrame]
    image: np.ndarray


def _read_mistakes(folder: Path) -> Mistakes | None:
    if not folder.is_dir():
        return None
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in MISTAKES}
    image = tracking.grey_values(folder / "misclassified.png")
    return Mistakes((folder / "run_id").read_text().strip(), tables, image)


def _write_sources(trials: pd.DataFrame, published: Path, folder: Path) -> None:
    """Candidates have no file in the notebook: without its source, none could be trained again.
    What is `published` stays."""
    folder.mkdir()
    for file in published.glob("*.py"):
        shutil.copy(file, folder)
    rows: Any = trials.itertuples()
    for run in rows:
        file = folder / f"{short(run.code_sha256)}.py"
        source = None if file.exists() else tracking.source(run.run_id, int(run.model))
        if source is not None and code_hash.has_code(source, run.code_sha256):
            file.write_text(source, "utf-8")


def _enter_tables(
    run: tracking.RunWriter, run_id: str, field: pd.DataFrame, mistakes: Mistakes | None
) -> None:
    if len(field):
        run.log_table(_own_columns(field.drop(columns="model")), Table.RECEPTIVE_FIELD)
    if mistakes and mistakes.run_id == run_id:
        for name, table in mistakes.tables.items():
            run.log_table(table, name)
        run.log_image(mistakes.image, names.Image.MISCLASSIFIED)


def _own_columns(table: pd.DataFrame) -> pd.DataFrame:
    """A receptive-field table without what only those of other networks have: each quantity stands
    in one column, or in two where height and width differ."""
    sided = [name for name in map(str, table) if name.endswith(("_height", "_width"))]
    differ = {name.rpartition("_")[0] for name in sided if table[name].notna().any()}
    others = [name for name in sided if name.rpartition("_")[0] not in differ]
    return table.drop(columns=[*differ, *others], errors="ignore")
