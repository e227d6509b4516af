"""What each layer of a network sees of the image, as a table, and what its output sees."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from torch import nn

from mnist_exp.training.axes import ReceptiveFieldError, Row
from mnist_exp.training.following import follow

COLUMNS = (
    "layer", "kernel", "r_in", "n_in", "j_in", "stride", "padding", "r_out", "n_out", "j_out",
    "dilation", "start", "misaligned",
)  # fmt: skip


@dataclass(frozen=True)
class ReceptiveField:
    """What one output of a network sees: its `size` in pixels (height, width), and the `table` that
    `receptive_field_table` makes. Both are None where the network cannot be followed, and
    `unknown` says why.

    As text it is what a run records: "28", "28x30" where height and width differ, or "unknown: "
    and why.
    """

    size: tuple[int, int] | None = None
    table: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    unknown: str = ""

    def __str__(self) -> str:
        if self.size is None:
            return f"unknown: {self.unknown}"
        height, width = self.size
        return f"{height}" if height == width else f"{height}x{width}"


def of_network(module: nn.Module, input_shape: Sequence[int]) -> ReceptiveField:
    """The receptive field of `module`, for images of `input_shape` (channels, height, width)."""
    try:
        rows, (height, width) = follow(module, input_shape)
    except ReceptiveFieldError as error:
        return ReceptiveField(unknown=str(error))
    return ReceptiveField((height.size, width.size), _table(rows))


def receptive_field_table(module: nn.Module, input_shape: Sequence[int]) -> pd.DataFrame:
    """The receptive field behind each spatial layer of `module`, for images of `input_shape`
    (channels, height, width).

    A copy of the module runs once, on zeros, in evaluation mode, and each tensor operation is
    followed as it is carried out (torch's dispatcher reports them), so functional calls, branches
    and control flow count as they run. A first row describes the input; then there is one row for
    each convolution, pooling, padding or slice of the map, fully connected layer over a map, and
    each join of branches whose fields differ:

    layer                the module's name, or the operation's where it is a functional call
    kernel, stride,      of the window; padding counts the cells in front (as many behind, unless
    padding, dilation    `n_out` says otherwise; negative for a slice); missing for joins
    r_in, n_in, j_in     before the layer: the field's size in pixels, the map's size in cells, and
                         the distance between the fields of neighbouring cells in pixels
    r_out, n_out, j_out  the same after it; a jump of 0 means that all cells see the same field
    start                the input pixel where the first cell's field begins; negative with padding
    misaligned           for joins: how far apart the centres of the joined fields are, in pixels;
                         the row's field is the smallest that holds them all

    Whole numbers (nullable Int64), except `misaligned` (Float64). A column whose values differ
    between the axes is replaced by two, `<name>_height` and `<name>_width`. A field can be larger
    than the image: it counts the padding that it sees.

    Raises ReceptiveFieldError for operations that have no such description (transposed
    convolutions, interpolation, attention, normalisation over the map, ...).
    """
    return _table(follow(module, input_shape)[0])


def _table(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as `receptive_field_table` describes them."""
    axes = [pd.DataFrame([_record(row, axis) for row in rows]) for axis in (0, 1)]
    table = pd.DataFrame({"layer": [row.layer for row in rows]})
    for column in COLUMNS[1:]:
        dtype = pd.Float64Dtype() if column == "misaligned" else pd.Int64Dtype()
        height, width = (pd.Series(records[column], dtype=dtype) for records in axes)
        if height.equals(width):
            table[column] = height
        else:
            table[f"{column}_height"], table[f"{column}_width"] = height, width
    return table


def _record(row: Row, axis: int) -> dict[str, Any]:
    after = row.after[axis]
    record: dict[str, Any] = dict.fromkeys(COLUMNS)
    record |= {"r_out": after.size, "n_out": after.n, "j_out": after.jump, "start": after.start}
    if row.before:
        before = row.before[axis]
        record |= {"r_in": before.size, "n_in": before.n, "j_in": before.jump}
    if row.windows:
        record |= dataclasses.asdict(row.windows[axis])
    if row.misaligned:
        record["misaligned"] = row.misaligned[axis]
    return record
