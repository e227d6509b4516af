"""The files of the notebook as they read: found and taken apart; nothing in them is run."""

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

from mnist_exp import ROOT
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import printable
from mnist_exp.notebook import code_hash

EXPERIMENTS = ROOT / "experiments"
SECTIONS = ("Target", "Change", "Expect", "Analysis")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the lab notebook, `experiments/model_<number>.py`, as it reads."""

    number: int
    source: str
    title: str
    sections: dict[str, str]
    folder: Path = EXPERIMENTS

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
        """SHA-256 of the code; see `code_hash.code_sha256`."""
        return code_hash.code_sha256(self.source)


def path(number: int, folder: Path = EXPERIMENTS) -> Path:
    """The file of an iteration, whether it is there or not."""
    return folder / f"model_{number}.py"


def numbers(folder: Path = EXPERIMENTS) -> list[int]:
    """The numbers of all iterations in `folder`, ascending."""
    names = (re.fullmatch(r"model_([1-9]\d*)\.py", file.name) for file in folder.glob("model_*.py"))
    return sorted(int(match[1]) for match in names if match)


def read_entry(number: int, folder: Path = EXPERIMENTS) -> Entry:
    """Read the file of an iteration, without running it.

    Raises ExpectedError when there is no such file, or it is no Python with a docstring of the
    four sections.
    """
    return parse(read_source(number, folder), number, folder)


def parse(source: str, number: int, folder: Path = EXPERIMENTS) -> Entry:
    """The entry of iteration `number` from the source of its file; raises as `read_entry` does."""
    file = path(number, folder)
    try:
        docstring = ast.get_docstring(ast.parse(source))
        code_hash.code_sha256(source)  # whoever has an entry can have its hash
    except SyntaxError as error:
        raise syntax_error(error, file) from None
    except (MemoryError, RecursionError):
        raise ExpectedError(f"{shown_path(file)}: the code is nested too deeply") from None
    title, sections = docstring_sections(docstring or "", number, file)
    return Entry(number=number, source=source, title=title, sections=sections, folder=folder)


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
