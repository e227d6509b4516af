"""Figures that compare iterations: DataFrames in, matplotlib figures out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)

from mnist_exp.common.words import counted, percent
from mnist_exp.evidence.effect import Effect
from mnist_exp.recipe import Target
from mnist_exp.showing.style import (
    FAIL,
    GREY,
    HELD_OUT,
    PASS,
    STYLE,
    TRAIN,
    WIDTH,
    bar,
    size_limit,
)

SHOWN = (0.98, 1.0)
"""The accuracies that figures show where all are in it: the differences that matter are there."""
REACH = 0.1
"""Figures show what is so far below the best, as a fraction, or nearer."""
NEAR = {"parameters": 2, "accuracy": 0.003}
"""The price is drawn around the target: up to this multiple of its parameters, and from this
fraction below its accuracy."""
SHORT_NAME = 12
"""Characters of an iteration's name that leave room beside it."""
MOST_LINES = 10
"""With more seeds than this, a band from the lowest to the highest takes the place of lines."""


@mpl.rc_context(STYLE)
def accuracy_by_seed(
    runs: pd.DataFrame, history: pd.DataFrame, target: Target | None,
    labels: Mapping[int, str] | None = None, split: str = "test",
) -> Figure:  # fmt: skip
    """Accuracy per epoch in training and on a split, one panel per iteration: a thin line per seed
    and the mean over them.

    `runs` have `run_id`, `model` and `seed`; `history` is theirs. The `labels` are what panels call
    the iterations; the `target` is drawn where there is one.
    """
    parts = (("train", TRAIN), (split, HELD_OUT))
    columns = ["run_id", "epoch", *(f"{part}_accuracy" for part, _ in parts)]
    rows = history.reindex(columns=columns).merge(runs[["run_id", "model", "seed"]], on="run_id")
    models = sorted(rows["model"].unique())
    shown = shown_accuracies(rows.groupby("run_id")[columns[2:]].last().melt()["value"])
    figure, panels = _panels(len(models))
    for number, (axes, model) in enumerate(zip(panels, models, strict=True)):
        epochs = rows[rows["model"] == model]
        for part, colour in parts:
            _draw_seeds(axes, epochs, f"{part}_accuracy", colour)
        axes.set(xlabel="", ylabel="", ylim=shown)
        if target:
            _draw_bar(axes, target, label=number == 0)
        seeds = counted(epochs["seed"].nunique(), "seed")
        name = (labels or {}).get(model, f"model {model}")
        if len(name) > SHORT_NAME:  # a panel is not wide enough for both
            axes.set_title(f"{name}\n{seeds}", fontsize=8)
        else:
            axes.set_title(f"{name}, {seeds}", fontsize=10)
        if not (epochs[columns[2:]] > shown[0]).any(axis=None):
            axes.text(0.5, 0.5, f"below {percent(shown[0])}", transform=axes.transAxes, ha="center")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1, symbol=" %"))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("accuracy", fontsize=10)
    lines = [Line2D([], [], color=colour, label=part) for part, colour in parts]
    figure.legend(handles=lines, loc="outside upper right", ncols=2, frameon=False)
    return figure


def _draw_seeds(axes: Axes, epochs: pd.DataFrame, accuracy: str, colour: str) -> None:
    """A line for each seed and one for their mean, or a band where there are many."""
    line: Any = {"data": epochs, "x": "epoch", "y": accuracy, "ax": axes, "color": colour}
    if epochs["epoch"].nunique() == 1:  # of which a line is not to be seen
        line["marker"] = "o"
    many = epochs["seed"].nunique() > MOST_LINES
    if not many:
        sns.lineplot(**line, units="seed", estimator=None, linewidth=0.6, alpha=0.5)
    sns.lineplot(**line, errorbar=("pi", 100) if many else None, linewidth=1.8)


def shown_accuracies(last: pd.Series) -> tuple[float, float]:
    """The accuracies that a figure is to show, from those after the last epoch of each run: all
    that are not far below the best, with some room below them."""
    best = last.max()
    near = last[last >= best - REACH]
    if near.empty or near.min() >= SHOWN[0]:
        return SHOWN
    high = 1.0 if best > 1 - REACH else min(1.0, math.ceil(100 * best + 5) / 100)
    low = near.min() - (high - near.min()) / 2
    return max(0.0, math.floor(100 * low) / 100), high


def _draw_bar(axes: Axes, target: Target, *, label: bool) -> None:
    """The accuracy of the target as a line, or where it is if the figure ends below it."""
    if target.test_accuracy <= axes.get_ylim()[1]:
        bar(axes, target, label=label)
    elif label:
        axes.annotate(
            f"target {percent(target.test_accuracy)} ↑", (0.01, 0.99), fontsize=8, va="top",
            xycoords="axes fraction",
        )  # fmt: skip


