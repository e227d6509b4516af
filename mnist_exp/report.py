"""DataFrames and verdicts in, figures and Markdown out."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mnist_exp.recipe import SECTIONS, Iteration, Target
from mnist_exp.verdict import Verdict, percent

mpl.use("Agg")  # seaborn would look for a screen
TRAIN, HELD_OUT = sns.color_palette("colorblind")[:2]


def curves(history: pd.DataFrame, split: str, target: Target) -> Figure:
    """Accuracy and loss per epoch of one run; `history` has `train_*` and `<split>_*` columns."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        for part, colour in (("train", TRAIN), (split, HELD_OUT)):
            sns.lineplot(
                history, x="epoch", y=f"{part}_{quantity}", ax=axes, color=colour, marker="o",
                label=part,
            )  # fmt: skip
        axes.set(ylabel=quantity)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        sns.despine(ax=axes)
    accuracy = figure.axes[0]
    accuracy.axhline(target.test_accuracy, color="0.4", linestyle="--", linewidth=1)
    accuracy.annotate(
        percent(target.test_accuracy), (1, target.test_accuracy), fontsize=8, color="0.3",
        va="bottom", xycoords=("axes fraction", "data"), ha="right",
    )  # fmt: skip
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    if history[f"{split}_accuracy"].iloc[-1] > 0.98:  # the first epochs would flatten the rest
        accuracy.set_ylim(0.97, 1)
    return figure


def confusion_matrix(counts: pd.DataFrame, title: str) -> Figure:
    """How often each digit was taken for which: `counts` has a row per truth, a column per guess.

    The colour leaves out the diagonal, which would drown the errors; a cell without any is blank.
    """
    diagonal = np.eye(10, dtype=bool)
    errors = counts.mask(diagonal)
    shown = counts.astype(str).mask((counts == 0) | diagonal, "")
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    sns.heatmap(
        errors, annot=shown, fmt="", cmap="Blues", linewidths=0.5, linecolor="0.9",
        cbar_kws={"label": "errors"}, ax=axes,
    )  # fmt: skip
    for digit in range(10):
        count = str(counts.loc[digit, digit])
        axes.text(digit + 0.5, digit + 0.5, count, ha="center", va="center", color="0.5")
    axes.set_title(title)
    return figure


def digit_sheet(images: np.ndarray, labels: np.ndarray, title: str) -> Figure:
    """Digits in rows of eight, each under its label; `images` are (N, 28, 28), any scale."""
    rows = -(-len(images) // 8)
    figure = Figure(figsize=(8, 1.25 * rows + 0.4), layout="constrained")
    grid = list(figure.subplots(rows, 8).flat)
    for axes in grid:
        axes.axis("off")
    for axes, image, label in zip(grid, images, labels, strict=False):  # the last row may be short
        axes.imshow(image, cmap="gray")
        axes.set_title(label, fontsize=9)
    figure.suptitle(title)
    return figure


def run_description(iteration: Iteration, summary: str, details: str = "") -> str:
    """What a run is about and how it ended, as the Markdown that the tracking UI shows.

    The UI folds all but the first lines: `summary` comes first, `details` last.
    """
    title = f"## Model {iteration.number}: {_escape(iteration.title)}"
    sections = [f"**{name}:** {_escape(iteration.sections[name])}" for name in SECTIONS]
    return "\n\n".join(filter(None, [title, summary, *sections, details]))


def verdict_table(verdict: Verdict) -> str:
    """A verdict, condition by condition, as Markdown."""
    rows = [
        f"| {condition.name} | {condition.measured} | {'yes' if condition.met else '**no**'} |"
        for condition in verdict.conditions
    ]
    return "\n".join(["| condition | measured | met |", "|---|---|---|", *rows])


def _escape(text: str) -> str:
    """Text from a docstring, shown as it is and not read as HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
