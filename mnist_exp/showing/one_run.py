"""Figures of one run, drawn without seaborn, which takes a second to import."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mnist_exp.recipe import Target
from mnist_exp.showing import style
from mnist_exp.showing.style import GREY, HELD_OUT, PAPER, STYLE, TRAIN

LABEL, GAP = 9, 5
"""Pixels above and beside each digit on a sheet."""


@mpl.rc_context(STYLE)
def curves(history: pd.DataFrame, split: str, target: Target) -> Figure:
    """Accuracy and loss per epoch of one run; `history` has `train_*` and `<split>_*` columns, of
    which those of the loss may be missing."""
    parts = {"train": TRAIN, split: HELD_OUT}
    drawn = {
        quantity: [part for part in parts if f"{part}_{quantity}" in history]
        for quantity in ("accuracy", "loss")
    }
    quantities = [quantity for quantity, own in drawn.items() if own]
    figure = Figure(figsize=(4.5 * len(quantities), 3.6), layout="constrained")
    panels = figure.subplots(1, len(quantities), squeeze=False).flat
    for axes, quantity in zip(panels, quantities, strict=True):
        for part in drawn[quantity]:
            line: Any = {"color": parts[part], "marker": "o", "markeredgecolor": PAPER}
            axes.plot("epoch", f"{part}_{quantity}", data=history, label=part, **line)
        axes.set(xlabel="epoch", ylabel=quantity)
        axes.legend()
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        style.despine(axes)
    accuracy = figure.axes[0]
    style.bar(accuracy, target, label=True)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=1, symbol=" %"))
    if history[f"{split}_accuracy"].iloc[-1] > 0.98:  # the first epochs would flatten the rest
        accuracy.set_ylim(0.97, 1)
    return figure


@mpl.rc_context(STYLE)
def confusion_matrix(counts: pd.DataFrame, title: str) -> Figure:
    """How often each digit was taken for which: `counts` has a row per truth, a column per guess.

    The colour leaves out the diagonal, which would drown the errors; a cell without any is blank.
    """
    diagonal = np.eye(10, dtype=bool)
    blank = (counts.to_numpy() == 0) | diagonal
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    errors = np.ma.masked_where(blank, counts)
    cells = axes.pcolormesh(errors, vmin=0, cmap="Blues", linewidth=0.5, edgecolors="0.9")
    figure.colorbar(cells, label="errors")
    dark = counts.mask(diagonal, 0).to_numpy().max() / 2
    for (truth, guess), count in np.ndenumerate(counts):
        if count or truth == guess:
            colour = GREY if truth == guess else "white" if count > dark else "0.15"
            place: Any = {"ha": "center", "va": "center", "color": colour}
            axes.text(guess + 0.5, truth + 0.5, str(count), **place)
    centres = np.arange(10) + 0.5
    axes.set(xticks=centres, xticklabels=range(10), yticks=centres, yticklabels=range(10))
    axes.set(xlabel="guess", ylabel="truth")
    axes.invert_yaxis()
    axes.set_title(title)
    return figure


@mpl.rc_context(STYLE)
def digit_sheet(images: np.ndarray, labels: np.ndarray, title: str) -> Figure:
    """Digits in rows of eight, each under its label; `images` are (N, 28, 28), any scale."""
    rows, (height, width) = -(-len(images) // 8), images.shape[1:]
    sheet = np.full((rows, height + LABEL, 8, width + GAP), np.nan)
    tall = rows * (height + LABEL) / (width + GAP)  # inches, of a column that is one wide
    figure = Figure(figsize=(8, tall + 0.5), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(number, 8)
        sheet[row, LABEL:, column, :width] = image
        place = column * (width + GAP) + width / 2, row * (height + LABEL) + LABEL - 2
        axes.text(*place, str(label), ha="center", fontsize=9)
    # One image: an axes for each digit would take ten times as long to draw.
    axes.imshow(sheet.reshape(rows * (height + LABEL), -1), cmap="gray")
    figure.suptitle(title)
    return figure


@mpl.rc_context(STYLE)
def misclassified(images: np.ndarray, mistakes: pd.DataFrame) -> Figure:
    """Digits that were misclassified, (N, 28, 28), with truth, guess and probability in percent, as
    `4→9 87`."""
    rows: Any = mistakes.itertuples()
    labels = [f"{row.truth}→{row.guess} {100 * row.probability:.0f}" for row in rows]
    return digit_sheet(images, np.array(labels), "truth → guess, probability in percent")
