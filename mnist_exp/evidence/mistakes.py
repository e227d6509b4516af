"""What a network gets wrong: which digits it takes for which, and each that it misclassifies."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mnist_exp import tracking
from mnist_exp.tracking import names
from mnist_exp.tracking.names import Table

if TYPE_CHECKING:  # who reads a run need not wait for torch
    from torch import Tensor

    from mnist_exp.data import Digits

TABLES = (Table.CONFUSION_MATRIX, Table.MISCLASSIFIED)
SHEET = names.Image.MISCLASSIFIED
"""The digits, ten in a row."""


@dataclass(frozen=True)
class Mistakes:
    """What a network gets wrong of the digits it is evaluated on.

    Raises ValueError when the parts do not belong together.
    """

    counts: pd.DataFrame
    """How often each digit (a row, `truth`) was taken for which (a column, `guess`): 10 x 10 whole
    numbers, with what is right on the diagonal."""
    misclassified: pd.DataFrame
    """One row for each digit that is wrong: its `index` in the evaluated digits, `truth`, `guess`,
    and the `probability` that the network gives its guess (a fraction)."""
    images: np.ndarray
    """The digits that are wrong, in the same order: uint8 (N, 28, 28)."""

    def __post_init__(self) -> None:
        cells = self.counts.to_numpy()
        if cells.shape != (10, 10):
            raise ValueError(f"the counts are not of ten digits: {cells.shape}")
        wrong = {int(cells.sum() - cells.trace()), len(self.misclassified), len(self.images)}
        if len(wrong) != 1:
            raise ValueError(f"the parts count different numbers of mistakes: {sorted(wrong)}")

    def most_certain_first(self) -> Mistakes:
        """The same, with the digits in the order of the probability of their guesses."""
        order = (-self.misclassified["probability"].to_numpy()).argsort(kind="stable")
        ordered = self.misclassified.iloc[order]
        return dataclasses.replace(self, misclassified=ordered, images=self.images[order])

    def record(self, run: tracking.RunWriter) -> None:
        """Give the tables and the images to a run, where `mistakes_of` reads them."""
        for name, table in self._tables().items():
            run.log_table(table, name)
        if len(self.images):
            run.log_image(rows_of_ten(self.images), SHEET)

    def _tables(self) -> dict[Table, pd.DataFrame]:
        counts = self.counts.rename(columns=str).reset_index()
        return dict(zip(TABLES, (counts, self.misclassified), strict=True))


def of_output(digits: Digits, output: Tensor) -> Mistakes:
    """What is wrong in `output`, a score for each of ten classes, (N, 10) on any device, of N
    digits."""
    output = output.cpu()
    truth, guess = digits.labels.cpu(), output.argmax(dim=1)
    counts = pd.crosstab(pd.Series(truth, name="truth"), pd.Series(guess, name="guess"))
    wrong = (truth != guess).nonzero()[:, 0]
    probability = output.softmax(dim=1).gather(1, guess[:, None])[:, 0]
    columns = {"index": wrong, "truth": truth[wrong], "guess": guess[wrong]}
    columns["probability"] = probability[wrong]
    return Mistakes(
        counts.reindex(index=range(10), columns=range(10), fill_value=0),
        pd.DataFrame({name: column.numpy() for name, column in columns.items()}),
        digits.images.cpu()[wrong, 0].numpy(),
    )


def mistakes_of(run_id: str) -> Mistakes | None:
    """What a run was given by `record`; None when it does not hold all of it.

    Raises KeyError, TypeError or ValueError when someone has changed it.
    """
    counts, misclassified = (tracking.table(run_id, name) for name in TABLES)
    sheet = tracking.image(run_id, SHEET)
    if counts is None or misclassified is None or (sheet is None and len(misclassified)):
        return None
    return _of_tables(counts, misclassified, sheet)


def _of_tables(
    counts: pd.DataFrame, misclassified: pd.DataFrame, sheet: np.ndarray | None
) -> Mistakes:
    counts = counts.astype(int).set_index("truth").rename(columns=int)
    misclassified = misclassified.astype({"probability": float})  # text where there is no row
    empty = np.zeros((0, 28, 28), np.uint8)
    images = empty if sheet is None else from_rows(sheet, len(misclassified))
    return Mistakes(counts.rename_axis(columns="guess"), misclassified, images)


def rows_of_ten(images: np.ndarray) -> np.ndarray:
    """Digits (N, 28, 28) as one image, ten in a row; black where there are no more."""
    full = np.pad(images, [(0, -len(images) % 10), (0, 0), (0, 0)])
    return full.reshape(-1, 10, 28, 28).swapaxes(1, 2).reshape(-1, 280)


def from_rows(sheet: np.ndarray, count: int) -> np.ndarray:
    """The first `count` digits, (N, 28, 28), of an image in which they lie row by row."""
    rows, columns = (size // 28 for size in sheet.shape)
    tiles = sheet.reshape(rows, 28, columns, 28).swapaxes(1, 2)
    return tiles.reshape(-1, 28, 28)[:count]
