"""What a person can set, and how it reaches a command.

A command is a function: its parameters are what it takes, and its docstring is its help. The
parameter `seed: Seed = 1` is the setting SEED, given as in `SEED=3` after the command or in the
environment, where make puts it. Nothing is said of a setting anywhere else.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
import platform
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args, get_type_hints

from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import printable

Command = Callable[..., int]
"""Returns its exit code."""
COMMANDS: dict[str, Command] = {}
"""By name, in the order in which they are listed."""
MOST = 10_000
"""Numbers in a list of them."""
LONGEST_PATH = 500
"""Characters of a path that is given."""


def command(function: Command) -> Command:
    """Make `_run(model: Model, seed: Seed = 1)` the command `run MODEL=5 SEED=3`."""
    COMMANDS[function.__name__.strip("_")] = function
    return function


class Kind(Protocol):
    """How the text of a setting is read; `example` is such a text."""

    @property
    def example(self) -> str: ...

    def read(self, name: str, text: str) -> Any:
        """The value of the setting `name`. Raises ExpectedError, which says what is needed."""


@dataclass(frozen=True)
class WholeNumber:
    least: int
    most: int
    example: str

    def read(self, name: str, text: str, given: str = "") -> int:
        """The number; `given` is what it is a part of, as `41-` is of an unfinished range."""
        digits = text.isascii() and text.isdigit() and len(text) <= 10
        if not (digits and self.least <= int(text) <= self.most):
            raise ExpectedError(
                f"{name}={(given or text)[:40]}: a whole number from {self.least} to "
                f"{self.most} is needed, as in {name}={self.example}"
            )
        return int(text)


@dataclass(frozen=True)
class Share:
    """A number between 0 and 1, both excluded."""

    example: str

    def read(self, name: str, text: str) -> float:
        if not re.fullmatch(r"0?\.[0-9]{1,6}", text) or float(text) == 0:
            raise ExpectedError(
                f"{name}={text[:40]}: a number between 0 and 1 is needed, as in "
                f"{name}={self.example}"
            )
        return float(text)


@dataclass(frozen=True)
class NumberOrNone:
    """Such as `6`, or `none`, which is read as 0."""

    number: WholeNumber

    @property
    def example(self) -> str:
        return f"{self.number.example} or none"

    def read(self, name: str, text: str) -> int:
        return 0 if text.strip().lower() == "none" else self.number.read(name, text)


@dataclass(frozen=True)
class WholeNumbers:
    """Such as `"3 6"`, `3,6` and `3-6`: sorted, and each once."""

    each: WholeNumber

    @property
    def example(self) -> str:
        return self.each.example

    def read(self, name: str, text: str) -> list[int]:
        ranges = []
        for part in re.split(r"\s*,\s*|\s+", text.strip()):
            given = part or text.strip()
            bounds = [self.each.read(name, bound, given) for bound in part.split("-", 1)]
            ranges.append(range(bounds[0], bounds[-1] + 1))
        if not all(ranges) or sum(map(len, ranges)) > MOST:
            raise ExpectedError(
                f"{name}={text[:40]}: a range goes up, as in {name}=101-110, and to {MOST} "
                f"{name.lower()} at most"
            )
        return sorted({number for numbers in ranges for number in numbers})


@dataclass(frozen=True)
class SeedRanges:
    """`5` is the seeds 1 to 5; `101-110`, `1,4,9` and `"1 4 9"` are those."""

    example: str

    def read(self, name: str, text: str) -> list[int]:
        if re.fullmatch(r"[^-,\s]+", text.strip()):
            count = WholeNumber(1, MOST, self.example).read(name, text.strip())
            return list(range(1, count + 1))
        return WholeNumbers(WholeNumber(0, 2**32 - 1, f"5 or {name}=101-110")).read(name, text)


@dataclass(frozen=True)
class IterationOrHash:
    """The number of an iteration, or the first digits of a candidate's hash."""

    example: str

    def read(self, name: str, text: str) -> int | str:
        if re.fullmatch("[0-9]{1,4}", text) and int(text) > 0:
            return int(text)
        if re.fullmatch("[0-9a-f]{7,64}", text.lower()):
            return text.lower()
        raise ExpectedError(
            f"{name}={text[:40]}: a whole number from 1 to 9999 is needed, as in "
            f"{name}={self.example}, or 7 or more digits of a candidate's hash"
        )


@dataclass(frozen=True)
class RunIdOrBeginning:
    """The id of a run, or its first digits: the store knows whether they are of one run alone."""

    example: str = "3f2a9c1d"

    def read(self, name: str, text: str) -> str:
        if re.fullmatch("[0-9a-f]{4,32}", text.strip().lower()):
            return text.strip().lower()
        raise ExpectedError(
            f"{name}={text[:40]}: the id of a run, or 4 or more of its first digits, is needed, as "
            f"in {name}={self.example}: make runs lists them"
        )


