"""The grid of a sweep: lists of overrides, of which every product is tried."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook.entries import Entry
from mnist_exp.runs import check
from mnist_exp.runs.fields import Value
from mnist_exp.runs.overrides import as_words, differing, read_lists

MOST = 1_000
"""Points of a grid: more are a slip of the pen."""
LONGEST = 100
"""Characters of a grid that stand in the name of a run, which has an end."""

Grid = Mapping[str, list[Value]]


@dataclass(frozen=True)
class Point:
    """A point of the grid, for one iteration: what was `asked` for; and what of that its file does
    not have anyway: `epochs` (None for those of the file), and the other `overrides`. Both texts
    are as `overrides.read` takes them. `own` says that the file has all of it."""

    asked: str
    epochs: int | None
    overrides: str
    own: bool


def read_grid(text: str, split: str, epochs: int | None) -> Grid:
    """The grid from the text of a setting, where all epochs may be given besides.

    Raises ExpectedError for what is no grid, and for one that would choose by the test set.
    """
    grid = read_lists(text)
    if epochs and "epochs" in grid:
        raise ExpectedError("epochs is given twice, by EPOCHS= and by SET=: leave one of them out")
    count = math.prod(map(len, grid.values()))
    if count > MOST:
        raise ExpectedError(f"SET={text[:60]}: a grid has at most {MOST:,} points, not {count:,}")
    if split == "test" and count > 1:
        raise ExpectedError(
            f"SET={text[:60]}: of a list somebody will choose, and the test set is not there to "
            "choose by: add SPLIT=validation"
        )
    return grid


def grid_points(grid: Grid, entry: Entry, seed: int, epochs: int | None) -> tuple[Point, ...]:
    """The points of the grid for an iteration; one, if there is no grid: the iteration as it is.

    Raises ExpectedError for overrides that its recipe cannot take.
    """
    if not grid:
        return (Point("", epochs, "", own=True),)
    recipe = check.recipe_from(entry, seed)
    found = []
    for values in itertools.product(*grid.values()):
        asked = dict(zip(grid, values, strict=True))
        try:
            others = differing(recipe, asked)
        except ExpectedError as error:
            raise ExpectedError(f"model {entry.number}: {error}") from None
        own, some = not others, others.pop("epochs", epochs)
        whole: Any = some
        found.append(Point(as_words(asked), whole, as_words(others), own))
    return tuple(found)


def in_short(text: str) -> str:
    """The text of a grid as it stands in the name of a run: the same for the same text."""
    words = " ".join(text.split())
    if len(words) <= LONGEST:
        return words
    return f"{words[:LONGEST]}… {hashlib.sha256(words.encode()).hexdigest()[:8]}"
