"""An iteration is begun, as a copy of another or of a candidate."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import candidates, entries, imports
from mnist_exp.notebook.code_hash import code_sha256, has_code
from mnist_exp.notebook.entries import EXPERIMENTS, UNWRITTEN

ANALYSIS = f"Analysis: {UNWRITTEN}: it takes runs on several seeds.\n"


def create(number: int, source: int | str, folder: Path = EXPERIMENTS) -> Path:
    """Start iteration `number` as a copy of iteration `source`, or of the candidate whose hash
    begins with `source`, with those of its helpers that are not there. Its Analysis is not taken
    over, and nothing is ever overwritten.

    Raises ExpectedError when there is no such origin, or a file is there already.
    """
    new = entries.path(number, folder)
    text, helpers = _origin(source, new)
    text = re.sub(r"\bModel \d+(?=:)", f"Model {number}", text, count=1)
    text = re.sub(r'^Analysis:.*?(?="""|^\w+:)', ANALYSIS, text, count=1, flags=re.DOTALL | re.M)
    write_new(new, text, _absent(helpers, folder))
    return new


def write_new(new: Path, text: str, helpers: Mapping[Path, str] = MappingProxyType({})) -> None:
    """Write the file of an iteration, and helpers that are not there, by file.

    Raises ExpectedError when the file is there already.
    """
    try:
        with new.open("x", encoding="utf-8") as target:
            for file, helper in helpers.items():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(helper, encoding="utf-8")
            target.write(text)
    except FileExistsError:
        raise ExpectedError(
            f"{entries.shown_path(new)} is there already; choose another MODEL"
        ) from None


def _origin(source: int | str, new: Path) -> tuple[str, dict[str, str]]:
    """The text that `new` begins with, and what it imports that the folder may lack, by name."""
    folder = new.parent
    if isinstance(source, str):
        candidate = candidates.find(source, folder / "results" / candidates.FILE.name)
        known = candidate.helpers or {}
        # By its imports, which name nothing outside the folder.
        return candidate.source, imports.reachable(new.name, candidate.source, known.get)
    if source in entries.numbers(folder):
        return entries.read_source(source, folder), {}
    numbers = ", ".join(map(str, entries.numbers(folder))) or "none"
    raise ExpectedError(f"FROM={source}: the iterations to copy from are {numbers}")


def _absent(helpers: Mapping[str, str], folder: Path) -> dict[Path, str]:
    """The sources of the helpers that the folder lacks, by file. Raises ExpectedError where it has
    one of them with other code."""
    absent = {}
    for name, text in helpers.items():
        file = folder / name
        if not file.exists():
            absent[file] = text
        elif not has_code(entries.read_text(file), code_sha256(text)):
            raise ExpectedError(
                f"the candidate imports {name}, and {entries.shown_path(file)} has other code: "
                "move that to another name first"
            )
    return absent
