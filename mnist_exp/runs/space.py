"""The space of a study: what values its trials may give to which fields of a recipe."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mnist_exp.common.errors import ExpectedError
from mnist_exp.recipe import Recipe
from mnist_exp.runs.fields import Value, value_of
from mnist_exp.runs.overrides import overridden, read_lists, read_value, read_words, value_as_text

NUMBER = r"([-+]?[\d.]+(?:e[-+]?\d+)?)"
EXAMPLE = "as in optimizer.lr=0.01..0.3:log batch_size=32,64,128"


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`: whole ones where both are whole, and on a logarithmic scale
    or not."""

    low: int | float
    high: int | float
    log: bool

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values at both ends."""
        return self.low, self.high

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def short(self, value: float) -> float:
        """A value of the range with four digits that tell it from others, as 0.02515 of
        0.02515447: behind 0.99 in a range from 0.99 to 0.9999, they begin later."""
        size = min(abs(value), self.high - self.low)
        if self.whole or not 0 < size < math.inf:
            return value
        digits = 3 - math.floor(math.log10(size))
        return min(max(round(value, digits), self.low), self.high)


@dataclass(frozen=True)
class Choices:
    """One of these values."""

    values: tuple[Value, ...]

    @property
    def ends(self) -> tuple[Value, ...]:
        """All of them: there is no order."""
        return self.values


Space = Mapping[str, Range | Choices]
"""By field, in the order of the names."""


def read_space(text: str, recipe: Recipe, epochs: int | None) -> Space:
    """The space from the text of a setting, for a recipe whose epochs may be given besides.

    Raises ExpectedError, which names the field, for what is no space, and for a value in it that
    the recipe cannot take.
    """
    space = {name: _dimension(recipe, name, written) for name, written in sorted(read_words(text))}
    if not space:
        raise ExpectedError(f"SPACE= is needed, {EXAMPLE}")
    if epochs and "epochs" in space:
        raise ExpectedError(
            "epochs is given twice, by EPOCHS= and by SPACE=: leave one of them out"
        )
    for name in space:
        owner = name.rpartition(".")[0]
        if owner in space:
            raise ExpectedError(
                f"{name}: {owner} is in the space as well, and may be left out: a study is about "
                "one of them"
            )
    return space


def _dimension(recipe: Recipe, name: str, written: str) -> Range | Choices:
    matched = re.fullmatch(r"([^'\"(\[,]+?)\.\.([^:]+)(:.*)?", written)
    if not matched or "..." in written:  # 0.1...2 could end at 2 or at 0.2
        values = _listed(name, written)
        return Choices(tuple(_taken(recipe, name, value) for value in values))
    bounds = [_taken(recipe, name, read_value(name, matched[n])) for n in (1, 2)]
    low, high = (
        x if isinstance(x, int | float) and not isinstance(x, bool) else None for x in bounds
    )
    shown = f"{name}={written[:60]}"
    if low is None or high is None:
        raise ExpectedError(f"{shown}: a range goes from a number to another, {EXAMPLE}")
    if low >= high:
        raise ExpectedError(f"{shown}: a range goes up, {EXAMPLE}")
    if matched[3] not in (None, ":log"):
        raise ExpectedError(f"{shown}: behind a range stands :log or nothing, {EXAMPLE}")
    log = matched[3] is not None
    if log and low <= 0:
        raise ExpectedError(f"{shown}: a logarithm is of numbers above 0, {EXAMPLE}")
    return Range(low, high, log)


def _listed(name: str, written: str) -> list[Value]:
    """The values of a list; for what is none, the error says how a range is written."""
    try:
        return read_lists(f"{name}={written}")[name]
    except ExpectedError:
        ends = re.fullmatch(rf"{NUMBER}(?:-|:|to){NUMBER}(:log)?", written, re.IGNORECASE)
        guess = f"did you mean {ends[1]}..{ends[2]}{ends[3] or ''}? " if ends else ""
        raise ExpectedError(
            f"{name}={written[:60]}: {guess}a range is written 0.01..0.2, or 0.01..0.2:log, and a "
            f"list with commas, {EXAMPLE}"
        ) from None


def _taken(recipe: Recipe, name: str, value: Value) -> Value:
    """A value as the recipe takes it: 1.0 for 1 where a field takes any number."""
    return value_of(overridden(recipe, {name: value}), name)


def space_text(space: Space) -> str:
    """The space as text: the same for the same space."""
    return " ".join(f"{name}={_written(dimension)}" for name, dimension in space.items())


def _written(dimension: Range | Choices) -> str:
    if isinstance(dimension, Range):
        return f"{dimension.low!r}..{dimension.high!r}{':log' if dimension.log else ''}"
    return ",".join(map(value_as_text, dimension.values))
