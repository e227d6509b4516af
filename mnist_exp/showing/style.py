"""What all figures have in common.

Colours mean the same in every figure, and are told apart by colour-blind readers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnist_exp.common.words import percent
from mnist_exp.recipe import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN, HELD_OUT, PASS, FAIL = "#0173b2", "#de8f05", "#029e73", "#d55e00"
"""The first of seaborn's palette `colorblind`."""
MARKS = {"●": PASS, "◐": HELD_OUT, "○": FAIL}
"""What stands for a target that is met on all, on some and on no seeds, and its colour."""
INK, GREY, PAPER = "#222222", "#8a8a8a", "#fffffe"
"""INK and PAPER stand for themselves in a file; a page replaces them by its own."""
TEXT = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
STYLE: Any = dict.fromkeys(TEXT, INK) | {
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "axes.unicode_minus": False,  # as in tables
    "text.parse_math": False,  # names show as they are
}
WIDTH = 6.4
"""Inches; narrow, so that the words stay readable on a phone."""


def mark(passing: int, seeds: int) -> str:
    """Which of MARKS stands for so many passing seeds of all."""
    every, some, none = MARKS
    return every if passing == seeds else some if passing else none


def bar(axes: Axes, target: Target, *, label: bool) -> None:
    """The accuracy that the target asks for, as a line."""
    axes.axhline(target.test_accuracy, color=INK, linestyle="--", linewidth=1)
    if label:
        axes.annotate(
            percent(target.test_accuracy), (0.01, target.test_accuracy), fontsize=8, va="bottom",
            xycoords=("axes fraction", "data"), annotation_clip=True,  # where the line is in sight
        )  # fmt: skip


def size_limit(axes: Axes, target: Target) -> None:
    """The number of parameters that the target asks to stay below, as a line."""
    axes.axvline(target.parameters_below, color=INK, linestyle=":", linewidth=1)
    axes.annotate(
        f"{target.parameters_below:,} parameters", (target.parameters_below, 0), fontsize=8,
        xycoords=("data", "axes fraction"), textcoords="offset points", xytext=(4, 4),
    )  # fmt: skip


def despine(axes: Axes) -> None:
    """Leave the axes to the left and below."""
    axes.spines[["top", "right"]].set_visible(False)
