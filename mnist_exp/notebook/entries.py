"""The files of the notebook as they read: found and taken apart; nothing in them is run."""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mnist_exp import ROOT
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import printable
from mnist_exp.notebook import code_hash, imports
from mnist_exp.notebook.code_hash import NO_HELPERS

EXPERIMENTS = ROOT / "experiments"
SECTIONS = ("Target", "Change", "Expect", "Analysis")
UNWRITTEN = "not written yet"
"""How a section begins that somebody is to write."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the lab notebook, `experiments/model_<number>.py`, as it reads."""

    number: int
    source: str
    title: str
    sections: dict[str, str]
    helpers: Mapping[str, str] = field(default_factory=dict)
    """The sources of the other files that it imports, by their paths from `folder`."""
    folder: Path = EXPERIMENTS

    @property
    def written(self) -> dict[str, str]:
        """The sections that say something."""
        return {
            name: text
            for name, text in self.sections.items()
            if not text.removeprefix("(").startswith(UNWRITTEN)
        }

    @property
    def name(self) -> str:
        """The name in the tracking store, as in `model-5`."""
        return f"model-{self.number}"

    @property
    def path(self) -> Path:
        """The file that `source` was read from."""
        return path(self.number, self.folder)

    @property
    def file(self) -> str:
        """The path to show, from the checkout's root."""
        return shown_path(self.path)

    @property
    def code(self) -> str:
        """The source after its docstring."""
        first = ast.parse(self.source).body[0]
        return "".join(self.source.splitlines(keepends=True)[first.end_lineno :])

    @property
    def code_sha256(self) -> str:
        """SHA-256 of the code, with that of the helpers; see `code_hash.code_sha256`."""
        return code_hash.code_sha256(self.source, self.helpers)

    @property
    def code_files(self) -> dict[str, str]:
        """The SHA-256 of the code of each file that takes part, by the path to show."""
        sources = {self.path: self.source} | {
            self.folder / name: source for name, source in self.helpers.items()
        }
        return {shown_path(file): code_hash.code_sha256(text) for file, text in sources.items()}


def path(number: int, folder: Path = EXPERIMENTS) -> Path:
    """The file of an iteration, whether it is there or not."""
    return folder / f"model_{number}.py"


def numbers(folder: Path = EXPERIMENTS) -> list[int]:
    """The numbers of all iterations in `folder`, ascending."""
    names = (re.fullmatch(r"model_([1-9]\d*)\.py", file.name) for file in folder.glob("model_*.py"))
    return sorted(int(match[1]) for match in names if match)


def read_entry(number: int, folder: Path = EXPERIMENTS) -> Entry:
    """Read the file of an iteration, and its helpers, without running them.

    Raises ExpectedError when there is no such file, when it is no Python with a docstring of the
    four sections, or a helper is no Python.
    """
    source = read_source(number, folder)
    return parse(source, number, folder, read_helpers(source, path(number, folder)))


def parse(
    source: str, number: int, folder: Path = EXPERIMENTS, helpers: Mapping[str, str] = NO_HELPERS
) -> Entry:
    """The entry of iteration `number` from the source of its file, and those of its helpers; raises
    as `read_entry` does."""
    file = path(number, folder)
    for name, text in {file.name: source, **helpers}.items():
        with _readable_code(folder / name):
            code_hash.code_sha256(text)  # whoever has an entry can have its hash
    docstring = ast.get_docstring(ast.parse(source)) or ""
    title, sections = docstring_sections(docstring, number, file)
    return Entry(
        number=number, source=source, title=title, sections=sections, helpers=dict(helpers),
        folder=folder,
    )  # fmt: skip


def read_helpers(source: str, file: Path) -> dict[str, str]:
    """The sources of all files beside `file` that it imports, by their paths from its folder.

    Raises ExpectedError where one of them, or `source`, which is the text of the file, is no
    Python.
    """

    def read(name: str) -> str | None:
        helper = file.parent / name
        if not helper.is_file():
            return None
        text = read_text(helper)
        with _readable_code(helper):
            ast.parse(text)
        return text

    with _readable_code(file):
        return imports.reachable(file.name, source, read)


@contextmanager
def _readable_code(file: Path) -> Iterator[None]:
    """Raise ExpectedError where the source of `file` is no Python, or too deep to be parsed."""
    try:
        yield
    except SyntaxError as error:
        raise syntax_error(error, file) from None
    except (MemoryError, RecursionError):
        raise ExpectedError(f"{shown_path(file)}: the code is nested too deeply") from None


def docstring_sections(docstring: str, number: int, file: Path) -> tuple[str, dict[str, str]]:
    """The title and the sections of the docstring of iteration `number`, which stands in `file`.

    The first line is `Model <number>: title.`; a section starts with its name and a colon at the
    start of a line, and goes on to the next one. Line breaks inside a section are folded.
    """
    lines = inspect.cleandoc(docstring).splitlines()
    title = re.fullmatch(rf"Model {number}: (.+?)\.?", lines[0].strip()) if lines else None
    text = "\n".join(lines[1:])
    parts = re.split(rf"^({'|'.join(SECTIONS)}):", text, flags=re.MULTILINE)
    sections = {
        name: printable(" ".join(body.split()))
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    absent = [name for name in SECTIONS if name not in sections]
    if title is None or absent:
        heading = [] if title else [f"the title line 'Model {number}: ...'"]
        lacks = ", ".join(heading + absent)
        raise ExpectedError(
            f"the docstring of {shown_path(file)} lacks {lacks}: see {shown_path(path(1))}"
        )
    return printable(title[1]), sections


def read_source(number: int, folder: Path = EXPERIMENTS) -> str:
    """The text of the file of an iteration; if it is not there, the error says which are."""
    iterations = ", ".join(map(str, numbers(folder))) or "none"
    start = f"make new MODEL={number} FROM=<one of them> starts it"
    return read_text(path(number, folder), f"; the iterations are {iterations} ({start})")


def read_text(file: Path, if_absent: str = "") -> str:
    """The text of a file. Raises ExpectedError, which ends in `if_absent` where there is none."""
    try:
        if file.exists() and not file.is_file():  # a device may have no end
            raise ExpectedError(f"{shown_path(file)} is no file")
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ExpectedError(f"there is no {shown_path(file)}{if_absent}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExpectedError(f"{shown_path(file)} cannot be read: {error}") from None


def syntax_error(error: SyntaxError, file: Path) -> ExpectedError:
    """The error of a file that is no Python, with the line."""
    place = f", line {error.lineno}" if error.lineno else ""
    return ExpectedError(f"{shown_path(file)}{place}: syntax error: {error.msg}")


def shown_path(file: Path) -> str:
    """A path as errors name it: from the checkout's root, if it lies there."""
    return str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)
