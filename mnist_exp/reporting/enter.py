"""The published results are entered into a store again."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.evidence import scores
from mnist_exp.evidence.mistakes import Mistakes
from mnist_exp.evidence.mistakes_archive import read_archive
from mnist_exp.evidence.verdict import RunVerdict, judge_run
from mnist_exp.notebook import candidates, entries, loading
from mnist_exp.notebook.candidates import Candidate
from mnist_exp.notebook.entries import EXPERIMENTS, Entry
from mnist_exp.showing import description
from mnist_exp.showing.fields import receptive_field_growth
from mnist_exp.tracking import RunWriter, names, ui
from mnist_exp.tracking.archive import ArchivedRun
from mnist_exp.tracking.names import Table
from mnist_exp.training.receptive_field import ordered

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
    entry: Entry
    """What was trained, as the notebook or the candidates have it now; without sections where
    neither has it."""
    accuracy: float
    """After the last epoch, on the split of the run (a fraction)."""
    verdict: RunVerdict | None
    """None on the validation split."""
    field: pd.DataFrame | None
    """Its receptive-field table; None where none is published."""
    candidate: Candidate | None
    """Whose sources it keeps; those of an iteration are in the notebook."""
    mistakes: Mistakes | None


def enter_runs(folder: Path = EXPERIMENTS) -> Imported:
    """Enter the runs of `folder`/results into the store, each once however often it is called.

    Raises ExpectedError when they are not there or cannot be read.
    """
    results = folder / "results"
    try:
        published = _read(results)
    # What pandas and Python raise for damaged files has nothing narrower in common.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ExpectedError(
            f"{results} cannot be imported: {reason}: restore it from git"
        ) from None
    ids = {run.archived.run_id for run in published}
    tracking.open_store()  # which takes its turn by itself
    with tracking.only_one():
        present, pictures = _present(ids), dict[str, Figure]()
        for run in published:
            if run.archived.run_id not in present:
                with tracking.enter_run(run.archived) as writer:
                    _enter_evidence(writer, run, pictures)
    return Imported(len(ids) - len(present), len(present))


def _read(results: Path) -> list[PublishedRun]:
    """The published runs. Raises what pandas and Python raise for files that are not as `publish`
    writes them."""
    table = pd.read_csv(results / "runs.csv", dtype=str)
    rows = [{str(key): text for key, text in row.dropna().items()} for _, row in table.iterrows()]
    if absent := {name for row in rows for name in NEEDED - row.keys()}:
        raise KeyError(f"runs.csv lacks {', '.join(sorted(absent))}")
    history = pd.read_csv(results / "history.csv", parse_dates=["time"])
    fields = pd.read_csv(results / "receptive_field.csv").convert_dtypes()
    fields = fields.astype({"model": str})
    wrong = read_archive(results / "mistakes")
    tried = candidates.read_candidates(results / candidates.FILE.name)
    files = _files(tried)
    trials = {candidate.code_sha256: candidate for candidate in tried}
    archived = [
        tracking.archived_run(row, history[history["run_id"] == row["run_id"]]) for row in rows
    ]
    target = loading.load_target()
    runs = table.rename(columns=lambda name: name.removeprefix("params."))
    runs = runs.join(scores.scores(runs, history, target))
    return [
        PublishedRun(
            archived=run,
            entry=_entry(run, files),
            accuracy=scored["final_accuracy"],
            verdict=judge_run(scored, target) if scored["split"] == "test" else None,
            field=_field(run, fields),
            candidate=trials.get(run.tags.get("code_sha256", "")),
            mistakes=wrong.get(run.run_id),
        )
        for run, (_, scored) in zip(archived, runs.iterrows(), strict=True)
    ]


def _files(tried: Iterable[Candidate]) -> dict[str, Entry]:
    """The iterations and the candidates by the hashes of their code."""
    files = {candidate.code_sha256: candidate.entry for candidate in tried}
    for number in entries.numbers():
        entry = entries.read_entry(number)
        files[entry.code_sha256] = entry
    return files


def _entry(run: ArchivedRun, files: Mapping[str, Entry]) -> Entry:
    """What the run trained, under the number and the title that it had then."""
    number, title = int(run.params["model"]), run.tags.get("idea", "")
    file = files.get(run.tags.get("code_sha256", ""))
    if file is None:
        return Entry(number=number, source="", title=title, sections={})
    return dataclasses.replace(file, number=number, title=title)


def _field(run: ArchivedRun, fields: pd.DataFrame) -> pd.DataFrame | None:
    """The receptive-field table of a run, without what only those of other networks have: each
    quantity stands in one column, or in two where height and width differ."""
    # A run on the validation split speaks for no iteration, whose number it may share.
    of_model = fields["model"] == run.params["model"]
    if run.params.get("split") != "test" or not of_model.any():
        return None
    table = fields[of_model].drop(columns="model")
    sided = [name for name in map(str, table) if name.endswith(("_height", "_width"))]
    differ = {name.rpartition("_")[0] for name in sided if table[name].notna().any()}
    others = [name for name in sided if name.rpartition("_")[0] not in differ]
    return ordered(table.drop(columns=[*differ, *others], errors="ignore"))


def _present(ids: set[str]) -> set[str]:
    """Which of the runs the store has; what an interrupted import began is removed."""
    runs = tracking.runs()
    begun = runs[runs["imported_from"].isin(ids) & (runs["status"] != "FINISHED")]
    for run_id in begun["run_id"]:
        tracking.remove_run(run_id)
    whole = runs.drop(begun.index)
    return ids & {*whole["run_id"], *whole["imported_from"]}


def _enter_evidence(writer: RunWriter, run: PublishedRun, pictures: dict[str, Figure]) -> None:
    """Give a run what it keeps beside its parameters, tags and metrics. `pictures` are those of the
    receptive fields so far, by model."""
    params, table = run.archived.params, ""
    if run.field is not None:
        writer.log_table(run.field, Table.RECEPTIVE_FIELD)
        model = params["model"]
        if model not in pictures:  # one for all seeds, since drawing takes the longest
            pictures[model] = receptive_field_growth(run.field)
        writer.log_figure(pictures[model], names.Figure.RECEPTIVE_FIELD)
        table = ui.run_path(writer.experiment_id, writer.run_id, Table.RECEPTIVE_FIELD.json)
    if run.mistakes:
        run.mistakes.record(writer)
    if run.candidate:
        writer.log_text(run.candidate.source, names.source_file(int(params["model"])))
        for name, text in (run.candidate.helpers or {}).items():
            writer.log_text(text, names.helper_file(name))
    seen = params.get("receptive_field", "")
    writer.describe(
        description.of_ended_run(
            run.entry, split=params.get("split", ""), fold=params.get(names.FOLD),
            accuracy=run.accuracy, verdict=run.verdict,
            receptive_field="" if seen.startswith("unknown") else seen, table=table,
        )
    )  # fmt: skip
