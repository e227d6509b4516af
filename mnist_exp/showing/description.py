"""What a run says of itself in the tracking UI."""

from mnist_exp import markdown
from mnist_exp.evidence.verdict import RunVerdict
from mnist_exp.notebook.entries import SECTIONS, Entry


def run_description(iteration: Entry, summary: str, details: str = "") -> str:
    """What a run is about and how it ended, as the tracking UI shows it.

    The UI folds all but the first lines: `summary` comes first, `details` last.
    """
    title = f"## Model {iteration.number}: {markdown.escape(iteration.title)}"
    sections = [f"**{name}:** {markdown.escape(iteration.sections[name])}" for name in SECTIONS]
    return "\n\n".join(filter(None, [title, summary, *sections, details]))


def verdict_table(verdict: RunVerdict) -> str:
    """A verdict, condition by condition."""
    rows = [
        f"| {condition.name} | {condition.measured} | {'yes' if condition.met else '**no**'} |"
        for condition in verdict.conditions
    ]
    return "\n".join(["| condition | measured | met |", "|---|---|---|", *rows])
