"""A segment of a network as a program of kernel calls: which kernels, over which buffers.

`Plan` writes the program down, forward and backward; `plan.cpp` carries it out. Backward is written
as the forward is: each operation leaves behind what undoes it, and they are called in the opposite
order.
"""

import ctypes
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, singledispatchmethod
from typing import Any

from mnist_exp.engine import library
from mnist_exp.engine.operations import (
    Activation,
    Affine,
    Combine,
    Concatenate,
    Conv,
    Dropout,
    Flatten,
    LogSoftmax,
    Map,
    Norm,
    Operation,
    Pool,
    Same,
    Shape,
    fused,
    shape_of,
)
from mnist_exp.engine.trace import Segment

OF_TILE, OF_THREAD, OF_ALL = range(3)
"""Kinds of buffers, as in plan.cpp: a buffer for each tile, for each thread, or for all."""
NONE = -1
LINE = 16
"""Numbers that buffers are a multiple of."""


@dataclass(eq=False)
class Buffer:
    """Numbers in memory: `kind` says of what there are some, `uses` when they are in use, as the
    number of the program, that of the stage, and that of the call."""

    floats: int
    kind: int
    uses: list[tuple[int, int, int]] = field(default_factory=list)
    number: int = NONE


@dataclass(frozen=True)
class Call:
    """Of a kernel, by its name in plan.cpp without `add_`. `flops` are its operations for one
    image, of those that count as such: multiplications and additions of convolutions."""

    kernel: str
    arguments: tuple[Any, ...]
    flops: int = 0


@dataclass
class Stage:
    """Calls for each tile in turn, or once."""

    of_tiles: bool
    calls: list[Call] = field(default_factory=list)


Tensor = tuple[str, str | int]
"""A tensor that a program reads or writes: what it is (`weight`, `gradient`, `input`, `output`,
`output gradient`, `input gradient`), and which."""


