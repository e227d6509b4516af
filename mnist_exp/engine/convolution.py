"""Convolutions as calls of kernels, forward and back."""

import math

from mnist_exp.engine.draft import NONE, PlanDraft, same_row
from mnist_exp.engine.elementwise import map_back
from mnist_exp.engine.kernels import pixel
from mnist_exp.engine.operations import Activation, Conv, Map, Shape
from mnist_exp.engine.schedule import OF_THREAD, Buffer, KernelCall, Need, Rows


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
        """What says how weights are packed, for the convolution or its gradient (`turned`)."""
        channels = (self.outputs, self.inputs) if turned else (self.inputs, self.outputs)
        return (*channels, self.conv.groups, *self.conv.kernel)

    def forward(self) -> tuple[int, ...]:
        """The numbers of the convolution that its kernel is given."""
        return (
            *self.packing(False), self.after.width, *self.conv.stride, *self.conv.dilation,
        )  # fmt: skip

    def backward(self) -> tuple[int, ...]:
        """Likewise of the convolution that gives the gradient of the input."""
        return (*self.packing(True), self.before.width, 1, 1, *self.conv.dilation)


def convolution(draft: PlanDraft, operation: Conv) -> None:
    """Write down a convolution, and what undoes it."""
    whole = Geometry(operation, draft.shapes[operation.x], draft.shapes[operation.y])
    y = draft.make(operation.y)
    _convolve(draft, whole, draft.values[operation.x], y, flops=whole.flops)
    if whole.is_depthwise and not operation.relu:  # so cheap that it is calculated again

        def again(y: Buffer) -> None:
            _convolve(draft, whole, draft.past(operation.x), y, flops=0)

        draft.again[operation.y] = again

    def undo(dy: Buffer) -> None:
        if operation.relu and operation.y not in draft.rectified:
            relu = Map((operation.y,), operation.y, activation=Activation.RELU)
            dy = map_back(draft, relu, dy, y)
        if operation.x in draft.needs_gradient:
            draft.give(operation.x, _input_gradient(draft, whole, dy))
        if operation.weight in draft.wanted:
            _weight_gradient(draft, whole, dy)
        if operation.bias in draft.wanted:
            channels, height = whole.after.channels, whole.after.height
            sums = draft.sums(channels), draft.gradient_partial(str(operation.bias))
            arguments = dy, *sums, *draft.sides(operation.y)
            draft.tiles("channel_sums", *arguments, rows=height, needs=[Need(dy, same_row)])

    draft.undone(operation, undo)


def _convolve(draft: PlanDraft, whole: Geometry, x: Buffer, y: Buffer, flops: int) -> None:
    x, conv = _with_border(draft, x, whole), whole.conv
    packed, bias = _pack(draft, whole, turned=False), draft.tensor_or_none(conv.bias)
    draft.tiles(
        "conv", x, y, packed, bias, int(conv.relu), *whole.forward(), rows=whole.after.height,
        makes=y, needs=[Need(x, whole.reads)], flops=flops, of=conv.weight,
    )  # fmt: skip


def _weight_gradient(draft: PlanDraft, whole: Geometry, dy: Buffer) -> None:
    x = _with_border(draft, draft.past(whole.conv.x), whole)
    weight, height = whole.conv.weight, whole.after.height
    sums = draft.sums(draft.lengths[weight]), draft.gradient_partial(weight)
    draft.tiles(
        "conv_weights", x, dy, *sums, height, whole.bordered[1], *whole.forward(), rows=height,
        flops=whole.flops, of=weight, needs=[Need(x, whole.reads), Need(dy, same_row)],
    )  # fmt: skip


def _with_border(draft: PlanDraft, x: Buffer, whole: Geometry) -> Buffer:
    """The input of a convolution with the border that it wants around it."""
    if not any(whole.conv.padding):
        return x
    top, left, _, _ = whole.conv.padding
    return _placed(draft, x, whole.before, whole.bordered, (top, left), (1, 1))


def _placed(
    draft: PlanDraft, x: Buffer, shape: Shape, size: tuple[int, int], corner: tuple[int, int],
    spread: tuple[int, int],
) -> Buffer:  # fmt: skip
    """A value with its pixels `spread` apart, the first in this `corner` of zeros."""
    placed = draft.buffer(size[1] * pixel(shape.channels), OF_THREAD, size[0])

    def rows(i: int) -> tuple[int, int]:
        row, between = divmod(i - corner[0], spread[0])
        row = min(max(row + (between > 0), 0), shape.height)
        return row, min(row + (between == 0 and i >= corner[0]), shape.height)

    draft.tiles(
        "place", x, placed, shape.channels, shape.height, shape.width, size[1], *corner,
        *spread, rows=size[0], makes=placed, needs=[Need(x, rows)],
    )  # fmt: skip
    return placed


def _input_gradient(draft: PlanDraft, whole: Geometry, dy: Buffer) -> Buffer:
    """The gradient of the input: a convolution of that of the output, its numbers as far apart
    as the stride and with as wide a border as the kernel reaches."""
    size, corner = whole.turned_size, whole.turned_corner
    same = size == (whole.after.height, whole.after.width) and corner == (0, 0)
    if not same or whole.conv.stride != (1, 1):
        dy = _placed(draft, dy, whole.after, size, corner, whole.conv.stride)
    packed, dx = _pack(draft, whole, turned=True), draft.buffer_like(whole.conv.x)
    draft.tiles(
        "conv", dy, dx, packed, NONE, 0, *whole.backward(), rows=whole.before.height, makes=dx,
        needs=[Need(dy, whole.turned_reads)], flops=whole.flops, of=whole.conv.weight,
    )  # fmt: skip
    return dx


def _pack(draft: PlanDraft, whole: Geometry, *, turned: bool) -> Buffer:
    """The weights of a convolution in the order in which its kernel reads them."""
    weight = whole.conv.weight
    key = weight, turned, whole.packing(turned)
    if key not in draft.packed:
        packed = draft.packed[key] = draft.shared(draft.lengths[weight])
        arguments = ("weight", weight), packed, *whole.packing(turned), int(turned)
        draft.setup.calls.append(KernelCall("pack", arguments))
    return draft.packed[key]
