"""Figures that compare iterations: DataFrames in, matplotlib figures out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)

from mnist_exp.common.words import counted, percent
from mnist_exp.evidence.effect import Effect
from mnist_exp.recipe import Target
from mnist_exp.showing import limits
from mnist_exp.showing.style import (
    FAIL,
    GREY,
    HELD_OUT,
    INK,
    PASS,
    STYLE,
    TRAIN,
    WIDTH,
    bar,
)

MOST_PANELS = 30
"""Of more, none could be read."""
LARGEST = 2
"""The price is drawn up to this multiple of the parameters that the target asks for."""
FAR = 5
"""An effect larger than so many of the usual ones has its place on another scale."""
MOST_NAMES = 12
"""Of more points, names would cover each other."""
SHORT_NAME = 12
"""Characters of an iteration's name that leave room beside it."""
MOST_LINES = 10
"""With more seeds than this, a band from the lowest to the highest takes the place of lines."""


@mpl.rc_context(STYLE)
def accuracy_by_seed(
    runs: pd.DataFrame, history: pd.DataFrame, target: Target | None,
    labels: Mapping[int, str] | None = None, split: str = "test",
    families: Mapping[int, int] | None = None,
) -> Figure:  # fmt: skip
    """Accuracy per epoch in training and on a split, one panel per iteration: a thin line per seed
    and the mean over them. More than MOST_PANELS iterations share panels: each has the means of a
    family, by `families` those that were made from the same one.

    `runs` have `run_id`, `model` and `seed`; `history` is theirs. The `labels` are what panels call
    the iterations; the `target` is drawn where there is one.
    """
    parts = {"train_accuracy": TRAIN, f"{split}_accuracy": HELD_OUT}
    columns = ["run_id", "epoch", *parts]
    rows = history.reindex(columns=columns).merge(runs[["run_id", "model", "seed"]], on="run_id")
    models = sorted(rows["model"].unique())
    names = {model: f"model {model}" for model in models} | dict(labels or {})
    groups = in_panels(models, families or {})
    figure, panels = _panels(len(groups))
    for number, (axes, group) in enumerate(zip(panels, groups, strict=True)):
        epochs = rows[rows["model"].isin(group)]
        if len(group) == 1:
            for accuracy, colour in parts.items():
                _draw_seeds(axes, epochs, accuracy, colour)
            _name_panel(axes, names[group[0]], counted(epochs["seed"].nunique(), "seed"))
        else:
            _draw_family(axes, epochs, f"{split}_accuracy", names)
        _frame_curves(axes, epochs, f"{split}_accuracy", target)
        if target:
            _draw_bar(axes, target, label=number == 0)
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("accuracy", fontsize=10)
    lines = [
        Line2D([], [], color=colour, label=part)
        for part, colour in zip(("train", split), parts.values(), strict=True)
    ]
    if len(groups) == len(models):
        figure.legend(handles=lines, loc="outside upper right", ncols=2, frameon=False)
    return figure


def in_panels(models: Sequence[int], families: Mapping[int, int]) -> list[list[int]]:
    """Which iterations share a panel: none, or else those of a family, or else neighbours, so that
    there are at most MOST_PANELS."""
    if len(models) <= MOST_PANELS:
        return [[model] for model in models]
    by_family: dict[int, list[int]] = {}
    for model in models:
        by_family.setdefault(families.get(model, 0), []).append(model)
    if 1 < len(by_family) <= MOST_PANELS:
        return list(by_family.values())
    size = math.ceil(len(models) / MOST_PANELS)
    return [list(models[start : start + size]) for start in range(0, len(models), size)]


def _draw_family(
    axes: Axes, epochs: pd.DataFrame, accuracy: str, names: Mapping[int, str]
) -> None:  # fmt: skip
    """A line for the mean of each iteration, with its name in the legend."""
    for model, own in epochs.groupby("model"):
        mean = own.groupby("epoch")[accuracy].mean()
        axes.plot(mean.index, mean, linewidth=1.4, label=names[int(str(model))])
    axes.legend(fontsize=6, frameon=False, loc="lower right")


def _name_panel(axes: Axes, name: str, seeds: str) -> None:
    if len(name) > SHORT_NAME:  # a panel is not wide enough for both
        axes.set_title(f"{name}\n{seeds}", fontsize=8)
    else:
        axes.set_title(f"{name}, {seeds}", fontsize=9)


