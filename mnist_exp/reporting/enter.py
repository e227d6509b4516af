"""The published results are entered into a store again."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.evidence import mistakes
from mnist_exp.evidence.mistakes import Mistakes
from mnist_exp.notebook import candidates
from mnist_exp.notebook.entries import EXPERIMENTS
from mnist_exp.tracking import RunWriter, names
from mnist_exp.tracking.archive import ArchivedRun
from mnist_exp.tracking.names import Table

NEEDED = {"run_id", "run_name", "start_time", "end_time", "params.model"}
"""What each row of `runs.csv` has at least."""


@dataclass(frozen=True)
class Imported:
    """How many runs an import entered, and how many were in the store already."""

    entered: int
    present: int


@dataclass(frozen=True)
class PublishedRun:
    """A published run with what it keeps beside its parameters, tags and metrics."""

    archived: ArchivedRun
    field: pd.DataFrame
    """Its receptive-field table; without rows where none is published."""
    source: str | None
    mistakes: Mistakes | None


def enter_runs(folder: Path = EXPERIMENTS) -> Imported:
    """Enter the runs of `folder`/results into the store, each once however often it is called.

    Raises ExpectedError when they are not there or cannot be read.
    """
    results = folder / "results"
    try:
        published = _read(results)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ExpectedError(
            f"{results} cannot be imported: {reason}: restore it from git"
        ) from None
    ids = {run.archived.run_id for run in published}
    tracking.open_store()  # which takes its turn by itself
    with tracking.only_one():
        present = _present(ids)
        for run in published:
            if run.archived.run_id not in present:
                with tracking.enter_run(run.archived) as writer:
                    _enter_evidence(writer, run)
    return Imported(len(ids) - len(present), len(present))


def _read(results: Path) -> list[PublishedRun]:
    """The published runs. Raises what pandas and Python raise for files that are not as `publish`
    writes them."""
    history = pd.read_csv(results / "history.csv", parse_dates=["time"])
    fields = pd.read_csv(results / "receptive_field.csv").convert_dtypes()
    models = fields["model"].astype(str)
    tried = candidates.read_candidates(results / candidates.FILE.name)
    sources = {candidate.code_sha256: candidate.source for candidate in tried}
    best_run, wrong = "", None
    if (results / "best_run").is_dir():
        best_run = (results / "best_run" / "run_id").read_text().strip()
        wrong = mistakes.read_mistakes(results / "best_run")
    runs = []
    for _, cells in pd.read_csv(results / "runs.csv", dtype=str).iterrows():
        row: dict[str, str] = {str(key): value for key, value in cells.dropna().items()}
        if absent := NEEDED - row.keys():
            raise KeyError(f"runs.csv lacks {', '.join(sorted(absent))}")
        # A run on the validation split speaks for no iteration, whose number it may share.
        own_field = (models == row["params.model"]) & (row.get("params.split") == "test")
        runs.append(
            PublishedRun(
                tracking.archived_run(row, history[history["run_id"] == row["run_id"]]),
                _own_columns(fields[own_field].drop(columns="model")),
                sources.get(row.get("tags.code_sha256", "")),
                wrong if row["run_id"] == best_run else None,
            )
        )
    return runs


def _own_columns(table: pd.DataFrame) -> pd.DataFrame:
    """A receptive-field table without what only those of other networks have: each quantity stands
    in one column, or in two where height and width differ."""
    sided = [name for name in map(str, table) if name.endswith(("_height", "_width"))]
    differ = {name.rpartition("_")[0] for name in sided if table[name].notna().any()}
    others = [name for name in sided if name.rpartition("_")[0] not in differ]
    return table.drop(columns=[*differ, *others], errors="ignore")


def _present(ids: set[str]) -> set[str]:
    """Which of the runs the store has; what an interrupted import began is removed."""
    runs = tracking.runs()
    begun = runs[runs["imported_from"].isin(ids) & (runs["status"] != "FINISHED")]
    for run_id in begun["run_id"]:
        tracking.remove_run(run_id)
    whole = runs.drop(begun.index)
    return ids & {*whole["run_id"], *whole["imported_from"]}


def _enter_evidence(writer: RunWriter, run: PublishedRun) -> None:
    if len(run.field):
        writer.log_table(run.field, Table.RECEPTIVE_FIELD)
    if run.mistakes:
        run.mistakes.record(writer)
    if run.source:
        writer.log_text(run.source, names.source_file(int(run.archived.params["model"])))
