"""Receptive fields, derived from the operations of any network.

The arithmetic is that of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional
Neural Networks", Distill (2019): along each axis, position i of a feature map sees the `size`
input pixels from `start + i * jump`; a layer with kernel k, dilation d, stride s and p cells of
padding in front gives

    start' = start - p * jump      size' = size + d * (k - 1) * jump      jump' = s * jump
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mnist_exp.common.errors import ExpectedError
from mnist_exp.training import torch_internals
from mnist_exp.training.torch_internals import TorchDispatchMode

COLUMNS = (
    "layer", "kernel", "r_in", "n_in", "j_in", "stride", "padding", "r_out", "n_out", "j_out",
    "dilation", "start", "misaligned",
)  # fmt: skip


class ReceptiveFieldError(ExpectedError):
    """The network does something whose receptive field cannot be followed; names the layer."""


@dataclass(frozen=True)
class Window:
    """What a layer slides along one axis of a map."""

    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1


@dataclass(frozen=True)
class Axis:
    """One axis of a map of `n` cells; cell i sees `size` pixels from start + i * jump."""

    n: int
    start: int = 0
    size: int = 1
    jump: int = 1

    def slide(self, n: int, window: Window) -> "Axis":
        """The axis of the map of `n` cells that a window gives, sliding over this one."""
        start = self.start - window.padding * self.jump
        size = self.size + window.dilation * (window.kernel - 1) * self.jump
        return Axis(n, start, size, self.jump * window.stride)

    @property
    def centre(self) -> float:
        """The middle of the first cell's field, in pixels."""
        return self.start + (self.size - 1) / 2

    def seen(self, cell: int, pixels: int) -> tuple[int, int]:
        """The first of `pixels` input pixels that `cell` sees, and the one behind the last."""
        first = self.start + cell * self.jump
        return max(first, 0), min(first + self.size, pixels)


Field = tuple[Axis, Axis]
"""The axes of height and width."""


@dataclass(frozen=True)
class Row:
    """A spatial layer: the field before and after it, and its windows (height, width), or how far
    the centres of the branches that it joins lie apart, in pixels."""

    layer: str
    before: Field | None
    after: Field
    windows: tuple[Window, Window] | None = None
    misaligned: tuple[float, float] | None = None


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
        rows, (height, width) = _follow(module, input_shape)
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
    return _table(_follow(module, input_shape)[0])


def output_field(module: nn.Module, input_shape: Sequence[int]) -> Field:
    """The axes (height, width) of the module's output; raises as `receptive_field_table` does."""
    return _follow(module, input_shape)[1]


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


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return value[0], value[-1]


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


def _follow(module: nn.Module, input_shape: Sequence[int]) -> tuple[list[Row], Field]:
    if len(input_shape) != 3:
        raise ValueError(f"input_shape is (channels, height, width), not {tuple(input_shape)}")
    network = copy.deepcopy(module).cpu().float().eval()
    # Two images, so that the dimension of the batch can be told from one of size 1.
    images = torch.zeros(2, *input_shape)
    recorder = _Recorder(network, images)
    with torch.no_grad(), recorder, _StayInTorch(recorder):
        output = network(images)
    field = recorder.field(output)
    if field is None:
        raise ReceptiveFieldError("the network's output does not depend on its input")
    return recorder.rows, field