def _frame_curves(
    axes: Axes, epochs: pd.DataFrame, accuracy: str, target: Target | None
) -> None:  # fmt: skip
    """Scale a panel to the second half of its trainings: to the bar, or lower where they are."""
    if epochs[accuracy].notna().any():
        bar_at = target.test_accuracy if target else None
        axes.set_ylim(limits.of_curves(epochs, accuracy, bar_at))
    axes.set(xlabel="", ylabel="")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=2, symbol=" %"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))


def _draw_seeds(axes: Axes, epochs: pd.DataFrame, accuracy: str, colour: str) -> None:
    """A line for each seed and one for their mean, or a band where there are many."""
    line: Any = {"data": epochs, "x": "epoch", "y": accuracy, "ax": axes, "color": colour}
    if epochs["epoch"].nunique() == 1:  # of which a line is not to be seen
        line["marker"] = "o"
    many = epochs["seed"].nunique() > MOST_LINES
    if not many:
        sns.lineplot(**line, units="seed", estimator=None, linewidth=0.6, alpha=0.5)
    sns.lineplot(**line, errorbar=("pi", 100) if many else None, linewidth=1.8)


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
def price(
    verdicts: pd.DataFrame, target: Target, public: pd.DataFrame,
    labels: Mapping[int, str] | None = None,
) -> Figure:  # fmt: skip
    """What accuracy costs: parameters against the worst test accuracy of the last epochs, over all
    seeds, with the frontier of those that no other beats in both, and the `public` results beside
    them, of one seed each (`references.public_results`). What is far below the target has a panel
    of its own, on another scale, and what is far larger stands at the right edge, unless all do.
    Few iterations are called by their `labels`, if there are any, and others by their numbers."""
    points = verdicts.dropna(subset="worst_accuracy")
    lower = points["worst_accuracy"] < target.test_accuracy - limits.REACH
    larger = points["parameters"] > LARGEST * target.parameters_below
    lower &= not lower.all()
    larger &= not larger.all()
    figure = Figure(figsize=(4.2, 4.6), layout="constrained")
    panels = list(
        figure.subplots(2, 1, sharex=True, height_ratios=(4, 1)) if lower.any()
        else [figure.subplots()]
    )  # fmt: skip
    _frame(panels[0], points[~lower], points[~larger], target, public)
    names = short_labels(points["model"], labels or {})
    for axes, rows in zip(panels, (points[~lower], points[lower]), strict=False):
        _draw_verdicts(axes, rows, larger, names)
        axes.axvline(target.parameters_below, color=INK, linestyle=":", linewidth=1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=2, symbol=" %"))
        sns.despine(ax=axes)
    upper, last = panels[0], panels[-1]
    _draw_public(upper, public)
    _draw_frontier(upper, points[~larger])
    bar(upper, target, label=True)
    upper.set_ylabel(f"worst test accuracy of the last {target.last_epochs} epochs")
    last.set_xlabel(f"parameters (dotted: {target.parameters_below:,})")
    if last is not upper:
        _break_axis(upper, last, points.loc[lower, "worst_accuracy"])
    figure.legend(
        *upper.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False,
        fontsize=7.5, handlelength=1.2, columnspacing=1,
    )  # fmt: skip
    return figure


def _break_axis(upper: Axes, lower: Axes, accuracies: pd.Series) -> None:
    """Show that the lower panel goes on below the upper one, on another scale."""
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(bottom=False, which="both")
    lower.set_ylim(limits.around(accuracies, None))
    lower.yaxis.set_major_locator(MaxNLocator(nbins=3))
    for axes, end in ((upper, 0), (lower, 1)):
        axes.plot(
            [0], [end], transform=axes.transAxes, marker=[(-1, -0.6), (1, 0.6)], markersize=9,
            linestyle="none", color=INK, clip_on=False,
        )  # fmt: skip


def short_labels(models: Iterable[int], labels: Mapping[int, str]) -> dict[int, str]:
    """What each iteration is called beside its point: its number where names would cover others."""
    numbers = {model: str(model) for model in models}
    return numbers if len(numbers) > MOST_NAMES else numbers | dict(labels)


