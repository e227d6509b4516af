"""What a run says of itself in the tracking UI."""

from collections.abc import Mapping
from types import MappingProxyType

from mnist_exp.common import markdown
from mnist_exp.common.words import percent
from mnist_exp.data.splits import OF_WRITERS
from mnist_exp.evidence.verdict import RunVerdict
from mnist_exp.notebook.entries import SECTIONS, Entry

NO_METRICS: Mapping[str, float] = MappingProxyType({})


def run_description(about: Entry | str, summary: str, details: str = "") -> str:
    """What a run is about, an iteration or the idea of a script, and how it ended, as the tracking
    UI shows it.

    The UI folds all but the first lines: `summary` comes first, `details` last. An entry without
    sections, whose file is lost, has its title alone.
    """
    if isinstance(about, str):
        return "\n\n".join(filter(None, [f"## {markdown.escape(about)}", summary, details]))
    title = f"## Model {about.number}: {markdown.escape(about.title)}"
    sections = [
        f"**{name}:** {markdown.escape(about.sections[name])}"
        for name in SECTIONS
        if name in about.sections
    ]
    return "\n\n".join(filter(None, [title, summary, *sections, details]))


def of_ended_run(
    about: Entry | str, *, split: str, accuracy: float, verdict: RunVerdict | None,
    receptive_field: str, table: str, fold: str | None = None,
    metrics: Mapping[str, float] = NO_METRICS, overridden: str = "", engine: str = "",
    why_not_kept: str = "",
) -> str:  # fmt: skip
    """The description of a run that has ended with an `accuracy` (a fraction) on its split and
    fold.

    `metrics` are the recipe's own, after the last epoch. `receptive_field` is what the network
    sees, in pixels, and `table` the address of the run's table of it. `overridden` says what was
    changed in the recipe, `engine` what computed its steps, `why_not_kept` why the network is not
    kept. Each is empty where there is nothing to say.
    """
    where = f" on fold {fold}" if fold in OF_WRITERS else ""
    summary = [f"Final {split} accuracy {percent(accuracy)}{where}."]
    if verdict:
        summary.insert(0, f"{str(verdict).capitalize()}.")
    summary += [f"Final {markdown.escape(name)} {value:.4g}." for name, value in metrics.items()]
    if receptive_field:
        link = f" ([table]({table}))" if table else ""
        summary.append(f"Receptive field {receptive_field}{link}.")
    if overridden:
        summary.append(f"Overridden: {overridden}.")
    if engine:
        summary.append(f"Engine: {engine}.")
    if why_not_kept:
        summary.append(f"The network could not be exported: {markdown.escape(why_not_kept)}")
    return run_description(about, " ".join(summary), verdict_table(verdict) if verdict else "")


def verdict_lines(verdict: RunVerdict) -> str:
    """A verdict, condition by condition, as it is printed when a run ends."""
    lines = [f"{str(verdict).capitalize()}:"]
    for condition in verdict.conditions:
        met = "yes" if condition.met else "NO "
        lines.append(f"  {met}  {condition.name}: {condition.measured}")
    return "\n".join(lines)


def verdict_table(verdict: RunVerdict) -> str:
    """A verdict, condition by condition."""
    rows = [
        f"| {condition.name} | {condition.measured} | {'yes' if condition.met else '**no**'} |"
        for condition in verdict.conditions
    ]
    return "\n".join(["| condition | measured | met |", "|---|---|---|", *rows])
