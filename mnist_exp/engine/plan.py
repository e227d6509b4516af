"""A segment of a network as a program of kernel calls: which kernels, over which buffers.

`KernelPlan` writes the program down, forward and backward; `plan.cpp` carries it out. Backward is
written as the forward is: each operation leaves behind what undoes it, and they are called in the
opposite order.
"""

import ctypes
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, singledispatchmethod
from typing import Any

from mnist_exp.engine import library
from mnist_exp.engine.operations import (
    Activation,
    Affine,
    Combine,
    Concatenate,
    Conv,
    Drop,
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
from mnist_exp.engine.schedule import (
    OF_ALL,
    OF_THREAD,
    OF_TILE,
    Buffer,
    KernelCall,
    Need,
    Rows,
    Stage,
    lay_out,
)
from mnist_exp.engine.trace import Segment

NONE = -1
RELU = Activation.RELU


Tensor = tuple[str, str | int]
"""A tensor that a program reads or writes: what it is (`weight`, `gradient`, `input`, `output`,
`output gradient`, `input gradient`), and which."""


class KernelPlan:
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
        self.dropouts: list[Drop] = []
        self.norms: list[Norm] = []
        self.buffers: list[Buffer] = []
        self._setup = Stage(of_tiles=False)
        self.programs: list[list[Stage]] = []
        shapes = {name: shape_of(size) for name, size in sizes.items()}
        self._shapes = {name: shape for name, shape in shapes.items() if shape}
        self._values: dict[str, Buffer] = {}
        self._gradients: dict[str, Buffer] = {}
        self._needs_gradient = set(of_inputs)
        self._packed: dict[tuple[str, bool, tuple[int, ...]], Buffer] = {}
        self._partials: dict[str, list[Buffer]] = {}
        self._begun: set[str] = set()
        self._again: dict[str, Callable[[Buffer], None]] = {}
        self._made_again: dict[tuple[int, str], Buffer] = {}
        self._undo: list[Callable[[], None]] = []
        self._forward(segment)
        if self.wanted or of_inputs:
            self._backward(segment, of_inputs)
        self.sizes = lay_out(self.buffers, self.programs)

    # ---- The two programs ----

    def _forward(self, segment: Segment) -> None:
        self.programs.append([self._setup])
        for number, name in enumerate(segment.inputs):
            value = self._make(name)
            self._tiles("load", ("input", number), value, *self._flat(name), 0, makes=value)
        operations = fused(segment.operations, segment.outputs)
        self._rectified = _behind_a_relu(operations, segment.outputs)
        for operation in operations:
            if any(x in self._needs_gradient for x in operation.xs) or self._has_wanted(operation):
                self._needs_gradient.add(operation.y)
            self._emit(operation)
        for number, name in enumerate(segment.outputs):
            self._store(self._values[name], name, ("output", number))

    def _backward(self, segment: Segment, of_inputs: Collection[str]) -> None:
        self.programs.append([])
        for number, name in enumerate(segment.outputs):
            if name in self._needs_gradient:
                gradient = self._buffer_like(name)
                arguments = ("output gradient", number), gradient, *self._flat(name), 1
                self._tiles("load", *arguments, makes=gradient)
                self._give(name, gradient)
        for undo in reversed(self._undo):
            undo()
        for number, name in enumerate(segment.inputs):
            if name in of_inputs:
                self._store(self._gradients[name], name, ("input gradient", number))
        for weight, partials in self._partials.items():
            length = self.lengths[weight]
            of_weight = self._gradient_of(weight)
            self._once("sum_tiles", partials, len(partials), *of_weight, length)

    def _store(self, value: Buffer, name: str, tensor: Tensor) -> None:
        self._tiles("store", value, tensor, *self._flat(name), needs=[self._all_of(value, name)])

    def _has_wanted(self, operation: Operation) -> bool:
        return not self.wanted.isdisjoint(
            operation.norm.tensors if isinstance(operation, Map) and operation.norm
            else operation.tensors
        )  # fmt: skip

    def _give(self, name: str, gradient: Buffer) -> None:
        """Add a gradient of a value to what others gave."""
        if name in self._gradients:
            others, both = self._gradients[name], self._buffer_like(name)
            self._join(others, gradient, both, 1, name)
            gradient = both
        self._gradients[name] = gradient

    def _join(self, one: Buffer, other: Buffer, y: Buffer, sign: int, name: str) -> None:
        """Let y be the sum, the difference or the product of values like that of the name."""
        needs = [Need(one, _same_row), Need(other, _same_row)]
        arguments = one, other, y, sign, self._row(name)
        self._tiles("join", *arguments, rows=self._height(name), makes=y, needs=needs)

    def _undone(self, operation: Operation, undo: Callable[[Buffer], None]) -> None:
        """In the backward program, call `undo` with the gradient of what the operation makes, if it
        has one."""

        def call() -> None:
            if operation.y in self._gradients:
                undo(self._gradients[operation.y])

        if operation.y in self._needs_gradient:
            self._undo.append(call)

    def _past(self, name: str) -> Buffer:
        """In the backward program, a value of the forward one. What a Map made is made again: to
        read it from memory would take longer."""
        if name not in self._again:
            return self._values[name]
        stages = self.programs[-1]
        key = len(stages) - (not stages or not stages[-1].of_tiles), name
        if key not in self._made_again:
            self._made_again[key] = self._buffer_like(name)
            self._again[name](self._made_again[key])
        return self._made_again[key]

    # ---- Operations ----

    @singledispatchmethod
    def _emit(self, operation: Operation) -> None:
        """Write down an operation, and what undoes it."""
        raise NotImplementedError(type(operation).__name__)

    @_emit.register
    def _(self, operation: Same) -> None:
        self._values[operation.y] = self._values[operation.x]
        self._undone(operation, lambda dy: self._give(operation.x, dy))

    @_emit.register
    def _(self, operation: Conv) -> None:
        whole = Geometry(operation, self._shapes[operation.x], self._shapes[operation.y])
        x, y = self._with_border(self._values[operation.x], whole), self._make(operation.y)
        packed = self._pack(whole, turned=False)
        tensors = packed, self._tensor_or_none(operation.bias), int(operation.relu)
        self._tiles(
            "conv", x, y, *tensors, *whole.forward(), rows=whole.after.height, makes=y,
            needs=[Need(x, whole.reads)], flops=whole.flops,
        )  # fmt: skip
        if whole.is_depthwise and not operation.relu:  # so cheap that it is calculated again

            def again(y: Buffer) -> None:
                x = self._with_border(self._past(operation.x), whole)
                self._tiles(
                    "conv", x, y, *tensors, *whole.forward(), rows=whole.after.height, makes=y,
                    needs=[Need(x, whole.reads)],
                )  # fmt: skip

            self._again[operation.y] = again

        def undo(dy: Buffer) -> None:
            if operation.relu and operation.y not in self._rectified:
                dy = self._map_back(Map((operation.y,), operation.y, activation=RELU), dy, y)
            if operation.x in self._needs_gradient:
                self._give(operation.x, self._input_gradient(whole, dy))
            if operation.weight in self.wanted:
                bordered = self._with_border(self._past(operation.x), whole)
                length, height = self.lengths[operation.weight], whole.after.height
                sums = self._sums(length), self._gradient_partial(operation.weight)
                self._tiles(
                    "conv_weights", bordered, dy, *sums, height, *whole.forward(),
                    rows=height, flops=whole.flops,
                    needs=[Need(bordered, whole.reads), Need(dy, _same_row)],
                )  # fmt: skip
            if operation.bias in self.wanted:
                sums = self._sums(whole.after.channels), self._gradient_partial(str(operation.bias))
                self._tiles(
                    "channel_sums", dy, *sums, *self._sides(operation.y), rows=whole.after.height,
                    needs=[Need(dy, _same_row)],
                )  # fmt: skip

        self._undone(operation, undo)

    def _with_border(self, x: Buffer, whole: "Geometry") -> Buffer:
        """The input of a convolution with the border that it wants around it."""
        if not any(whole.conv.padding):
            return x
        top, left, _, _ = whole.conv.padding
        return self._placed(x, whole.before, whole.bordered, (top, left), (1, 1))

    def _placed(
        self, x: Buffer, shape: Shape, size: tuple[int, int], corner: tuple[int, int],
        spread: tuple[int, int],
    ) -> Buffer:  # fmt: skip
        """A value with its pixels `spread` apart, the first in this `corner` of zeros."""
        placed = self._buffer(size[1] * shape.channels * lanes(), OF_THREAD, size[0])

        def rows(i: int) -> tuple[int, int]:
            row, between = divmod(i - corner[0], spread[0])
            row = min(max(row + (between > 0), 0), shape.height)
            return row, min(row + (between == 0 and i >= corner[0]), shape.height)

        self._tiles(
            "place", x, placed, shape.channels, shape.height, shape.width, size[1], *corner,
            *spread, rows=size[0], makes=placed, needs=[Need(x, rows)],
        )  # fmt: skip
        return placed

    def _input_gradient(self, whole: "Geometry", dy: Buffer) -> Buffer:
        """The gradient of the input: a convolution of that of the output, its numbers as far apart
        as the stride and with as wide a border as the kernel reaches."""
        size, corner = whole.turned_size, whole.turned_corner
        same = size == (whole.after.height, whole.after.width) and corner == (0, 0)
        if not same or whole.conv.stride != (1, 1):
            dy = self._placed(dy, whole.after, size, corner, whole.conv.stride)
        packed, dx = self._pack(whole, turned=True), self._buffer_like(whole.conv.x)
        self._tiles(
            "conv", dy, dx, packed, NONE, 0, *whole.backward(), rows=whole.before.height, makes=dx,
            needs=[Need(dy, whole.turned_reads)], flops=whole.flops,
        )  # fmt: skip
        return dx

    def _pack(self, whole: "Geometry", *, turned: bool) -> Buffer:
        """The weights of a convolution in the order in which its kernel reads them."""
        weight = whole.conv.weight
        key = weight, turned, whole.packing(turned)
        if key not in self._packed:
            packed = self._packed[key] = self._shared(self.lengths[weight])
            arguments = ("weight", weight), packed, *whole.packing(turned), int(turned)
            self._setup.calls.append(KernelCall("pack", arguments))
        return self._packed[key]

    @_emit.register
    def _(self, operation: Map) -> None:
        y, x = self._make(operation.y), self._values[operation.x]
        if operation.dropout:
            self.dropouts.append(operation.dropout)
        drop = 2 * len(self.dropouts) - 2 if operation.dropout else NONE
        norm = self._norm(operation.norm, x) if operation.norm else NONE
        settings = norm, int(operation.activation), drop
        channels, width, height = self._sides(operation.y)

        def make(y: Buffer) -> None:
            same = [Need(x, _same_row)]
            self._tiles("map", x, y, *settings, channels, width, rows=height, makes=y, needs=same)

        make(y)
        self._again[operation.y] = make

        def undo(dy: Buffer) -> None:
            own = operation.norm
            sums = own and (not own.fixed or not self.wanted.isdisjoint((own.weight, own.bias)))
            if sums or operation.x in self._needs_gradient:
                x = self._past(operation.x)
                d = self._map_back(operation, dy, x, settings)
                if operation.x in self._needs_gradient:
                    self._give(operation.x, d)

        self._undone(operation, undo)

    def _map_back(
        self, operation: Map, dy: Buffer, x: Buffer, settings: tuple[Any, ...] = (NONE, RELU, NONE)
    ) -> Buffer:
        """The gradient of what a map was made of, x."""
        channels, width, height = self._sides(operation.y)
        d, norm = self._buffer_like(operation.y), operation.norm
        sums = self._sums(2 * channels) if norm else NONE
        partial = self._partial(2 * channels) if norm else NONE
        needs = [Need(dy, _same_row), Need(x, _same_row)]
        arguments = dy, x, d, *settings, sums, partial, channels, width, height
        self._tiles("map_back", *arguments, rows=height, makes=d, needs=needs)
        if not norm:
            return d
        terms = self._shared(3 * channels)
        gradients = [*self._gradient_of(norm.weight), *self._gradient_of(norm.bias)]
        fixed = int(norm.fixed)
        arguments = partial, settings[0], terms, *gradients, channels, width * height, fixed
        self._once("norm_gradient", *arguments)
        dx, x = self._buffer_like(operation.x), self._past(operation.x)
        needs = [Need(d, _same_row), Need(x, _same_row)]
        relu = int(operation.x in self._rectified)
        arguments = d, x, dx, terms, relu, channels, width
        self._tiles("norm_back", *arguments, rows=height, makes=dx, needs=needs)
        return dx

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
        channels, width, height = self._sides(norm.x)
        found = self._shared(4 * channels)
        names = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        tensors = [self._tensor_or_none(name) for name in names]
        if norm.fixed:
            call = KernelCall("fixed_norm", (found, *tensors, channels, norm.eps))
            self._setup.calls.append(call)
            return found
        partial = self._partial(2 * channels)
        arguments = x, self._sums(2 * channels), partial, channels, width, height
        self._tiles("moments", *arguments, rows=height, needs=[Need(x, _same_row)])
        numbers = len(self.norms), channels, width * height
        self._once("norm", partial, found, *tensors, *numbers, norm.eps)
        self.norms.append(norm)
        return found

    @_emit.register
    def _(self, operation: Pool) -> None:
        y, x = self._make(operation.y), self._values[operation.x]
        before, after = self._shapes[operation.x], self._shapes[operation.y]
        of_rows = _windows_of(operation.rows, before.height)
        of_columns = _windows_of(operation.columns, before.width)
        windows = [*map(_ints, (operation.rows, operation.columns, of_rows, of_columns))]
        settings = (
            int(operation.mean), after.height, after.width, before.height, before.width,
            before.channels, *windows, _floats(operation.divisors),
        )  # fmt: skip
        reads = [Need(x, lambda i: operation.rows[i])]
        self._tiles("pool", x, y, *settings, rows=after.height, makes=y, needs=reads)

        def undo(dy: Buffer) -> None:
            x, y = self._past(operation.x), self._past(operation.y)
            dx = self._buffer_like(operation.x)

            def rows(i: int) -> tuple[int, int]:
                tops = [operation.rows[window][0] for window in range(*of_rows[i])]
                return min(tops, default=i), i + 1

            windows = [Need(dy, lambda i: of_rows[i]), Need(y, lambda i: of_rows[i])]
            self._tiles(
                "pool_back", x, y, dy, dx, *settings, rows=before.height, makes=dx,
                needs=[Need(x, rows), *windows],
            )  # fmt: skip
            self._give(operation.x, dx)

        self._undone(operation, undo)

    @_emit.register
    def _(self, operation: Combine) -> None:
        one, other = operation.xs
        self._combine(operation.xs, self._make(operation.y), operation.sign, operation.y)

        def undo(dy: Buffer) -> None:
            for x, factor, is_second in ((one, other, False), (other, one, True)):
                if x not in self._needs_gradient:
                    continue
                gradient = dy
                if operation.sign == 0:
                    gradient = self._buffer_like(operation.y)
                    self._product(dy, factor, gradient, operation.y)
                elif operation.sign < 0 and is_second:
                    gradient = self._scaled(dy, -1.0, 0.0, operation.y)
                if self._shapes[x] != self._shapes[operation.y]:
                    gradient = self._reduced(gradient, operation.y, x)
                self._give(x, gradient)

        self._undone(operation, undo)

    def _combine(self, xs: tuple[str, ...], y: Buffer, sign: int, name: str) -> None:
        values = [self._values[x] for x in xs]
        if all(self._shapes[x] == self._shapes[name] for x in xs):
            one, other = values
            self._join(one, other, y, sign, name)
            return
        sizes = [size for x in xs for size in reversed(self._flat(x))]
        needs = [self._all_of(value, x) for value, x in zip(values, xs, strict=True)]
        self._tiles("combine", *values, y, sign, *sizes, makes=y, needs=needs)

    def _product(self, dy: Buffer, factor: str, y: Buffer, name: str) -> None:
        """Let y be the product of a gradient of a value and of a factor, which may be repeated."""
        past = self._past(factor)
        if self._shapes[factor] == self._shapes[name]:
            self._join(dy, past, y, 0, name)
            return
        sizes = [*reversed(self._flat(name)), *reversed(self._flat(factor))]
        needs = [self._all_of(dy, name), self._all_of(past, factor)]
        self._tiles("combine", dy, past, y, 0, *sizes, makes=y, needs=needs)

    def _reduced(self, gradient: Buffer, name: str, x: str) -> Buffer:
        """The sum of a gradient over what was repeated."""
        reduced = self._buffer_like(x)
        sizes = [*reversed(self._flat(name)), *reversed(self._flat(x))]
        needs = [self._all_of(gradient, name)]
        self._tiles("reduce", gradient, reduced, *sizes, makes=reduced, needs=needs)
        return reduced

    def _scaled(self, x: Buffer, scale: float, shift: float, name: str) -> Buffer:
        y = self._buffer_like(name)
        arguments = x, y, float(scale), float(shift), self._row(name)
        same = [Need(x, _same_row)]
        self._tiles("affine", *arguments, rows=self._height(name), makes=y, needs=same)
        return y

    @_emit.register
    def _(self, operation: Affine) -> None:
        x, scale, shift = self._values[operation.x], operation.scale, operation.shift
        self._values[operation.y] = self._scaled(x, scale, shift, operation.y)

        def undo(dy: Buffer) -> None:
            self._give(operation.x, self._scaled(dy, scale, 0.0, operation.y))

        self._undone(operation, undo)

    @_emit.register
    def _(self, operation: Concatenate) -> None:
        """One call for all parts, since a value has one maker."""
        y, whole = self._make(operation.y), self._shapes[operation.y]
        values = [self._values[x] for x in operation.xs]
        channels = [self._shapes[x].channels for x in operation.xs]
        needs = [self._all_of(value, x) for value, x in zip(values, operation.xs, strict=True)]
        counts = (ctypes.c_int * len(channels))(*channels)
        arguments = values, len(values), y, whole.pixels, counts
        self._tiles("concatenate", *arguments, makes=y, needs=needs)

        def undo(dy: Buffer) -> None:
            first = 0
            for x, count in zip(operation.xs, channels, strict=True):
                if x in self._needs_gradient:
                    part = self._buffer_like(x)
                    arguments = dy, part, whole.pixels, whole.channels, first, count
                    need = [self._all_of(dy, operation.y)]
                    self._tiles("take_channels", *arguments, makes=part, needs=need)
                    self._give(x, part)
                first += count

        self._undone(operation, undo)

    @_emit.register
    def _(self, operation: Flatten) -> None:
        y, x, shape = self._make(operation.y), self._values[operation.x], self._shapes[operation.x]
        needs = [self._all_of(x, operation.x)]
        self._tiles("transpose", x, y, shape.pixels, shape.channels, makes=y, needs=needs)

        def undo(dy: Buffer) -> None:
            dx, needs = self._buffer_like(operation.x), [self._all_of(dy, operation.y)]
            self._tiles("transpose", dy, dx, shape.channels, shape.pixels, makes=dx, needs=needs)
            self._give(operation.x, dx)

        self._undone(operation, undo)

    @_emit.register
    def _(self, operation: LogSoftmax) -> None:
        y, x, sizes = self._make(operation.y), self._values[operation.x], self._flat(operation.y)
        needs = [self._all_of(x, operation.x)]
        self._tiles("log_softmax", x, y, *sizes, makes=y, needs=needs)

        def undo(dy: Buffer) -> None:
            dx = self._buffer_like(operation.x)
            needs = [self._all_of(y, operation.y), self._all_of(dy, operation.y)]
            self._tiles("log_softmax_back", y, dy, dx, *sizes, makes=dx, needs=needs)
            self._give(operation.x, dx)

        self._undone(operation, undo)

    # ---- Buffers and calls ----

    def _flat(self, name: str) -> tuple[int, int]:
        """The channels and the pixels of a value."""
        return self._shapes[name].channels, self._shapes[name].pixels

    def _sides(self, name: str) -> tuple[int, int, int]:
        """The channels, the width and the height of a value."""
        shape = self._shapes[name]
        return shape.channels, shape.width, shape.height

    def _row(self, name: str) -> int:
        """The numbers in a row of a value."""
        return self._shapes[name].channels * self._shapes[name].width

    def _height(self, name: str) -> int:
        return self._shapes[name].height

    def _all_of(self, buffer: Buffer, name: str) -> Need:
        """That all rows of a value are needed."""
        height = self._height(name)
        return Need(buffer, lambda _: (0, height))

    def _make(self, name: str) -> Buffer:
        self._values[name] = self._buffer_like(name)
        return self._values[name]

    def _buffer_like(self, name: str) -> Buffer:
        """A buffer for a value, or its gradient."""
        return self._buffer(self._row(name) * lanes(), OF_THREAD, self._height(name))

    def _sums(self, numbers: int) -> Buffer:
        """A buffer for sums that go on from row to row."""
        return self._buffer(numbers * lanes(), OF_THREAD)

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

    def _buffer(self, floats: int, kind: int, rows: int = 1) -> Buffer:
        self.buffers.append(Buffer(floats, kind, rows))
        return self.buffers[-1]

    def _tensor_or_none(self, name: str | None) -> Tensor | int:
        return ("weight", name) if name else NONE

    def _tiles(
        self, kernel: str, *arguments: Any, rows: int = 1, makes: Buffer | None = None,
        needs: Collection[Need] = (), flops: int = 0,
    ) -> None:  # fmt: skip
        self._call(KernelCall(kernel, arguments, rows, makes, tuple(needs), flops), of_tiles=True)

    def _once(self, kernel: str, *arguments: Any) -> None:
        self._call(KernelCall(kernel, arguments), of_tiles=False)

    def _call(self, call: KernelCall, *, of_tiles: bool) -> None:
        stages = self.programs[-1]
        if not stages or stages[-1].of_tiles != of_tiles or stages[-1] is self._setup:
            stages.append(Stage(of_tiles))
        stages[-1].calls.append(call)


class Geometry:
    """The numbers of a convolution, from a value of one shape `before` to one of another `after`,
    that its kernels are given. `reads` are the rows of its input that a row of its output is of,
    and `turned_reads` likewise those of the gradient, with zeros between and around, of a row of
    the input's. `flops` are those of one image."""

    def __init__(self, conv: Conv, before: Shape, after: Shape) -> None:
        top, left, bottom, right = conv.padding
        self.conv, self.before, self.after = conv, before, after
        self.inputs, self.outputs = before.channels // conv.groups, after.channels // conv.groups
        self.bordered = before.height + top + bottom, before.width + left + right
        reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel, strict=True)]
        self.reads: Rows = lambda i: (i * conv.stride[0], i * conv.stride[0] + reach[0] + 1)
        self.turned_reads: Rows = lambda i: (i, i + reach[0] + 1)
        self.turned_size = before.height + reach[0], before.width + reach[1]
        self.turned_corner = reach[0] - top, reach[1] - left
        self.is_depthwise = self.inputs == self.outputs == 1 and conv.groups > 1
        self.flops = 2 * self.inputs * after.channels * math.prod(conv.kernel) * after.pixels

    def packing(self, turned: bool) -> tuple[int, ...]:
        channels = (self.outputs, self.inputs) if turned else (self.inputs, self.outputs)
        return (*channels, self.conv.groups, *self.conv.kernel)

    def forward(self) -> tuple[int, ...]:
        sizes = self.after.width, self.bordered[1]
        return (*self.packing(False), *sizes, *self.conv.stride, *self.conv.dilation)

    def backward(self) -> tuple[int, ...]:
        sizes = self.before.width, self.turned_size[1]
        return (*self.packing(True), *sizes, 1, 1, *self.conv.dilation)