def _draw_verdicts(
    axes: Axes, points: pd.DataFrame, larger: pd.Series, names: Mapping[int, str]
) -> None:
    """A mark for each iteration, with its name; at the right edge where it is `larger`."""
    edge = axes.get_xlim()[1] / 1.04
    places = points.assign(x=points["parameters"].mask(larger[points.index], edge))
    met, passing = places["met"], places["passing"] > 0
    for alike, colour, marker, words in (
        (places[met], PASS, "o", "met on every seed"),
        (places[passing & ~met], HELD_OUT, "D", "on some seeds"),
        (places[~passing & ~met], FAIL, "X", "on none"),
    ):
        axes.scatter(
            alike["x"], alike["worst_accuracy"], color=colour, marker=marker, zorder=3, label=words,
            s=32 if marker == "D" else 50,
        )  # fmt: skip
    for _, crowd in places.sort_values("worst_accuracy").groupby(np.log2(places["x"]).round()):
        rows: Any = crowd.itertuples()
        for place, row in enumerate(rows):
            side = 1 if place % 2 and row.x < edge else -1  # neighbours would cover each other's
            axes.annotate(
                f"{names[row.model]} →" if row.x == edge else names[row.model],
                (row.x, row.worst_accuracy), textcoords="offset points", xytext=(6 * side, 0),
                ha="left" if side > 0 else "right", va="center", fontsize=8,
            )  # fmt: skip


def _draw_public(axes: Axes, public: pd.DataFrame) -> None:
    """A mark for each public result, if there are any, with the name of its owner."""
    if public.empty:
        return
    axes.scatter(
        public["parameters"], public["lowest"], color=GREY, marker="s", s=24, facecolors="none",
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
        label="frontier",
    )  # fmt: skip


def _frame(
    axes: Axes, high: pd.DataFrame, small: pd.DataFrame, target: Target, public: pd.DataFrame
) -> None:
    """Scale the axes: from top to bottom to those that are `high`, and from left to right to those
    that are `small`, with the target and what is public."""
    heights = pd.concat([high["worst_accuracy"], public["lowest"]])
    axes.set_ylim(limits.around(heights, target.test_accuracy))
    sizes = pd.concat([small["parameters"], public["parameters"]])
    fewest, most = sizes.min(), max(sizes.max(), target.parameters_below)
    axes.set(xscale="log", xlim=(0.8 * fewest, 1.4 * most))
    steps = (1,) if most > 20 * fewest else (2, 4, 8)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


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
    against one that is the same for all. Where few are so large that the rest would be dots on
    zero, the rest has a panel of its own."""
    figure = Figure(figsize=(WIDTH, 1.2 + 0.27 * len(steps)), layout="constrained")
    sizes = pd.Series([100 * abs(step.mean) for step in steps])
    near = FAR * sizes.median()
    apart = near > 0 and sizes.max() > near
    panels = figure.subplots(
        1, 1 + apart, sharey=True, squeeze=False, width_ratios=(3, 1) if apart else None
    ).flat
    for axes in panels:
        _draw_effects(axes, steps)
        sns.despine(ax=axes)
    texts = [labels[s.model] if labels else f"{s.baseline} → {s.model}" for s in steps]
    panels[0].set_yticks(range(len(steps)), texts)
    panels[0].set_ylim(len(steps) - 0.4, -0.6)
    if apart:
        panels[0].set_xlim(-near, near)
        for row, step in enumerate(steps):  # what lies outside, where it lies
            if abs(100 * step.mean) > near:
                side, mark = (near, ">") if step.mean > 0 else (-near, "<")
                panels[0].plot(side, row, mark, color=GREY, markersize=5, clip_on=False)
        panels[0].set_title("the smaller ones, enlarged", fontsize=9)
        panels[1].set_title("all", fontsize=9)
    against = f" to model {steps[0].baseline},\n" if labels else ", "
    text = f"difference of final {split} accuracy{against}percentage points"
    panels[0].set_xlabel(text)
    panels[0].set_ylabel("" if labels else "model")
    return figure


def _draw_effects(axes: Axes, steps: Sequence[Effect]) -> None:
    """A row for each: the mean, and its interval as a bar."""
    axes.axvline(0, color=GREY, linewidth=1)
    for row, step in enumerate(steps):
        if step.interval:
            low, high = (100 * bound for bound in step.interval)
            axes.plot([low, high], [row, row], color=HELD_OUT, linewidth=2.5)
        fill = HELD_OUT if step.interval else "none"
        axes.plot(100 * step.mean, row, "o", color=HELD_OUT, markerfacecolor=fill, markersize=5)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Panels with the same epochs, so that what is slower is seen to be."""
    columns = 2 if count <= 4 else 3
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(WIDTH, (4 / columns) * rows + 0.8), layout="constrained")
    grid = list(figure.subplots(rows, columns, sharex=True, squeeze=False).flat)
    for axes in grid[count:]:
        axes.axis("off")
    for number, axes in enumerate(grid[:count]):
        sns.despine(ax=axes)
        axes.tick_params(labelbottom=number + columns >= count)  # nothing is below it
    return figure, grid[:count]
