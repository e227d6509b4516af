"""What a run says of itself in the tracking UI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_exp.common import markdown
from mnist_exp.common.words import percent
from mnist_exp.evidence.verdict import RunVerdict
from mnist_exp.notebook.entries import SECTIONS, Entry

if TYPE_CHECKING:  # who describes a run from the store need not wait for torch
    from mnist_exp.training.receptive_field import ReceptiveField


def run_description(entry: Entry, summary: str, details: str = "") -> str:
    """What a run is about and how it ended, as the tracking UI shows it.

    The UI folds all but the first lines: `summary` comes first, `details` last.
    """
    title = f"## Model {entry.number}: {markdown.escape(entry.title)}"
    sections = [f"**{name}:** {markdown.escape(entry.sections[name])}" for name in SECTIONS]
    return "\n\n".join(filter(None, [title, summary, *sections, details]))


def of_ended_run(
    entry: Entry, *, split: str, accuracy: float, verdict: RunVerdict | None,
    receptive_field: ReceptiveField, table: str, overridden: str, why_not_kept: str,
) -> str:  # fmt: skip
    """The description of a run that has ended with an `accuracy` (a fraction) on its split.

    `table` is the address of its receptive-field table. `overridden` says what was changed in the
    recipe, `why_not_kept` why the network is not kept; both are empty where there is nothing to
    say.
    """
    summary = [f"Final {split} accuracy {percent(accuracy)}."]
    if verdict:
        summary.insert(0, f"{str(verdict).capitalize()}.")
    if receptive_field.table is not None:
        summary.append(f"Receptive field {receptive_field} ([table]({table})).")
    if overridden:
        summary.append(f"Overridden: {overridden}.")
    if why_not_kept:
        summary.append(f"The network could not be exported: {markdown.escape(why_not_kept)}")
    return run_description(entry, " ".join(summary), verdict_table(verdict) if verdict else "")


def verdict_table(verdict: RunVerdict) -> str:
    """A verdict, condition by condition."""
    rows = [
        f"| {condition.name} | {condition.measured} | {'yes' if condition.met else '**no**'} |"
        for condition in verdict.conditions
    ]
    return "\n".join(["| condition | measured | met |", "|---|---|---|", *rows])