class Plan:
    """The programs of a segment: forward, and backward for the `wanted` tensors of the network and,
    if so, the segment's inputs. Without any it is for evaluation, and keeps nothing.

    `tensors` are those that a run is given, in order; `dropouts` and `norms` likewise those of
    which it is given what is kept and a seed, and a momentum.
    """

    def __init__(
        self, segment: Segment, sizes: Mapping[str, tuple[int, ...]],
        lengths: Mapping[str, int], wanted: Collection[str], *, of_inputs: Collection[str],
    ) -> None:  # fmt: skip
        self.lengths = lengths
        self.wanted = set(wanted)
        self.tensors: list[Tensor] = []
        self.dropouts: list[Dropout] = []
        self.norms: list[Norm] = []
        self.buffers: list[Buffer] = []
        self.programs: list[list[Stage]] = []
        self._shapes = {name: _shape(size) for name, size in sizes.items() if shape_of(size)}
        self._where: dict[str, Buffer] = {}
        self._gradients: dict[str, Buffer] = {}
        self._needs_gradient = set(of_inputs)
        self._packed: dict[tuple[str, bool, tuple[int, ...]], Buffer] = {}
        self._partials: dict[str, list[Buffer]] = {}
        self._begun: set[str] = set()
        self._undo: list[Callable[[], None]] = []
        self._rectified: set[str] = set()
        self._again: dict[str, Callable[[Buffer], None]] = {}
        self._made_again: dict[tuple[int, str], Buffer] = {}
        self._setup = Stage(of_tiles=False)
        self._forward(segment)
        if self.wanted or of_inputs:
            self._backward(segment, of_inputs)
        self._place_buffers()

    # ---- The two programs ----

    def _forward(self, segment: Segment) -> None:
        self.programs.append([self._setup])
        for number, name in enumerate(segment.inputs):
            self._where[name] = self._value(name)
            self._tiles("load", ("input", number), self._where[name], *self._flat(name), 0)
        operations = fused(segment.operations, segment.outputs)
        self._rectified = _behind_a_relu(operations, segment.outputs)
        for operation in operations:
            if any(x in self._needs_gradient for x in operation.xs) or self._has_wanted(operation):
                self._needs_gradient.add(operation.y)
            self._emit(operation)
        for number, name in enumerate(segment.outputs):
            self._tiles("store", self._where[name], ("output", number), *self._flat(name))

    def _backward(self, segment: Segment, of_inputs: Collection[str]) -> None:
        self.programs.append([])
        for number, name in enumerate(segment.outputs):
            if name in self._needs_gradient:
                gradient = self._value(name)
                numbers = self._flat(name)
                self._tiles("load", ("output gradient", number), gradient, *numbers, 1)
                self._give(name, gradient)
        for undo in reversed(self._undo):
            undo()
        for number, name in enumerate(segment.inputs):
            if name in of_inputs:
                gradient = self._gradients[name]
                self._tiles("store", gradient, ("input gradient", number), *self._flat(name))
        for weight, partials in self._partials.items():
            length = self.lengths[weight]
            of_weight = self._gradient_of(weight)
            self._once("sum_tiles", partials, len(partials), *of_weight, length)

    def _has_wanted(self, operation: Operation) -> bool:
        names: set[str | None] = set()
        if isinstance(operation, Conv):
            names = {operation.weight, operation.bias}
        if isinstance(operation, Map) and operation.norm:
            names = {operation.norm.weight, operation.norm.bias}
        return bool(names & self.wanted)

    def _give(self, name: str, gradient: Buffer) -> None:
        """Add a gradient of a value to what others gave."""
        if name in self._gradients:
            both, numbers = self._value(name), self._numbers(name)
            self._tiles("combine", self._gradients[name], gradient, both, 1, *numbers, *numbers)
            gradient = both
        self._gradients[name] = gradient

    def _undone(self, operation: Operation, undo: Callable[[Buffer], None]) -> None:
        """In the backward program, call `undo` with the gradient of what the operation makes, if it
        has one."""

        def call() -> None:
            if operation.y in self._gradients:
                undo(self._gradients[operation.y])

        if operation.y in self._needs_gradient:
            self._undo.append(call)

    # ---- Operations ----

    @singledispatchmethod
    def _emit(self, operation: Operation) -> None:
        """Write down an operation, and what undoes it."""
        raise NotImplementedError(type(operation).__name__)

    @_emit.register
    def _(self, operation: Same) -> None:
        self._where[operation.y] = self._where[operation.x]

        self._undone(operation, lambda dy: self._give(operation.x, dy))

    @_emit.register
    def _(self, operation: Conv) -> None:
        whole = _Geometry(operation, self._shapes[operation.x], self._shapes[operation.y])
        y = self._make(operation.y)
        x = self._with_border(self._where[operation.x], operation, whole)
        packed = self._pack(operation.weight, whole, turned=False)
        bias = self._tensor_or_none(operation.bias)
        relu = int(operation.relu)
        self._tiles("conv", x, y, packed, bias, relu, *whole.forward(), flops=whole.flops)

        def undo(dy: Buffer) -> None:
            if operation.relu and operation.y not in self._rectified:
                d, shape = self._value(operation.y), self._flat(operation.y)
                self._tiles("map_back", dy, y, d, NONE, Activation.RELU, NONE, NONE, *shape)
                dy = d
            if operation.x in self._needs_gradient:
                self._give(operation.x, self._input_gradient(operation, whole, dy))
            if operation.weight in self.wanted:
                bordered = self._with_border(self._past(operation.x), operation, whole)
                partial = self._gradient_partial(operation.weight)
                self._tiles(
                    "conv_weights", bordered, dy, partial, *whole.forward(), flops=whole.flops
                )
            if operation.bias in self.wanted:
                partial = self._gradient_partial(str(operation.bias))
                self._tiles("channel_sums", dy, partial, *self._flat(operation.y))

        self._undone(operation, undo)

    def _with_border(self, x: Buffer, conv: Conv, whole: "_Geometry") -> Buffer:
        """The input of a convolution with the border that it wants around it."""
        if not any(conv.padding):
            return x
        shape, (height, width) = self._shapes[conv.x], whole.bordered
        bordered = self._values(height * width * shape.channels)
        self._tiles(
            "place", x, bordered, shape.channels, shape.height, shape.width, height,
            width, conv.padding[0], conv.padding[1], 1, 1,
        )  # fmt: skip
        return bordered

    def _input_gradient(self, conv: Conv, whole: "_Geometry", dy: Buffer) -> Buffer:
        """The gradient of the input: a convolution of that of the output, its numbers as far apart
        as the stride and with as wide a border as the kernel reaches."""
        shape = self._shapes[conv.y]
        height, width, top, left = whole.turned_input
        if (height, width, top, left, *conv.stride) != (shape.height, shape.width, 0, 0, 1, 1):
            spread = self._values(height * width * shape.channels)
            self._tiles(
                "place", dy, spread, shape.channels, shape.height, shape.width, height, width, top,
                left, *conv.stride,
            )  # fmt: skip
            dy = spread
        packed, dx = self._pack(conv.weight, whole, turned=True), self._value(conv.x)
        self._tiles("conv", dy, dx, packed, NONE, 0, *whole.backward(), flops=whole.flops)
        return dx

    def _past(self, name: str) -> Buffer:
        """In the backward program, a value of the forward one. What a Map made is made again:
        to read it from memory would take longer."""
        if name not in self._again:
            return self._where[name]
        stages = self.programs[-1]
        key = len(stages) - (not stages or not stages[-1].of_tiles), name
        if key not in self._made_again:
            self._made_again[key] = self._value(name)
            self._again[name](self._made_again[key])
        return self._made_again[key]

    def _pack(self, weight: str, whole: "_Geometry", *, turned: bool) -> Buffer:
        """The weights of a convolution in the order in which its kernel reads them."""
        key = weight, turned, whole.packing(turned)
        if key not in self._packed:
            packed = self._packed[key] = self._shared(self.lengths[weight])
            call = Call("pack", (("weight", weight), packed, *whole.packing(turned), int(turned)))
            self._setup.calls.append(call)
        return self._packed[key]

    @_emit.register
    def _(self, operation: Map) -> None:
        y, x, shape = self._make(operation.y), self._where[operation.x], self._flat(operation.y)
        drop = NONE
        if operation.dropout:
            drop = 2 * len(self.dropouts)
            self.dropouts.append(operation.dropout)
        norm = self._norm(operation.norm, x) if operation.norm else NONE
        activation = int(operation.activation)
        self._tiles("map", x, y, norm, activation, drop, *shape)

        def again(to: Buffer) -> None:
            self._tiles("map", x, to, norm, activation, drop, *shape)

        self._again[operation.y] = again

        def undo(dy: Buffer) -> None:
            own = operation.norm
            sums = own and (own.weight in self.wanted or own.bias in self.wanted or not own.fixed)
            if not sums and operation.x not in self._needs_gradient:
                return
            d, partial = (
                self._value(operation.x),
                NONE if own is None else self._partial(2 * shape[0]),
            )
            x = self._past(operation.x)
            self._tiles("map_back", dy, x, d, norm, activation, drop, partial, *shape)
            if own:
                terms = self._shared(3 * shape[0])
                gradients = [
                    part for name in (own.weight, own.bias) for part in self._gradient_of(name)
                ]
                self._once(
                    "norm_gradient", partial, norm, terms, *gradients, *shape, int(own.fixed)
                )
                behind, d = d, self._value(operation.x)
                x = self._past(operation.x)
                relu = int(operation.x in self._rectified)
                self._tiles("norm_back", behind, x, d, terms, relu, *shape)
            if operation.x in self._needs_gradient:
                self._give(operation.x, d)

        self._undone(operation, undo)

    def _gradient_of(self, name: str) -> tuple[Tensor | int, int]:
        """The gradient of a tensor that is wanted, and whether to add to it: there was another
        use."""
        if name not in self.wanted:
            return NONE, 0
        again = name in self._begun
        self._begun.add(name)
        return ("gradient", name), int(again)

    def _norm(self, norm: Norm, x: Buffer) -> Buffer:
        """What a normalisation does to each channel, of the batch or fixed."""
        channels, pixels = self._flat(norm.x)
        found = self._shared(4 * channels)
        names = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        tensors = [self._tensor_or_none(name) for name in names]
        if norm.fixed:
            call = Call("fixed_norm", (found, *tensors, channels, norm.eps))
            self._setup.calls.append(call)
            return found
        partial = self._partial(2 * channels)
        self._tiles("moments", x, partial, channels, pixels)
        self._once("norm", partial, found, *tensors, len(self.norms), channels, pixels, norm.eps)
        self.norms.append(norm)
        return found

    @_emit.register
    def _(self, operation: Pool) -> None:
        y, x = self._make(operation.y), self._where[operation.x]
        before, after = self._shapes[operation.x], self._shapes[operation.y]
        windows = (*map(_ints, (operation.rows, operation.columns)), _floats(operation.divisors))
        mean, size = int(operation.mean), (after.height, after.width)
        self._tiles("pool", x, y, mean, *size, before.width, before.channels, *windows)

        def undo(dy: Buffer) -> None:
            sizes, dx = (
                (*size, before.height, before.width, before.channels),
                self._value(operation.x),
            )
            x, y = self._past(operation.x), self._past(operation.y)
            self._tiles("pool_back", x, y, dy, dx, mean, *sizes, *windows)
            self._give(operation.x, dx)

        self._undone(operation, undo)

    @_emit.register
    def _(self, operation: Combine) -> None:
        one, other = operation.xs
        y, values = self._make(operation.y), [self._where[x] for x in operation.xs]
        numbers = {name: self._numbers(name) for name in (one, other, operation.y)}
        whole = numbers[operation.y]
        both = (*numbers[one], *numbers[other])
        self._tiles("combine", *values, y, operation.sign, *both)

        def undo(dy: Buffer) -> None:
            for x, factor, is_second in ((one, other, False), (other, one, True)):
                if x not in self._needs_gradient:
                    continue
                gradient = dy
                if operation.sign == 0:
                    gradient = self._value(operation.y)
                    sizes = (*whole, *numbers[factor])
                    self._tiles("combine", dy, self._past(factor), gradient, 0, *sizes)
                elif operation.sign < 0 and is_second:
                    gradient = self._value(operation.y)
                    self._tiles("affine", dy, gradient, -1.0, 0.0, math.prod(whole))
                if numbers[x] != whole:
                    repeated, gradient = gradient, self._value(x)
                    self._tiles("reduce", repeated, gradient, *whole, *numbers[x])
                self._give(x, gradient)

        self._undone(operation, undo)

    @_emit.register
    def _(self, operation: Affine) -> None:
        y, x = self._make(operation.y), self._where[operation.x]
        count = self._shapes[operation.y].numbers
        self._tiles("affine", x, y, float(operation.scale), float(operation.shift), count)

        def undo(dy: Buffer) -> None:
            dx = self._value(operation.x)
            self._tiles("affine", dy, dx, float(operation.scale), 0.0, count)
            self._give(operation.x, dx)

        self._undone(operation, undo)

    @_emit.register
    def _(self, operation: Concatenate) -> None:
        y, whole = self._make(operation.y), self._shapes[operation.y]
        firsts, first = [], 0
        for x in operation.xs:
            channels = self._shapes[x].channels
            ends = (channels, 0, whole.channels, first)
            self._tiles("copy_channels", self._where[x], y, whole.pixels, channels, *ends)
            firsts.append(first)
            first += channels

        def undo(dy: Buffer) -> None:
            for x, first in zip(operation.xs, firsts, strict=True):
                if x in self._needs_gradient:
                    channels = self._shapes[x].channels
                    part = self._value(x)
                    ends = (whole.channels, first, channels, 0)
                    self._tiles("copy_channels", dy, part, whole.pixels, channels, *ends)
                    self._give(x, part)

        self._undone(operation, undo)

    @_emit.register
    def _(self, operation: Flatten) -> None:
        y, x, shape = self._make(operation.y), self._where[operation.x], self._shapes[operation.x]
        self._tiles("transpose", x, y, shape.pixels, shape.channels)

        def undo(dy: Buffer) -> None:
            dx = self._value(operation.x)
            self._tiles("transpose", dy, dx, shape.channels, shape.pixels)
            self._give(operation.x, dx)

        self._undone(operation, undo)

    @_emit.register
    def _(self, operation: LogSoftmax) -> None:
        y, x, shape = self._make(operation.y), self._where[operation.x], self._flat(operation.y)
        self._tiles("log_softmax", x, y, *shape)

        def undo(dy: Buffer) -> None:
            dx = self._value(operation.x)
            self._tiles("log_softmax_back", y, dy, dx, *shape)
            self._give(operation.x, dx)

        self._undone(operation, undo)

    # ---- Buffers and calls ----

    def _numbers(self, name: str) -> tuple[int, int]:
        """The pixels and the channels of a value."""
        return self._shapes[name].pixels, self._shapes[name].channels

    def _flat(self, name: str) -> tuple[int, int]:
        """The channels and the pixels of a value."""
        return self._shapes[name].channels, self._shapes[name].pixels

    def _make(self, name: str) -> Buffer:
        self._where[name] = self._value(name)
        return self._where[name]

    def _value(self, name: str) -> Buffer:
        return self._values(self._shapes[name].numbers)

    def _values(self, numbers: int) -> Buffer:
        """A buffer for so many numbers of each image of a tile."""
        return self._buffer(numbers * functions().lanes(), OF_THREAD)

    def _partial(self, floats: int) -> Buffer:
        """A buffer for sums over a tile."""
        return self._buffer(floats, OF_TILE)

    def _gradient_partial(self, name: str) -> Buffer:
        partial = self._partial(self.lengths[name])
        self._partials.setdefault(name, []).append(partial)
        return partial

    def _shared(self, floats: int) -> Buffer:
        """A buffer that all tiles share."""
        return self._buffer(floats, OF_ALL)

    def _buffer(self, floats: int, kind: int) -> Buffer:
        self.buffers.append(Buffer(floats, kind))
        return self.buffers[-1]

    def _tensor_or_none(self, name: str | None) -> Tensor | int:
        return ("weight", name) if name else NONE

    def _tiles(self, kernel: str, *arguments: Any, flops: int = 0) -> None:
        self._call(Call(kernel, arguments, flops), of_tiles=True)

    def _once(self, kernel: str, *arguments: Any) -> None:
        self._call(Call(kernel, arguments), of_tiles=False)

    def _call(self, call: Call, *, of_tiles: bool) -> None:
        stages = self.programs[-1]
        if not stages or stages[-1].of_tiles != of_tiles or stages[-1] is self._setup:
            stages.append(Stage(of_tiles))
        stages[-1].calls.append(call)
        for buffer in _buffers_of(call):
            time = len(self.programs) - 1, len(stages) - 1, len(stages[-1].calls) - 1
            buffer.uses.append(time)

    def _place_buffers(self) -> None:
        """Number the buffers. Two whose uses do not overlap become one; what the forward program
        leaves for the backward one stays, so that this can be run again."""
        self.places: list[Buffer] = []
        free_after: dict[int, tuple[int, int, int]] = {}  # by number of place
        for buffer in sorted(self.buffers, key=lambda buffer: buffer.uses[:1]):
            shareable = buffer.kind == OF_THREAD
            if shareable and len({use[:2] for use in buffer.uses}) > 1:
                buffer.kind = OF_TILE
            if shareable:
                fitting = [
                    number for number, end in free_after.items()
                    if end < buffer.uses[0] and self.places[number].kind == buffer.kind
                    and self.places[number].floats >= buffer.floats
                ]  # fmt: skip
                if fitting:
                    buffer.number = min(fitting, key=lambda number: self.places[number].floats)
            if buffer.number == NONE:
                buffer.number = len(self.places)
                self.places.append(buffer)
            if shareable and buffer.uses[0][0] == buffer.uses[-1][0]:
                free_after[buffer.number] = buffer.uses[-1]
            else:
                free_after.pop(buffer.number, None)


