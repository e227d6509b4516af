"""Overrides: what a run sets otherwise than the recipe of its file does.

They bear the names of `Recipe.hyperparameters`, as in `augment=none optimizer.lr=0.05`. This text
is what SET= takes, what a run keeps as its tag, and what a sweep sends to its workers: a value that
was written is read back as it was, to the last bit.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from mnist_exp.common.errors import ExpectedError
from mnist_exp.recipe import Recipe
from mnist_exp.runs.blame import IterationError
from mnist_exp.runs.fields import Value, changed, own_value, value_of

ALIASES = {"learning_rate": "optimizer.lr"}
"""What the records call otherwise than the recipe does; they have "step." before a field that a
subclass adds."""
EXAMPLE = "as in optimizer.lr=0.05 batch_size=32 augment=none"

Overrides = Mapping[str, Value]
"""By the names of the fields."""
NONE: Overrides = MappingProxyType({})


def read(text: str, epochs: int | None = None) -> dict[str, Value]:
    """Overrides from text: `NAME=value` words, of which the values are numbers, True, False, none,
    texts in quotes, and tuples or lists of them. That of the epochs may be given besides.

    Raises ExpectedError, in which a field is named, for anything else.
    """
    lists = read_lists(text if epochs is None else f"{text} epochs={epochs}")
    for name, values in lists.items():
        if len(values) > 1:
            raise ExpectedError(
                f"{name} has {len(values)} values, and a run takes one: make sweep SET= tries a "
                f"list, and {name}=({value_as_text(values[0])}, ...) is one value"
            )
    return {name: value for name, (value,) in lists.items()}


def read_lists(text: str) -> dict[str, list[Value]]:
    """As `read`, but for several values of each field, with commas between them, each once."""
    lists: dict[str, list[Value]] = {}
    for name, written in read_words(text):
        values = [read_value(name, part) for part in split(written, ",".__eq__)]
        lists[name] = [value for i, value in enumerate(values) if not _among(value, values[:i])]
    return lists


def read_words(text: str) -> list[tuple[str, str]]:
    """The names in a text such as "batch_size=32 augment=none", each with what stands behind it."""
    words: dict[str, str] = {}
    for word in filter(None, split(text, str.isspace)):
        name, equals, written = word.partition("=")
        if not equals or not written or not all(map(str.isidentifier, name.split("."))):
            raise ExpectedError(f"{word[:60]}: NAME=value is needed, {EXAMPLE}")
        name = ALIASES.get(name, name.removeprefix("step."))
        if name in words:
            raise ExpectedError(f"{name} is given twice: {words[name][:40]} and {written[:40]}")
        words[name] = written
    return list(words.items())


def read_value(name: str, text: str) -> Value:
    """A value of the field `name` from text; raises ExpectedError, which names both."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a number that runs into a word
            value = None if text == "none" else ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = ...
    if not _is_value(value):
        raise ExpectedError(
            f"{name}={text[:60]}: a number, True, False, none, a text in quotes, or a tuple of "
            f"them is needed, {EXAMPLE}"
        )
    return value


def as_words(overrides: Overrides) -> str:
    """What `read` reads: the same text for the same overrides, and empty where there are none."""
    return " ".join(f"{name}={value_as_text(value)}" for name, value in sorted(overrides.items()))


def value_as_text(value: Value) -> str:
    return "none" if value is None else repr(value)


def differing(recipe: Recipe, overrides: Overrides) -> dict[str, Value]:
    """Those of the overrides that are not what the recipe has anyway, as the recipe would have
    them: 1.0 for 1 where a field takes any number.

    Raises ExpectedError for what `overridden` refuses.
    """
    new = overridden(recipe, overrides)
    return {
        name: value
        for name in overrides
        if not _among(value := value_of(new, name), [own_value(recipe, name)])
    }


def overridden(recipe: Recipe, overrides: Overrides) -> Recipe:
    """A recipe with other values; the objects of the one that is given stay as they are.

    Raises ExpectedError, which names the field, for one that the recipe does not have, and for a
    value that it cannot take.
    """
    for name, value in sorted(overrides.items()):  # a part first: `augment=none augment.degrees=7`
        recipe = changed(recipe, name, value)
    return recipe


@contextmanager
def named(overrides: Overrides) -> Iterator[None]:
    """A block in which an error, which names a line of the file, names the overrides as well."""
    try:
        yield
    except IterationError as error:
        if set(overrides) - {"epochs"}:  # which is no reason for what a line of the file does
            error.add_note(f"it is overridden by {as_words(overrides)}")
        raise


def split(text: str, ends: Callable[[str], bool]) -> list[str]:
    """The parts of a text between the characters that `ends` says yes to, but for those in brackets
    and in quotes."""
    parts, depth, quote, escaped = [""], 0, "", False
    for character in text:
        if quote:
            closes = character == quote and not escaped
            escaped = character == "\\" and not escaped
            quote = "" if closes else quote
        elif character in "'\"":
            quote = character
        elif depth <= 0 and ends(character):
            parts.append("")
            continue
        else:
            depth += (character in "([{") - (character in ")]}")
        parts[-1] += character
    return parts


def _is_value(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_value, value))
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return value.bit_length() < 64
    return value is None or isinstance(value, str)


def _among(value: object, others: Sequence[object]) -> bool:
    """Whether a value is one of the others; 1 is 1.0, but not True."""
    return any(
        value == other and isinstance(value, bool) == isinstance(other, bool) for other in others
    )
