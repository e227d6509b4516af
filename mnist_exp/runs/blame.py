"""Which line of an iteration's file is to blame for what goes wrong when it is carried out."""

import ast
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import entries
from mnist_exp.notebook.entries import Entry

PACKAGE = Path(__file__).parents[1]
FIELDS = re.compile(
    r"\b(network|optimizer|batch_schedule|schedule|augment|preprocess|views)\b[.()]"
)
"""Where a line of this package calls what a recipe names."""


class IterationError(ExpectedError):
    """An iteration cannot be carried out as its file has it; names the line."""


@contextmanager
def blamed_on(entry: Entry) -> Iterator[None]:
    """A block in which what the file of an iteration names is called. An exception becomes an
    ExpectedError that names the line of the file; one of a mistake of this package stays."""
    try:
        yield
    except ExpectedError:
        raise
    except Exception as error:
        field = _called(error, entry)
        if field is None:
            raise
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise refuse(entry, field, what, error) from error


def refuse(entry: Entry, field: str, what: str, error: Exception | None = None) -> IterationError:
    """The error that says `what` is wrong with an iteration: at the line of its file or a helper
    that raised `error`, or at the line that gives the recipe its `field`."""
    files = _files(entry)
    for frame in reversed(_frames(error)):
        if frame.filename in files:
            file = entries.shown_path(Path(frame.filename))
            return IterationError(f"{file}, line {frame.lineno}: {what}")
    return IterationError(f"{entry.file}, line {_line_of(entry, field)}: {what}")


def _files(entry: Entry) -> set[str]:
    return {str(entry.folder / name) for name in (entry.path.name, *entry.helpers)}


def _frames(error: BaseException | None) -> list[traceback.FrameSummary]:
    """The frames of an error and of those behind it, the outermost first."""
    frames: list[traceback.FrameSummary] = []
    while error:
        frames = [*traceback.extract_tb(error.__traceback__), *frames]
        error = error.__cause__ or error.__context__
    return frames


def _called(error: Exception, entry: Entry) -> str | None:
    """The field of the recipe that was called when an error came; "" if that cannot be told, and
    None for a mistake of this package."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, OSError) and not any(frame.filename in _files(entry) for frame in frames):
        return None  # of a disk, or of a terminal
    rooms = [frame for frame in frames if PACKAGE in Path(frame.filename).parents]
    rooms = [frame for frame in rooms if Path(frame.filename).parent != PACKAGE]  # vocabulary
    fields = [match[1] for frame in rooms if (match := FIELDS.search(frame.line or ""))]
    if frames[-1] in rooms and not FIELDS.search(frames[-1].line or ""):
        return None
    return fields[-1] if fields else ""


def _line_of(entry: Entry, field: str) -> int:
    """The line of the file that gives the recipe its `field`, or that begins the recipe."""
    for node in ast.walk(ast.parse(entry.source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Recipe"):
            given = {keyword.arg: keyword.value.lineno for keyword in node.keywords}
            return given.get(field, node.lineno)
    return 1