class _Recorder(TorchDispatchMode):
    """Carries the field along with every tensor that depends on the images."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pixels = images.shape[2:]
        field = Axis(images.shape[2]), Axis(images.shape[3])
        self.rows = [Row("input", None, field)]
        # Each tensor is kept with its field: an id is unique only while its object lives.
        self.fields: dict[int, tuple[Tensor, Field]] = {id(images): (images, field)}
        self.modules: list[tuple[str, bool]] = []
        for name, layer in network.named_modules():
            is_leaf = next(layer.children(), None) is None
            enter = functools.partial(self._enter, name, is_leaf)
            layer.register_forward_pre_hook(enter)
            layer.register_forward_hook(self._leave)

    def _enter(self, name: str, is_leaf: bool, *_: object) -> None:
        self.modules.append((name, is_leaf))

    def _leave(self, *_: object) -> None:
        self.modules.pop()

    def field(self, value: object) -> Field | None:
        """The field of a tensor; None for anything that does not depend on the images."""
        _, field = self.fields.get(id(value), (None, None))
        return field

    def layer(self, operation: str) -> str:
        """The innermost module; a functional call is named by its operation behind its module."""
        name, is_leaf = self.modules[-1] if self.modules else ("", False)
        return name if is_leaf and name else ".".join(filter(None, (name, operation)))

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        flat = [y for x in (*args, *kwargs.values()) for y in (x if isinstance(x, list) else [x])]
        inputs = [(x, field) for x in flat if isinstance(x, Tensor) and (field := self.field(x))]
        if not inputs or torch_internals.operation(function) in INDEPENDENT:
            return result
        outputs = list(result) if isinstance(result, list | tuple) else [result]
        call = _Call(self, function, args, kwargs, inputs, outputs)
        field = call.follow()
        if torch_internals.writes_in_place(function) and self.field(args[0]) != field:
            raise call.error("writes another field into a tensor in place")
        for output in outputs:
            if not isinstance(output, Tensor):
                raise call.error("takes a number out of the map")
            if output.numel():  # an empty one is batch normalisation's unused buffer
                call.check(output, field)
                self.fields[id(output)] = output, field
        return result


class _StayInTorch(TorchFunctionMode):
    """Notices what the dispatcher does not report: a map that goes through numpy."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function in (Tensor.numpy, Tensor.__array__) and self.recorder.field(args[0]):
            layer = self.recorder.layer("numpy")
            raise ReceptiveFieldError(
                f"the receptive field cannot be followed through layer {layer}: it leaves torch"
            )
        return function(*args, **(kwargs or {}))