@dataclass(frozen=True)
class RunIdsOrBeginnings:
    """Such as `"3f2a 9c1d"`, in their order."""

    each: RunIdOrBeginning

    @property
    def example(self) -> str:
        return self.each.example

    def read(self, name: str, text: str) -> list[str]:
        return [self.each.read(name, word) for word in re.split(r"[\s,]+", text.strip(" ,"))]


@dataclass(frozen=True)
class On:
    """Whether something is switched on."""

    example: str = "1"

    def read(self, name: str, text: str) -> bool:
        if text != "1":
            raise ExpectedError(f"{name}={text[:40]}: to switch it on, set 1")
        return True


@dataclass(frozen=True)
class Text:
    """What only the command itself can judge."""

    example: str

    def read(self, name: str, text: str) -> str:
        if not text.strip():
            raise ExpectedError(f"{name}= is needed, as in {name}={self.example}")
        return text


@dataclass(frozen=True)
class Title:
    """What people are to read, in one line."""

    example: str
    longest: int = 60

    def read(self, name: str, text: str) -> str:
        title = text.strip()
        if not title or len(title) > self.longest or printable(title) != title:
            raise ExpectedError(
                f"{name}={text[:40]}: 1 to {self.longest} letters in one line are needed, as in "
                f"{name}={self.example}"
            )
        return title


@dataclass(frozen=True)
class FilePath:
    """The path of a file; `~` at its beginning is the home folder."""

    example: str

    def read(self, name: str, text: str) -> Path:
        path = Path(text.strip())
        with contextlib.suppress(RuntimeError):  # of a user who does not exist
            path = path.expanduser()
        if not text.strip() or len(text) > LONGEST_PATH or "\0" in text:
            raise ExpectedError(f"{name}={text[:40]}: a file, as in {name}={self.example}")
        return path


def settings(command: Command) -> dict[str, tuple[inspect.Parameter, Kind]]:
    """What a command takes, by the name under which it is set."""
    hints = get_type_hints(command, include_extras=True)
    return {
        name.strip("_").upper(): (parameter, _kind(hints[name]))  # `from` is a word of Python's
        for name, parameter in inspect.signature(command).parameters.items()
    }


def _kind(hint: Any) -> Kind:
    """What stands beside the type in `Seed`, or in `Seed | None`."""
    annotated = next((part for part in get_args(hint) if hasattr(part, "__metadata__")), hint)
    kind: Kind = annotated.__metadata__[0]
    return kind


def bind(name: str, command: Command, words: Iterable[str]) -> dict[str, Any]:
    """The arguments with which to call a command, from words such as `SEED=3` and the environment.

    An empty text counts as not given. Raises ExpectedError for a word or a value that cannot be
    understood, for a setting that the command does not take, and for one that it needs.
    """
    taken = settings(command)
    texts = {setting: os.environ.get(setting, "") for setting in taken}
    if texts.get("NAME") == platform.node():  # as Windows' Linux sets it
        texts["NAME"] = ""
    for word in words:
        setting, equals, text = word.partition("=")
        if not equals:
            raise ExpectedError(f"{word[:40]}: NAME=value is needed, as in MODEL=5")
        refuse_others(name, taken, [setting])
        texts[setting] = text
    return {
        parameter.name: kind.read(setting, texts[setting])
        for setting, (parameter, kind) in taken.items()
        if texts[setting] or parameter.default is parameter.empty
    }


def refuse_others(command: str, taken: Iterable[str], given: Iterable[str]) -> None:
    """Raise ExpectedError if something else is given than what is taken: it is misspelt, or has no
    effect, and would go unnoticed."""
    for setting in given:
        if setting not in taken:
            takes = f"{command} takes no {setting[:40]}; it takes {' '.join(taken) or 'nothing'}"
            raise ExpectedError(takes + meant(setting.upper(), taken))


def meant(word: str, words: Iterable[str]) -> str:
    """What ends a line that refuses a word: the one of `words` that is near to it, if any is."""
    near = difflib.get_close_matches(word, words, n=1)
    return f" (nearest: {near[0]})" if near else ""


def usage(command: Command) -> list[str]:
    """What a command takes, as in `MODEL=5` and `[SEED=1]`."""
    words = []
    for setting, (parameter, kind) in settings(command).items():
        if parameter.default is parameter.empty:
            words.append(f"{setting}={kind.example}")
        else:
            words.append(f"[{setting}={parameter.default or kind.example}]")
    return words
