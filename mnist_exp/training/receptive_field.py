"""What each layer of a network sees of the image, as a table, and what its output sees."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pandas as pd
from torch import nn

from mnist_exp.recipe import PIXELS
from mnist_exp.training.axes import ReceptiveFieldError, Row
from mnist_exp.training.following import follow

COLUMNS = (
    "layer", "r_out", "n_out", "j_out", "kernel", "stride", "padding", "dilation",
    "r_in", "n_in", "j_in", "start", "misaligned", "phases", "global",
)  # fmt: skip


@dataclass(frozen=True)
class ReceptiveField:
    """What one output of a network sees: its `size` in pixels (height, width), and the `table` that
    `receptive_field_table` makes. Where the network can only be followed up to some layer, the
    table ends before it, the size is None, and `unknown` says why.

    As text it is what a run records: "28", "28x30" where height and width differ, "12 + global"
    where numbers come in besides that are the same for all outputs, as statistics of the map, or
    "unknown: " and why.
    """

    size: tuple[int, int] | None = None
    table: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    unknown: str = ""
    is_global: bool = False

    def __str__(self) -> str:
        if self.size is None:
            return f"unknown: {self.unknown}"
        height, width = self.size
        pixels = f"{height}" if height == width else f"{height}x{width}"
        return f"{pixels} + global" if self.is_global else pixels


def of_network(module: nn.Module, input_shape: Sequence[int]) -> ReceptiveField:
    """The receptive field of `module`, for images of `input_shape` (channels, height, width)."""
    found = follow(module, input_shape)
    table = _table(found.rows)
    if found.field is None:
        return ReceptiveField(table=table, unknown=found.stops)
    height, width = found.field
    return ReceptiveField((height.size, width.size), table, is_global=found.is_global)


def receptive_field_table(network: nn.Module, input_shape: Sequence[int] = PIXELS) -> pd.DataFrame:
    """The receptive field behind each spatial layer of any network, for images of `input_shape`
    (channels, height, width). A run records the same table.

    Copies of the network run on noise, in evaluation mode, and each tensor operation is followed as
    it is carried out, so functional calls, branches and control flow count as they run; changed
    pixels outside of what is derived must change nothing. A first row describes the input; then
    there is one for each use of a convolution, pooling, padding, resizing or slice of the map, or
    of a fully connected layer over a map, and where branches join whose fields differ, or
    statistics or a gate come in:

    layer                the module's name, or the operation's where it is a functional call
    kernel, stride,      of the window; padding counts the cells in front (as many behind, unless
    padding, dilation    `n_out` says otherwise; negative for a slice); missing where none slides,
                         as for joins, transposed convolutions and resizing
    r_in, n_in, j_in     before the layer: the field's size in pixels, the map's size in cells, and
                         the distance between the fields of neighbouring cells in pixels
    r_out, n_out, j_out  the same after it; a jump of 0 means that all cells see the same field
    start                the input pixel where the first cell's field begins; negative with padding
    misaligned           for joins: how far apart the centres of the joined fields are, in pixels;
                         the row's field is the smallest that holds them all
    phases               after how many cells what they see repeats itself: 1 where all see alike.
                         Behind an upsampling the cells see differently; then r_out is the size of
                         the largest field, and j_out the mean distance
    global               whether numbers that are the same for all cells come in besides, from here
                         on: statistics of the map (layer, group or instance normalisation, softmax)
                         or a gate; the rest of the row is what each cell sees by itself

    Whole numbers (nullable Int64), except `misaligned` (Float64), `global` (boolean), and the jumps
    (Float64) where one is a fraction. A column whose values differ between the axes is replaced by
    two, `<name>_height` and `<name>_width`. A field can be larger than the image: it counts the
    padding that it sees.

    The network and all random states are left as they are. Raises ReceptiveFieldError, an
    ExpectedError, where it cannot be followed to its end (a run has the rows up to there, and why).
    """
    found = follow(network, input_shape)
    if found.field is None:
        raise ReceptiveFieldError(found.stops)
    return _table(found.rows)


def _table(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as `receptive_field_table` describes them."""
    axes = [pd.DataFrame([_record(row, axis) for row in rows]) for axis in (0, 1)]
    table = pd.DataFrame({"layer": [row.layer for row in rows]})
    for column in COLUMNS[1:]:
        dtype = _dtype(column, [value for records in axes for value in records[column]])
        height, width = (pd.Series(records[column], dtype=dtype) for records in axes)
        if height.equals(width):
            table[column] = height
        else:
            table[f"{column}_height"], table[f"{column}_width"] = height, width
    return table


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """A receptive-field table with its columns in the order of COLUMNS: those that tell most come
    first. A column of one side stands where that of both would."""
    both = [str(name).removesuffix("_height").removesuffix("_width") for name in table]
    places = sorted(range(len(both)), key=lambda place: COLUMNS.index(both[place]))
    return table.iloc[:, places]


def _dtype(column: str, values: Sequence[Any]) -> Any:
    if column == "global":
        return pd.BooleanDtype()
    fractions = any(isinstance(value, Fraction) for value in values)
    return pd.Float64Dtype() if fractions or column == "misaligned" else pd.Int64Dtype()


def _record(row: Row, axis: int) -> dict[str, Any]:
    after = row.after[axis]
    record: dict[str, Any] = dict.fromkeys(COLUMNS)
    record |= {"r_out": after.size, "n_out": after.n, "j_out": after.jump, "start": after.start}
    record |= {"phases": after.period, "global": row.is_global}
    if row.before:
        before = row.before[axis]
        record |= {"r_in": before.size, "n_in": before.n, "j_in": before.jump}
    if row.windows:
        record |= dataclasses.asdict(row.windows[axis])
    if row.misaligned:
        record["misaligned"] = row.misaligned[axis]
    return record