class _Geometry:
    """The numbers of a convolution, from values of one shape to values of another, that its kernels
    are given."""

    def __init__(self, conv: Conv, before: Shape, after: Shape) -> None:
        top, left, bottom, right = conv.padding
        self.conv, self.before, self.after = conv, before, after
        self.inputs, self.outputs = before.channels // conv.groups, after.channels // conv.groups
        self.bordered = before.height + top + bottom, before.width + left + right
        reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel, strict=True)]
        self.turned_input = (
            before.height + reach[0], before.width + reach[1], reach[0] - top, reach[1] - left,
        )  # fmt: skip
        connections = self.inputs * after.channels * math.prod(conv.kernel)
        self.flops = 2 * connections * after.pixels

    def packing(self, turned: bool) -> tuple[int, ...]:
        channels = (self.outputs, self.inputs) if turned else (self.inputs, self.outputs)
        return (*channels, self.conv.groups, *self.conv.kernel)

    def forward(self) -> tuple[int, ...]:
        return (
            *self.packing(False), self.after.height, self.after.width, self.bordered[1],
            *self.conv.stride, *self.conv.dilation,
        )  # fmt: skip

    def backward(self) -> tuple[int, ...]:
        return (
            *self.packing(True), self.before.height, self.before.width, self.turned_input[1], 1, 1,
            *self.conv.dilation,
        )  # fmt: skip


