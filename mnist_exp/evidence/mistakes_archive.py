"""What many runs get wrong of the same digits, in a few small files that travel with git.

Each digit that any of them gets wrong is there once, and each run is a line.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mnist_exp import tracking
from mnist_exp.evidence.mistakes import Mistakes, from_rows, rows_of_ten

RUNS, DIGITS, CLASSES, SHEET = "runs.csv", "digits.csv", "classes.csv", "digits.png"
"""By run its mistakes, as in "247>2:0.8731", from the first to the last; the digits that any of
them has, in the order of the sheet; and how many digits of each class were evaluated."""


def write_archive(found: Mapping[str, Mistakes], folder: Path) -> None:
    """Write the mistakes of runs, by their ids, to a new `folder`. Those that were not evaluated on
    as many digits of each class as the first are left out."""
    folder.mkdir()
    totals = {key: own.counts.sum(axis=1) for key, own in found.items()}
    first, *_ = totals.values()
    alike = {key: own for key, own in found.items() if totals[key].equals(first)}
    wrong = pd.concat([own.misclassified for own in alike.values()], ignore_index=True)
    images = np.concatenate([own.images for own in alike.values()])
    digits = wrong[["index", "truth"]].drop_duplicates("index").sort_values("index").astype(int)
    lines = {key: " ".join(map(_written, *_columns(own))) for key, own in alike.items()}
    pd.Series(lines, name="wrong").rename_axis("run_id").to_csv(folder / RUNS)
    first.rename("digits").to_csv(folder / CLASSES)
    digits.to_csv(folder / DIGITS, index=False)
    if len(digits):
        Image.fromarray(rows_of_ten(images[digits.index])).save(folder / SHEET, optimize=True)


def read_archive(folder: Path) -> dict[str, Mistakes]:
    """What `write_archive` wrote; nothing where there is no such folder. Raises OSError, KeyError,
    TypeError, AttributeError or ValueError for files that are not as it writes them."""
    if not folder.is_dir():
        return {}
    lines = pd.read_csv(folder / RUNS, keep_default_na=False).set_index("run_id")["wrong"]
    totals = pd.read_csv(folder / CLASSES).set_index("truth")["digits"].astype(int)
    digits = pd.read_csv(folder / DIGITS).astype(int)
    images = np.zeros((0, 28, 28), np.uint8)
    if len(digits):
        images = from_rows(tracking.grey_values(folder / SHEET), len(digits))
    places = pd.Series(range(len(digits)), index=digits["index"])
    found = {}
    for run_id, line in lines.items():
        wrong = pd.DataFrame(
            list(map(_read, line.split())), columns=["index", "guess", "probability"]
        )
        wrong = wrong.astype({"index": int, "guess": int, "probability": float})
        place = places[wrong["index"]].to_numpy(dtype=int)
        if wrong["index"].duplicated().any() or not wrong["guess"].between(0, 9).all():
            raise ValueError(f"{RUNS}: the mistakes of {run_id} are none of ten classes")
        wrong.insert(1, "truth", digits["truth"].to_numpy()[place])
        found[str(run_id)] = Mistakes(_counts(wrong, totals), wrong, images[place])
    return found


def _columns(own: Mistakes) -> tuple[pd.Series, ...]:
    table = own.misclassified
    return table["index"], table["guess"], table["probability"]


def _written(index: int, guess: int, probability: float) -> str:
    return f"{index}>{guess}:{probability:.4f}"


def _read(mistake: str) -> tuple[int, int, float]:
    index, _, rest = mistake.partition(">")
    guess, _, probability = rest.partition(":")
    return int(index), int(guess), float(probability)


def _counts(wrong: pd.DataFrame, totals: pd.Series) -> pd.DataFrame:
    """How often each digit was taken for which, where what is not wrong is right."""
    table = pd.crosstab(wrong["truth"], wrong["guess"]).reindex(
        index=range(10), columns=range(10), fill_value=0
    )
    right = totals.reindex(range(10)).to_numpy() - table.sum(axis=1).to_numpy()
    cells = table.to_numpy() + np.diag(right)
    truth, guess = pd.RangeIndex(10, name="truth"), pd.RangeIndex(10, name="guess")
    return pd.DataFrame(cells, index=truth, columns=guess)
