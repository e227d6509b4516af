"""What each layer of a network sees of the image, as texts and as a figure."""

import textwrap
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mnist_exp.showing import style
from mnist_exp.showing.style import GREY, INK, STYLE, TRAIN, WIDTH
from mnist_exp.showing.tables import plain

SIDES = ("height", "width")
LONGEST = 34
"""Letters of a layer's name beside its bar: of a longer one the middle is left out."""
USUAL = {"dilation": 1, "phases": 1, "global": False}
"""Columns that are shown only where a layer differs from this; older tables lack some of them."""


def shown_fields(table: pd.DataFrame) -> pd.DataFrame:
    """A receptive-field table as it is shown: text, `3x5` where height and width differ, each use
    of a layer told apart, and no column that says nothing.

    `start` and `misaligned` are shown where branches join: what a join sees follows from them.
    """
    joins = "misaligned" in along(table, "height") and along(table, "height")["misaligned"].notna()
    hidden = [] if pd.Series(joins).any() else ["start", "misaligned"]
    both = [along(table, side).drop(columns=hidden, errors="ignore") for side in SIDES]
    usual = [
        name for name, value in USUAL.items()
        if all(name in one and one[name].fillna(value).eq(value).all() for one in both)
    ]  # fmt: skip
    height, width = (one.drop(columns=usual).astype(object).map(_word) for one in both)
    texts = height.where(height == width, height + "x" + width)
    return texts.assign(layer=labels(table["layer"]))


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return plain(value)


def labels(layers: pd.Series) -> pd.Series:
    """The names of layers with each use told apart where a layer is used several times."""
    uses = layers + " (use " + (layers.groupby(layers).cumcount() + 1).astype(str) + ")"
    return layers.where(~layers.duplicated(keep=False), uses)


@mpl.rc_context(STYLE)
def receptive_field_growth(table: pd.DataFrame, stops: str = "") -> Figure:
    """How much of the input each layer sees: a bar as wide as its receptive field, over a band as
    wide as the image, one for each use of a layer. `table` is a receptive-field table, and `stops`
    says why it ends before the network does. Where the field differs between the axes, each axis
    has a panel of its own. Bars are hatched where numbers from all over the image come in as well.
    """
    sides = {side: along(table, side) for side in SIDES}
    drawn = [[one["n_out"].iloc[0], *one["r_out"]] for one in sides.values()]
    if drawn[0] == drawn[1]:
        del sides["height"]
    reason = textwrap.fill(f"It is not known from here on: {stops}", 88) if stops else ""
    lines = len(table) + reason.count("\n") + bool(reason)
    figure = Figure(figsize=(WIDTH, 0.6 + 0.3 * lines), layout="constrained")
    panels = figure.subplots(1, len(sides), sharey=True, squeeze=False).flat
    for axes, (side, layers) in zip(panels, sides.items(), strict=True):
        image = _draw_growth(axes, layers)
        long = f"pixels seen; the shaded band is the input, {image} pixels wide"
        axes.set_xlabel(long if len(sides) == 1 else f"pixels of the {side} seen, of {image}")
    axes.invert_yaxis()  # one call turns all panels, which share the axis
    if reason:
        figure.supxlabel(reason, fontsize=9, x=0.01, ha="left")
    return figure


def _draw_growth(axes: Axes, layers: pd.DataFrame) -> int:
    """Draw the bars along one axis of the image; returns its pixels."""
    seen, image = layers["r_out"].astype(int), int(layers["n_out"].iloc[0])
    axes.axvspan(-image / 2, image / 2, color=GREY, alpha=0.2, linewidth=0)
    bars = axes.barh(range(len(seen)), seen, left=-seen / 2, color=TRAIN, height=0.7)
    everywhere = _everywhere(layers)
    for bar, is_hatched in zip(bars, everywhere, strict=True):
        bar.set(hatch="///" if is_hatched else "", edgecolor=INK, linewidth=0)
    texts = [f"{r}{' + global' * more}" for r, more in zip(seen, everywhere, strict=True)]
    axes.bar_label(bars, labels=texts, fontsize=9, padding=3)
    names = [
        name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[1 - LONGEST // 2 :]}"
        for name in labels(layers["layer"])
    ]
    axes.set_yticks(range(len(seen)), names)
    axes.axvline(-image / 2, color=INK, linestyle="--", linewidth=1)
    axes.axvline(image / 2, color=INK, linestyle="--", linewidth=1)
    axes.set_xticks([])
    widest = max(image, seen.max())
    axes.set_xlim(-0.54 * widest, (0.7 if any(everywhere) else 0.58) * widest)
    axes.margins(y=0.02)
    style.despine(axes)
    axes.spines["bottom"].set_visible(False)
    return image


def _everywhere(layers: pd.DataFrame) -> list[bool]:
    """Whether more than its field reaches each layer; tables of before never say so."""
    if "global" not in layers:
        return [False] * len(layers)
    return [bool(value) for value in layers["global"].fillna(False)]


def along(table: pd.DataFrame, side: str) -> pd.DataFrame:
    """A receptive-field table along one side of the image, "height" or "width": the column `r_out`
    is what the table has as `r_out_height` and `r_out_width` where the two differ, and so with the
    others."""
    other = "width" if side == "height" else "height"
    others = [name for name in table if str(name).endswith(f"_{other}")]
    return table.drop(columns=others).rename(columns=lambda name: name.removesuffix(f"_{side}"))
