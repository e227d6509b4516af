"""Trainings under way as a terminal shows them: the curve of one, a line for each of several."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mnist_exp.commands.terminal import WIDE
from mnist_exp.common.words import duration, percent, printable
from mnist_exp.showing.style import FAIL, GREY, MARKS, PASS, mark

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mnist_exp.runs.progress import Standing

ROWS = 10
"""Lines of a curve."""
MARGIN = len("99.40 % ")
ABOVE = 3
"""Those of them at the bar and above it, if anything is above."""
FARTHEST, LEAST = 0.02, 0.002
"""How far below the bar a curve is drawn at most, since the first epochs would flatten the rest,
and at least."""
COLUMN, LEAST_COLUMNS = 4, 60
"""Characters from one epoch to the next, where there is room, and of the whole at least."""
TRACK = 24
"""Characters of a bar of progress."""


def curve(accuracies: Mapping[int, float], epochs: int, bar: float, width: int) -> RenderableType:
    """Accuracies (fractions) by epoch, against the bar, in ROWS lines of so many characters.

    A filled circle reaches the bar, and a hollow one does not; an arrow is farther below than is
    drawn.
    """
    values = list(accuracies.values())
    highest, lowest = max([*values, bar]), min([*values, bar - LEAST])
    if max(values, default=bar) > bar - FARTHEST:
        lowest = max(lowest, bar - FARTHEST)
    below = ROWS - (ABOVE if highest > bar else 1)
    line = ROWS - below - 1
    columns = min(max(LEAST_COLUMNS, COLUMN * epochs), width - MARGIN)
    places = {epoch: int((epoch - 0.5) * columns / epochs) for epoch in range(1, epochs + 1)}
    cells = [[" "] * columns for _ in range(ROWS)]
    cells[line] = ["╌"] * columns
    for epoch, value in accuracies.items():
        if value >= bar:
            row, symbol = line - round(line * (value - bar) / (highest - bar or 1)), "●"
        elif value >= lowest:
            row, symbol = line + 1 + int((below - 1) * (bar - value) / (bar - lowest)), "○"
        else:
            row, symbol = ROWS - 1, "↓"
        cells[row][places[epoch]] = symbol
    labels = {0: percent(highest), line: percent(bar), ROWS - 1: percent(lowest)}
    drawn = []
    for row, characters in enumerate(cells):
        text = Text(f"{labels.get(row, ''):>{MARGIN - 1}} {''.join(characters)}", no_wrap=True)
        for symbol, colour in {"●": PASS, "○": FAIL, "↓": FAIL, "╌": GREY}.items():
            text.highlight_words([symbol], colour)
        drawn.append(text)
    first, last = places[1], places[epochs]
    axis = " " * (MARGIN + first) + "1"
    if epochs > 1:
        axis += f"{epochs}".rjust(MARGIN + last + 1 - len(axis))
    return Group(*drawn, Text(axis, no_wrap=True))


@dataclass(frozen=True)
class UnderWay:
    """A training under way, by its name; where it goes on, and how far it is, if that is known."""

    name: str
    where: str
    standing: Standing | None
    note: str = ""


def trainings(under_way: Collection[UnderWay], heading: str, width: int) -> RenderableType:
    """A table with a line for each training; nothing where there is none."""
    if not under_way:
        return ""
    wide = width >= WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(heading, no_wrap=True, overflow="ellipsis")
    table.add_column("epoch", justify="right", no_wrap=True)
    if wide:
        table.add_column("", width=TRACK)
    table.add_column("accuracy", justify="right", no_wrap=True)
    table.add_column("left", justify="right", no_wrap=True)
    table.add_column("on", no_wrap=True, overflow="ellipsis")
    for one in under_way:
        standing = one.standing
        cells: list[RenderableType] = [Text(printable(one.name))]
        cells.append(standing.place if standing else "starts")
        if wide:
            cells.append(share(standing))
        cells.append(percent(standing.accuracy) if standing else "–")
        cells.append(one.note or (time_left(standing) if standing else "–"))
        cells.append(Text(printable(one.where)))
        table.add_row(*cells)
    return table


def progress(standing: Standing, note: str) -> RenderableType:
    """The line of one training: its epoch, how much is done, a note, and the time left."""
    line = Table.grid(padding=(0, 1))
    left = time_left(standing)
    line.add_row(f"epoch {standing.place}", share(standing), f"{note}, {left} left")
    return line


def passing(counts: Mapping[str, tuple[int, int]]) -> RenderableType:
    """How many of how many seeds pass, by name."""
    text = Text("seeds that pass so far: ")
    for place, (name, (some, every)) in enumerate(counts.items()):
        symbol = mark(some, every) if every else "·"
        text.append("  " if place else "")
        text.append(symbol, MARKS.get(symbol, GREY))
        text.append(f" {printable(name)}: {some} of {every}")
    return text


def below(*parts: RenderableType) -> RenderableType:
    return Group(*(part for part in parts if part != ""))


def share(standing: Standing | None) -> RenderableType:
    done = standing.done if standing else 0
    return ProgressBar(1, done, TRACK, complete_style=PASS, finished_style=PASS, style=GREY)


def time_left(standing: Standing) -> str:
    return "–" if math.isnan(standing.left) else duration(standing.left)
