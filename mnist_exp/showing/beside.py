"""Figures of iterations that stand side by side: who reached what, and with how many parameters."""

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)

from mnist_exp.common.words import percent
from mnist_exp.recipe import Target
from mnist_exp.showing.iterations import short_labels
from mnist_exp.showing.limits import FURTHEST
from mnist_exp.showing.style import GREY, HELD_OUT, INK, STYLE, WIDTH, bar, size_limit

LABEL = 0.05
"""The height of a label beside a point, as a fraction of that of the axes."""


@mpl.rc_context(STYLE)
def final_by_seed(
    runs: pd.DataFrame, labels: Mapping[int, str], target: Target | None, split: str
) -> Figure:
    """The accuracy of each run after its last epoch, a row per iteration, and the mean of each.

    `runs` have `model` and `final_accuracy`. What is far below the best is named at the edge.
    """
    models = sorted(runs["model"].unique())
    figure = Figure(figsize=(WIDTH, 1.1 + 0.34 * len(models)), layout="constrained")
    axes = figure.subplots()
    by_model = runs.groupby("model")["final_accuracy"]
    means = by_model.mean()
    low, high = _limits([*runs["final_accuracy"], *means], target)
    if runs["final_accuracy"].min() < low:
        low -= 0.15 * (high - low)  # room for the words
    axes.set_xlim(low, high)
    for row, (model, finals) in enumerate(by_model):
        axes.plot(finals, [row] * len(finals), "o", color=HELD_OUT, alpha=0.6)
        axes.plot([means[model]] * 2, [row - 0.3, row + 0.3], color=INK, linewidth=2)
        if finals.min() < low:
            axes.annotate(
                f"← {percent(finals.min())}", (0, row), xycoords=("axes fraction", "data"),
                textcoords="offset points", xytext=(3, 5), fontsize=8,
            )  # fmt: skip
    if target:
        _draw_target(axes, target)
    axes.set_yticks(range(len(models)), [labels[model] for model in models])
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.set_xlabel(f"{split} accuracy after the last epoch")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=1, symbol=" %"))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.grid(axis="x", color=GREY, alpha=0.25)
    sns.despine(ax=axes)
    return figure


def _limits(accuracies: Iterable[float], target: Target | None) -> tuple[float, float]:
    """Between which accuracies all lie that are not far below the best, with some room; and the
    target, if that is near."""
    ordered = sorted(accuracies)
    low, high = next(x for x in ordered if x >= ordered[-1] - FURTHEST), ordered[-1]
    spread = max(high - low, 0.002)
    if target and low - spread <= target.test_accuracy <= high + spread:
        low, high = min(low, target.test_accuracy), max(high, target.test_accuracy)
    return low - 0.1 * spread, high + 0.1 * spread


def _draw_target(axes: Axes, target: Target) -> None:
    """The accuracy of the target as a line, or on which side it is where it is far."""
    text, (low, high) = f"target {percent(target.test_accuracy)}", axes.get_xlim()
    if low <= target.test_accuracy <= high:
        axes.axvline(target.test_accuracy, color=INK, linestyle="--", linewidth=1)
        place, side = target.test_accuracy, "center"
    else:
        above = target.test_accuracy > high
        text = f"{text} →" if above else f"← {text}"
        place, side = (high, "right") if above else (low, "left")
    axes.annotate(
        text, (place, 1), xycoords=("data", "axes fraction"), textcoords="offset points",
        xytext=(0, 3), ha=side, fontsize=8,
    )  # fmt: skip


@mpl.rc_context(STYLE)
def sizes(
    verdicts: pd.DataFrame, labels: Mapping[int, str], target: Target | None, split: str
) -> Figure:
    """The parameters of each iteration against its final accuracy, the mean over its seeds.

    `verdicts` have `model`, `parameters` and `final_accuracy`. What is far below the best is named
    only.
    """
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    low, high = _limits(verdicts["final_accuracy"], target)
    parameters = verdicts["parameters"]
    axes.set(xscale="log", xlim=(0.5 * parameters.min(), 2 * parameters.max()), ylim=(low, high))
    labels = short_labels(verdicts["model"], labels)
    far = verdicts[verdicts["final_accuracy"] < low]
    _name_points(axes, verdicts.drop(far.index), labels)
    words = [f"{labels[row.model]} {percent(row.final_accuracy)}" for row in _rows(far)]
    if words:
        axes.set_title(f"off the scale: {', '.join(words)}", fontsize=8, loc="left")
    if target and low <= target.test_accuracy <= high:
        bar(axes, target, label=True)
    if target and axes.get_xlim()[0] <= target.parameters_below <= axes.get_xlim()[1]:
        size_limit(axes, target)
    wide = parameters.max() > 20 * parameters.min()
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axes.set(xlabel="parameters", ylabel=f"final {split} accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1, symbol=" %"))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    sns.despine(ax=axes)
    return figure


def _name_points(axes: Axes, points: pd.DataFrame, labels: Mapping[int, str]) -> None:
    """A mark for each, with its label towards the middle, and above that of the one below it."""
    axes.scatter(points["parameters"], points["final_accuracy"], color=HELD_OUT, s=50, zorder=3)
    (fewest, most), (low, high) = axes.get_xlim(), axes.get_ylim()
    beneath = low
    for row in _rows(points.sort_values("final_accuracy")):
        left = row.parameters < (fewest * most) ** 0.5
        beneath = max(row.final_accuracy, beneath + LABEL * (high - low))
        axes.annotate(
            labels[row.model], (row.parameters, beneath), fontsize=8, va="center",
            textcoords="offset points", xytext=(7 if left else -7, 0),
            ha="left" if left else "right",
        )  # fmt: skip


def _rows(table: pd.DataFrame) -> Any:
    return table.itertuples(index=False)
