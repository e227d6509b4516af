"""Which line of an iteration's file is to blame for what goes wrong when it is carried out."""

import ast
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnist_exp.common.errors import ExpectedError, FullMemoryError, is_of_full_memory
from mnist_exp.notebook import entries
from mnist_exp.notebook.entries import Entry
from mnist_exp.recipe import example_of

PACKAGE = Path(__file__).parents[1]
VOCABULARY = {
    PACKAGE / f"{name}.py" for name in ("augment", "preprocess", "views", "notebook/modules")
}
"""What a recipe may name of this package, which is at fault only for what it is given; and what
refuses other files to it."""
FIELDS = re.compile(
    r"\b(network|optimizer|parameter_groups|batch_schedule|schedule|views|teacher|metrics|loss)"
    r"\b[.()[]|\brecipe\.(?:(batch_schedule|schedule),|(step)\()|\blosses\[-1\]\.(backward)\("
)
"""Where a line of this package calls what a recipe names, or follows its gradient."""
FIELDS_BY_FUNCTION = {"augmented": "augment", "preprocessed": "preprocess"}
"""Functions of this package that call the parts of a field."""


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
        if is_of_full_memory(error):
            said = " ".join(str(error).split())[:160]
            full = f"the memory is full: {said}; a smaller batch takes less"
            raise FullMemoryError(full) from None
        field = _called(error, entry)
        if field is None:
            raise
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise refuse(entry, field, _told(entry, field, what, error), error) from error


def refuse(entry: Entry, field: str, what: str, error: Exception | None = None) -> IterationError:
    """The error that says `what` is wrong with an iteration: at the line of its file or a helper
    that raised `error`, or at the line that gives the recipe its `field`."""
    files = _files(entry)
    for frame in reversed(_frames(error)):
        if frame.filename in files:
            file = entries.shown_path(Path(frame.filename))
            return IterationError(f"{file}, line {frame.lineno}: {what}")
    return IterationError(f"{entry.file}, line {_line_of(entry, field)}: {what}")


def _told(entry: Entry, field: str, what: str, error: Exception) -> str:
    """What went wrong, with its field; and with a right one, where no line of the file raised it.
    For a network, no example would say more."""
    what = f"{field}: {what}" if field else what
    in_file = any(frame.filename in _files(entry) for frame in _frames(error))
    example = "" if in_file or field == "network" else example_of(field)
    return f"{what} ({example})" if example else what


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
    rooms = [frame for frame in rooms if Path(frame.filename) not in VOCABULARY]
    fields = [field for frame in rooms if (field := _field(frame))]
    if frames[-1] in rooms and not _field(frames[-1]):
        return None
    return fields[-1] if fields else ""


def _field(frame: traceback.FrameSummary) -> str | None:
    """The field of the recipe that a line of this package calls."""
    if match := FIELDS.search(frame.line or ""):
        return match[match.lastindex or 0]
    return FIELDS_BY_FUNCTION.get(frame.name)


def _line_of(entry: Entry, field: str) -> int:
    """The line of the file that gives the recipe its `field`, or says this method of its class; or
    that begins the recipe."""
    body = ast.parse(entry.source).body
    kinds = {node.name: node.body for node in body if isinstance(node, ast.ClassDef)}
    for node in body:
        named = isinstance(node, ast.Assign | ast.AnnAssign) and "RECIPE" in ast.unparse(node)
        if named and isinstance(call := getattr(node, "value", None), ast.Call):
            own = kinds.get(ast.unparse(call.func), [])
            said = {x.name: x.lineno for x in own if isinstance(x, ast.FunctionDef)}
            given = {keyword.arg: keyword.value.lineno for keyword in call.keywords}
            return (said | given).get(field, node.lineno)
    return 1