class _Call:
    """One tensor operation, with the tensors among its arguments that depend on the images."""

    def __init__(
        self, recorder: _Recorder, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any],
        inputs: list[tuple[Tensor, Field]], outputs: list[Any],
    ) -> None:  # fmt: skip
        self.recorder = recorder
        self.pointwise = torch.Tag.pointwise in function.tags
        self.operation = torch_internals.operation(function)
        self.layer = recorder.layer(self.operation.removeprefix("_").removesuffix("_with_indices"))
        self.arguments = torch_internals.arguments(function, args, kwargs)
        self.fields = [field for _, field in inputs]
        self.shape = inputs[0][0].shape
        self.output = outputs[0]

    def follow(self) -> Field:
        """The field of the result."""
        if self.operation in WINDOWS:
            return WINDOWS[self.operation](self)
        if self.pointwise or all(axis.n == 1 for field in self.fields for axis in field):
            # Cell by cell; or there is one cell, and whatever is made of it has its field.
            return self.join()
        if self.operation in RULES:
            return RULES[self.operation](self)
        raise self.error("does what no receptive field can be given for")

    def error(self, why: str) -> ReceptiveFieldError:
        return ReceptiveFieldError(
            f"the receptive field cannot be followed through layer {self.layer}: "
            f"{self.operation} {why}"
        )

    def check(self, output: Tensor, field: Field) -> None:
        """Guards against a call read wrongly: the map must have the field's number of cells."""
        cells = field[0].n, field[1].n
        fits = tuple(output.shape[2:]) == cells if output.dim() == 4 else self.flat(output)
        if not (fits or (cells == (1, 1) and output.dim() < 4)):
            raise self.error(f"makes {tuple(output.shape)} of a map of {cells} cells")

    def slide(self, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> Field:
        """A window slides over the map, or over several maps that share their field."""
        if len(self.shape) != 4:
            raise self.error("is not over a batch of two-dimensional maps")
        sizes = (_pair(x) for x in (kernel, stride or kernel, padding, dilation))
        height, width = (Window(*one) for one in zip(*sizes, strict=True))
        return self.record((height, width), tuple(self.output.shape[2:]))

    def adapt(self) -> Field:
        """Adaptive pooling, where its windows are all alike."""
        cells = tuple(self.output.shape[2:])
        sizes = [n // cell for n, cell in zip(self.shape[2:], cells, strict=True)]
        if any(n % cell for n, cell in zip(self.shape[2:], cells, strict=True)):
            raise self.error(f"pools {tuple(self.shape[2:])} cells into {cells}, unevenly")
        return self.slide(sizes, sizes, 0)

    def whole(self, dims: Sequence[int] = (2, 3)) -> Field:
        """One window over the whole map, along the dimensions given."""
        height, width = (
            Window(axis.n, axis.n) if dim in dims else Window()
            for dim, axis in zip((2, 3), self.fields[0], strict=True)
        )
        cells = [1 if d in dims else a.n for d, a in zip((2, 3), self.fields[0], strict=True)]
        return self.record((height, width), cells)

    def record(self, windows: tuple["Window", "Window"], cells: Sequence[int]) -> Field:
        before = self.fields[0]
        height, width = (
            axis.slide(n, window) for axis, n, window in zip(before, cells, windows, strict=True)
        )
        self.recorder.rows.append(Row(self.layer, before, (height, width), windows))
        return height, width

    def reduce(self) -> Field:
        """A mean, sum or maximum over dimensions: over the channels, or over the map."""
        dims = {
            dim % len(self.shape) for dim in self.arguments.get("dim") or range(len(self.shape))
        }
        if dims == {1} and self.arguments["keepdim"]:
            return self.fields[0]
        if len(self.shape) == 4 and dims and dims <= {2, 3}:
            return self.whole(sorted(dims))
        raise self.error(f"is over dimensions {sorted(dims)}")

    def along_channels(self) -> Field:
        """Stacks, splits or normalises along the channels."""
        if self.arguments["dim"] % len(self.shape) != 1 or len(self.shape) != 4:
            raise self.error("is not along the channels of a map")
        return self.join()

    def cut(self) -> Field:
        """A slice of the channels, or of the map: as a window with less than no padding."""
        dim = self.arguments["dim"] % len(self.shape)
        if len(self.shape) != 4 or dim == 0:
            raise self.error(f"is along dimension {dim} of {len(self.shape)}")
        if dim == 1:
            return self.fields[0]
        if not self.output.numel():
            raise self.error("leaves nothing of the map")
        first = slice(self.arguments["start"], None).indices(self.shape[dim])[0]
        cut = Window(stride=self.arguments["step"], padding=-first)
        windows = (cut, Window()) if dim == 2 else (Window(), cut)
        return self.record(windows, tuple(self.output.shape[2:]))

    def reshape(self) -> Field:
        """The map keeps its shape, or becomes one row of features for each image."""
        if self.output.dim() != 4 and not self.flat(self.output):
            raise self.error(f"makes {tuple(self.output.shape)} of {tuple(self.shape)}")
        return self.fields[0]

    def flat(self, output: Tensor) -> bool:
        """Whether `output` holds one row for each image."""
        return output.dim() == 2 and output.shape[0] == 2

    def multiply(self) -> Field:
        """A fully connected layer over a flattened map: a window of the map's size."""
        if len(self.shape) != 2 or len(self.fields) > 1:
            raise self.error("is not a fully connected layer over a flattened map")
        return self.whole()

    def normalise(self) -> Field:
        """Batch normalisation with fixed statistics."""
        if self.arguments.get("training"):
            raise self.error("takes its statistics from the whole map")
        return self.fields[0]

    def convolve(self) -> Field:
        if self.arguments["transposed"]:
            raise self.error("is transposed")
        if self.recorder.field(self.arguments["weight"]):
            raise self.error("has a kernel made from the images")
        stride, padding, dilation = (self.arguments[x] for x in ("stride", "padding", "dilation"))
        return self.slide(self.arguments["weight"].shape[2:], stride, padding, dilation)

    def pool(self) -> Field:
        kernel, stride, padding = (self.arguments[x] for x in ("kernel_size", "stride", "padding"))
        return self.slide(kernel, stride, padding, self.arguments.get("dilation", 1))

    def pad(self) -> Field:
        """Zeros around the map: as a window of one cell with padding."""
        left, _, top, _ = (*self.arguments["pad"], 0, 0)[:4]
        return self.slide(1, 1, (top, left))

    def join(self) -> Field:
        """Branches meet, cell by cell: the smallest field that holds each of theirs."""
        if all(field == self.fields[0] for field in self.fields):
            return self.fields[0]
        height, width = (
            self.join_axes(axes, pixels)
            for axes, pixels in zip(
                zip(*self.fields, strict=True), self.recorder.pixels, strict=True
            )
        )
        top, left = ([axis.centre for axis in axes] for axes in zip(*self.fields, strict=True))
        misaligned = max(top) - min(top), max(left) - min(left)
        row = Row(self.layer, None, (height, width), misaligned=misaligned)
        self.recorder.rows.append(row)
        return height, width

    def join_axes(self, axes: Sequence["Axis"], pixels: int) -> "Axis":
        cells = max(axis.n for axis in axes)
        if any(axis.n not in (1, cells) for axis in axes):
            raise self.error(f"joins maps of {sorted({axis.n for axis in axes})} cells")
        # One cell that is spread over a map shows every cell the same field: its jump is 0.
        spread = [a if a.n == cells else dataclasses.replace(a, n=cells, jump=0) for a in axes]
        jumps = {axis.jump for axis in spread}
        if len(jumps) == 1 or cells == 1:
            start = min(axis.start for axis in spread)
            end = max(axis.start + axis.size for axis in spread)
            return Axis(cells, start, end - start, max(jumps))
        for axis in spread:
            if axis.jump == 0 and axis.start <= 0 and axis.start + axis.size >= pixels:
                return axis  # everything, everywhere
        raise self.error(f"joins branches whose fields move differently (jumps {sorted(jumps)})")


INDEPENDENT = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"}
INDEPENDENT |= {"new_zeros", "new_ones", "new_empty", "new_full"}
"""Operations whose result takes a tensor's shape and not its values."""

Rule = Callable[[_Call], Field]

WINDOWS: dict[str, Rule] = {
    "convolution": _Call.convolve,
    "max_pool2d_with_indices": _Call.pool,
    "avg_pool2d": _Call.pool,
    "_adaptive_avg_pool2d": _Call.adapt,
    "adaptive_max_pool2d": _Call.adapt,
    "constant_pad_nd": _Call.pad,
}
"""How the field grows in what slides a window."""

RULES: Mapping[str, Rule] = (
    dict.fromkeys(("mean", "sum", "amax", "amin"), _Call.reduce)
    | dict.fromkeys(("cat", "split", "split_with_sizes"), _Call.along_channels)
    | dict.fromkeys(("_softmax", "_log_softmax"), _Call.along_channels)
    | {"slice": _Call.cut}
    | dict.fromkeys(("view", "_unsafe_view"), _Call.reshape)
    | dict.fromkeys(("mm", "addmm"), _Call.multiply)
    | dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training"), _Call.normalise)
    # Elementwise, and not marked so by torch:
    | dict.fromkeys(("clone", "detach", "alias", "_to_copy"), _Call.join)
    | dict.fromkeys(("_prelu_kernel", "hardswish", "hardswish_", "log_sigmoid_forward"), _Call.join)
)
"""How the field follows what else is not elementwise. Anything beyond these is an error."""
