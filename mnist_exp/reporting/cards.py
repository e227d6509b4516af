"""Model cards: what an iteration that meets the target is, in Markdown, made from the store."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from mnist_exp import data
from mnist_exp.common import markdown
from mnist_exp.common.words import counted, percent
from mnist_exp.evidence.by_writer import SERIES
from mnist_exp.evidence.comparison import Comparison
from mnist_exp.evidence.hard_digits import HardDigits
from mnist_exp.evidence.verdict import Verdict
from mnist_exp.notebook.entries import SECTIONS
from mnist_exp.reporting.by_writer import errors_of, told_interval
from mnist_exp.reporting.hard_digits import held_together
from mnist_exp.showing.tables import shown_spread
from mnist_exp.tracking.networks import describe_registered, how_to_load


def write_cards(comparison: Comparison, folder: Path) -> list[Path]:
    """Write a card for each iteration that meets the target to `folder`, and keep it with the
    registered model of its name, where the store has one; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("model-*.md"):  # of an iteration that meets it no more
        old.unlink()
    files = []
    for verdict in comparison.verdicts:
        if verdict.met and verdict.model is not None:
            text = card(comparison, verdict)
            file = folder / f"model-{verdict.model}.md"
            file.write_text(text, encoding="utf-8")
            describe_registered(f"model-{verdict.model}", text)
            files.append(file)
    return files


def card(comparison: Comparison, verdict: Verdict) -> str:
    """The card of an iteration of the comparison, from its runs that count."""
    model = verdict.model
    assert model is not None
    entry = comparison.iterations[model]
    runs = comparison.counting[comparison.counting["model"] == model].sort_values("seed")
    said = [
        f"**{name}:** {markdown.escape(entry.sections[name])}"
        for name in SECTIONS
        if name in entry.sections
    ]
    images = int(runs["evaluation_images"].iloc[0])
    facts = (
        f"A network of {verdict.parameters:,} parameters, trained for "
        f"{counted(verdict.epochs, 'epoch')} by "
        f"`experiments/model_{model}.py`. One output sees "
        f"{markdown.escape(str(verdict.receptive_field))} pixels of a side."
    )
    digits = (
        f"MNIST, by LeCun, Cortes and Burges, first published at {data.ORIGIN}. It is trained on "
        f"the training digits alone, and scored on the {images:,} {verdict.split} digits after "
        "each epoch, which serve for no choice of a weight."
    )
    judged = (
        f"{str(verdict.answer).capitalize()}: {verdict.passing} of {len(verdict.seeds)} seeds; "
        f"{markdown.escape(verdict.reason)}"
    )
    parts = [
        f"# Model {model}: {markdown.escape(verdict.title)}", facts, *said,
        "## Data", digits,
        "## Scores by seed",
        judged,
        markdown.as_table(_scores(runs, verdict)), _spread(verdict), *_by_writer(runs),
        "## Mistakes by digit", *_mistakes(held_together(comparison, model)),
        "## How to load it", how_to_load(entry.name),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _scores(runs: pd.DataFrame, verdict: Verdict) -> pd.DataFrame:
    last = f"worst of the last {verdict.target.last_epochs} epochs"
    return pd.DataFrame(
        {
            "seed": runs["seed"].map(str),
            last: runs["worst_accuracy"].map(percent),
            "after the last epoch": runs["final_accuracy"].map(percent),
        }
    )


def _spread(verdict: Verdict) -> str:
    final = shown_spread(verdict.final_accuracy, verdict.final_accuracy_std)
    return (
        f"After the last epoch: {final} over {counted(len(verdict.seeds), 'seed')}. If each "
        "digit's being wrong were chance alone, seeds would scatter by "
        f"{100 * verdict.luck:.2f} points."
    )


def _by_writer(runs: pd.DataFrame) -> Iterable[str]:
    errors = errors_of(runs)
    if errors is None:
        return []
    wrong = [f"{percent(errors.rate(n))} of the {who}' digits" for n, who in SERIES.items()]
    told = [f"Of {errors.seeds} of {counted(len(runs), 'seed')}, {' and '.join(wrong)} are wrong."]
    if errors.seeds == len(runs):
        told.append(
            "Counted by writers, whose digits are alike, the 95 % interval of the final accuracy "
            f"is {told_interval(errors, len(runs))}."
        )
    return [" ".join(told)]


def _mistakes(found: HardDigits | None) -> Iterable[str]:
    if found is None:
        return ["No run of it in this store holds its misclassified digits."]
    rows = []
    for truth, row in found.counts.iterrows():
        wrong: Any = row.drop(truth)
        most = f"{wrong.idxmax()} ({wrong.max()})" if wrong.max() else ""
        rows.append([str(truth), f"{row.sum():,}", f"{wrong.sum():,}", most])
    columns = ["digit", "shown", "wrong", "most often taken for"]
    return [
        f"At the end, {counted(found.seeds, 'seed')} together:",
        markdown.as_table(pd.DataFrame(rows, columns=columns)),
    ]