def _same_row(i: int) -> tuple[int, int]:
    return i, i + 1


def _windows_of(windows: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Of each pixel along an axis, the windows first..end-1 that it is in."""
    return [
        (
            sum(end <= pixel for _, end in windows),
            sum(start <= pixel for start, _ in windows),
        )
        for pixel in range(size)
    ]


def _behind_a_relu(operations: list[Operation], outputs: Iterable[str]) -> set[str]:
    """The values that a convolution with a ReLU makes for a normalisation only, which undoes the
    ReLU in the same pass."""
    users = Counter(outputs)
    for operation in operations:
        users.update(operation.xs)
    made = {one.y for one in operations if isinstance(one, Conv) and one.relu}
    normed = {one.x for one in operations if isinstance(one, Map) and one.norm}
    return {name for name in made & normed if users[name] == 1}


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
    loaded.peak_gflops.restype, loaded.peak_gflops.argtypes = ctypes.c_double, [ctypes.c_double]
    return loaded


def lanes() -> int:
    """How many images are side by side in a tile."""
    return int(functions().lanes())


def carried_out_by(plan: KernelPlan) -> ctypes.c_void_p:
    """Hand a plan over to the library; returns its address there."""
    handle = ctypes.c_void_p(functions().plan_new())
    functions().plan_sizes(handle, *map(ctypes.c_int64, plan.sizes))
    for buffer in sorted(plan.buffers, key=lambda buffer: buffer.number):
        place = ctypes.c_int64(buffer.offset), ctypes.c_int64(buffer.floats)
        functions().plan_buffer(handle, buffer.kind, *place, buffer.rows)
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
            for part in stage.steps:
                functions().plan_step(handle, part.call, part.first, part.end)
    plan.tensors[:] = numbers
    return handle