def _behind_a_relu(operations: list[Operation], outputs: Iterable[str]) -> set[str]:
    """The values that a convolution with a ReLU makes for a normalisation only, which undoes the
    ReLU in the same pass."""
    users = Counter(outputs)
    for operation in operations:
        users.update(operation.xs)
    made = {one.y for one in operations if isinstance(one, Conv) and one.relu}
    normed = {one.x for one in operations if isinstance(one, Map) and one.norm}
    return {name for name in made & normed if users[name] == 1}


def _shape(size: tuple[int, ...]) -> Shape:
    shape = shape_of(size)
    assert shape
    return shape


def _buffers_of(call: Call) -> Iterable[Buffer]:
    for argument in call.arguments:
        for part in argument if isinstance(argument, list) else (argument,):
            if isinstance(part, Buffer):
                yield part


def _ints(pairs: Iterable[tuple[int, int]]) -> ctypes.Array[ctypes.c_int]:
    numbers = [number for pair in pairs for number in pair]
    return (ctypes.c_int * len(numbers))(*numbers)


def _floats(numbers: Collection[float]) -> ctypes.Array[ctypes.c_float]:
    return (ctypes.c_float * len(numbers))(*numbers)


@cache
def functions() -> ctypes.CDLL:
    """The library of kernels. Raises library.UnavailableError."""
    loaded = library.loaded()
    loaded.plan_new.restype = loaded.memory_new.restype = ctypes.c_void_p
    loaded.peak_gflops.restype = ctypes.c_double
    return loaded


def carried_out_by(plan: Plan) -> ctypes.c_void_p:
    """Hand a plan over to the library; returns its address there."""
    handle = ctypes.c_void_p(functions().plan_new())
    for place in plan.places:
        functions().plan_buffer(handle, place.kind, ctypes.c_int64(place.floats))
    numbers = {tensor: number for number, tensor in enumerate(plan.tensors)}

    def converted(argument: Any) -> Any:
        if isinstance(argument, Buffer):
            return argument.number
        if isinstance(argument, list):
            return (ctypes.c_int * len(argument))(*(buffer.number for buffer in argument))
        if isinstance(argument, tuple):
            return numbers.setdefault(argument, len(numbers))
        return ctypes.c_double(argument) if isinstance(argument, float) else argument

    for stages in plan.programs:
        functions().plan_program(handle)
        for stage in stages:
            functions().plan_stage(handle, int(stage.of_tiles))
            for call in stage.calls:
                getattr(functions(), f"add_{call.kernel}")(handle, *map(converted, call.arguments))
    plan.tensors[:] = numbers
    return handle