@mpl.rc_context(STYLE)
def price(verdicts: pd.DataFrame, target: Target, public: pd.DataFrame) -> Figure:
    """What accuracy costs: parameters against the worst test accuracy of the last epochs, over all
    seeds, with the frontier of those that no other beats in both, and the `public` results beside
    them, of one seed each (`references.public_results`). Iterations far from the target
    are named only, unless all are."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    points = verdicts.dropna(subset="worst_accuracy")
    _draw_verdicts(axes, points)
    _draw_public(axes, public)
    _draw_frontier(axes, points)
    _draw_limits(axes, target)
    axes.set(
        xscale="log", xlabel="parameters",
        ylabel=f"worst test accuracy\nof the last {target.last_epochs} epochs",
    )  # fmt: skip
    if len(points):
        _frame(axes, points, target, public)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=2, symbol=" %"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    sns.despine(ax=axes)
    return figure


def _draw_verdicts(axes: Axes, points: pd.DataFrame) -> None:
    """A mark for each iteration, with its number."""
    for met, colour, marker in ((True, PASS, "o"), (False, FAIL, "X")):
        alike = points[points["met"] == met]
        axes.scatter(
            alike["parameters"], alike["worst_accuracy"], color=colour, marker=marker, s=60,
            zorder=3 + met, label=f"iteration, {'' if met else 'not '}met on every seed",
        )  # fmt: skip
    rows: Any = points.sort_values("worst_accuracy").itertuples()
    for place, row in enumerate(rows):
        side = 1 if place % 2 else -1  # neighbours would cover each other's number
        axes.annotate(
            f"{row.model}", (row.parameters, row.worst_accuracy), textcoords="offset points",
            xytext=(9 * side, 3 if row.met else -9), ha="center", fontsize=8,
        )  # fmt: skip


def _draw_public(axes: Axes, public: pd.DataFrame) -> None:
    """A mark for each public result, with the name of its owner."""
    axes.scatter(
        public["parameters"], public["lowest"], color=GREY, marker="D", s=28, facecolors="none",
        label="public, one seed",
    )  # fmt: skip
    rows: Any = public.itertuples()
    for row in rows:
        owner = row.source.partition("/")[0]
        axes.annotate(
            owner, (row.parameters, row.lowest), textcoords="offset points", color=GREY,
            xytext=(-5, 4), ha="right", fontsize=7,
        )  # fmt: skip


def _draw_frontier(axes: Axes, points: pd.DataFrame) -> None:
    best = frontier(points)
    axes.step(
        best["parameters"], best["worst_accuracy"], where="post", color=GREY, linewidth=1.2,
        label="frontier of the iterations",
    )  # fmt: skip


def _draw_limits(axes: Axes, target: Target) -> None:
    """The accuracy and the parameters that the target asks for, as lines."""
    bar(axes, target, label=True)
    size_limit(axes, target)


def _frame(axes: Axes, points: pd.DataFrame, target: Target, public: pd.DataFrame) -> None:
    """Scale the axes to what is near the target, if anything is, and name what is far from it."""
    near = points[
        (points["parameters"] <= NEAR["parameters"] * target.parameters_below)
        & (points["worst_accuracy"] >= target.test_accuracy - NEAR["accuracy"])
    ]
    shown = points if near.empty else near
    far = ", ".join(map(str, points["model"].drop(shown.index)))
    if far:
        axes.annotate(
            f"off the scale: {far}", (target.parameters_below, 0), ha="right", fontsize=8,
            xycoords=("data", "axes fraction"), textcoords="offset points", xytext=(-4, 4),
        )  # fmt: skip
    heights = pd.concat([shown["worst_accuracy"], public["lowest"]])
    low = min(heights.min(), target.test_accuracy)
    high = max(heights.max(), target.test_accuracy)
    spread = max(high - low, 0.001)
    axes.set_ylim(low - 0.3 * spread, high + 0.2 * spread)
    sizes = pd.concat([shown["parameters"], public["parameters"]])
    fewest, most = sizes.min(), sizes.max()
    axes.set_xlim(0.8 * fewest, 1.4 * max(most, target.parameters_below))
    steps = (1,) if most > 20 * fewest else (1, 2, 4, 6, 8)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))


def frontier(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The iterations that no other beats in parameters and in `worst_accuracy`, smallest first."""
    ordered = verdicts.sort_values(["parameters", "worst_accuracy"], ascending=[True, False])
    highest = ordered["worst_accuracy"].cummax()
    return ordered[ordered["worst_accuracy"] > highest.shift(fill_value=float("-inf"))]


@mpl.rc_context(STYLE)
def effects(
    steps: Sequence[Effect], labels: Mapping[int, str] | None = None, split: str = "test"
) -> Figure:
    """The effect of each iteration on the final accuracy, against its baseline; with `labels`,
    against one that is the same for all."""
    figure = Figure(figsize=(WIDTH, 1.1 + 0.4 * len(steps)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=1)
    for row, step in enumerate(steps):
        if step.interval:
            low, high = (100 * bound for bound in step.interval)
            axes.plot([low, high], [row, row], color=HELD_OUT, linewidth=2.5)
        fill = HELD_OUT if step.interval else "none"
        axes.plot(100 * step.mean, row, "o", color=HELD_OUT, markerfacecolor=fill)
    texts = [labels[s.model] if labels else f"{s.baseline} → {s.model}" for s in steps]
    axes.set_yticks(range(len(steps)), texts)
    against = f" to model {steps[0].baseline},\n" if labels else ", "
    axes.set_xlabel(f"difference of final {split} accuracy{against}percentage points")
    axes.set_ylabel("" if labels else "model")
    axes.set_ylim(len(steps) - 0.4, -0.6)
    sns.despine(ax=axes)
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Panels with the same axes, so that what is lower or slower is seen to be."""
    columns = 2 if count <= 4 else 3
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(WIDTH, (4 / columns) * rows + 0.8), layout="constrained")
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes in grid[count:]:
        axes.axis("off")
    for number, axes in enumerate(grid[:count]):
        sns.despine(ax=axes)
        axes.tick_params(labelbottom=number + columns >= count)  # nothing is below it
    return figure, grid[:count]
