"""Any network, followed operation by operation: how each moves the field of what it is given.

A copy of the network runs once. torch's dispatcher reports each tensor operation as it is carried
out; what is not known here is an error, not a guess.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mnist_exp.training import torch_internals
from mnist_exp.training.axes import Axis, Field, ReceptiveFieldError, Row, Window
from mnist_exp.training.torch_internals import TorchDispatchMode


def follow(module: nn.Module, input_shape: Sequence[int]) -> tuple[list[Row], Field]:
    """The row of each spatial layer of `module`, and the field of its output, for images of
    `input_shape` (channels, height, width).

    Raises ReceptiveFieldError, which names the layer that cannot be followed.
    """
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


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return value[0], value[-1]


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
