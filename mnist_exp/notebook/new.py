"""An iteration is begun, as a copy of another or of a candidate."""

import re
from pathlib import Path

from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import candidates, entries
from mnist_exp.notebook.entries import EXPERIMENTS

UNWRITTEN = "Analysis: not written yet: it takes runs on several seeds.\n"


def create(number: int, source: int | str, folder: Path = EXPERIMENTS) -> Path:
    """Start iteration `number` as a copy of iteration `source`, or of the candidate whose hash
    begins with `source`. Its Analysis is not taken over, and nothing is ever overwritten.

    Raises ExpectedError when there is no such origin, or the iteration is there already.
    """
    if isinstance(source, str):
        text = candidates.find(source, folder / "results" / candidates.FILE.name).source
    elif source in entries.numbers(folder):
        text = entries.read_source(source, folder)
    else:
        numbers = ", ".join(map(str, entries.numbers(folder))) or "none"
        raise ExpectedError(f"FROM={source}: the iterations to copy from are {numbers}")
    text = re.sub(r"\bModel \d+(?=:)", f"Model {number}", text, count=1)
    text = re.sub(r'^Analysis:.*?(?="""|^\w+:)', UNWRITTEN, text, count=1, flags=re.DOTALL | re.M)
    new = entries.path(number, folder)
    try:
        with new.open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError:
        raise ExpectedError(
            f"{entries.shown_path(new)} is there already; choose another MODEL"
        ) from None
    return new
