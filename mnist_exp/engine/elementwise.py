"""What is done to each number for itself, and normalisation, as calls of kernels."""

from typing import Any

from mnist_exp.engine.draft import NONE, PlanDraft, same_row
from mnist_exp.engine.kernels import lanes
from mnist_exp.engine.operations import Activation, Affine, Combine, Map, Norm
from mnist_exp.engine.schedule import Buffer, KernelCall, Need


def map_numbers(draft: PlanDraft, operation: Map) -> None:
    y, x = draft.make(operation.y), draft.values[operation.x]
    if operation.dropout:
        draft.dropouts.append(operation.dropout)
    drop = 2 * len(draft.dropouts) - 2 if operation.dropout else NONE
    norm = _norm(draft, operation.norm, x) if operation.norm else NONE
    settings = norm, int(operation.activation), drop
    channels, width, height = draft.sides(operation.y)

    def make(y: Buffer) -> None:
        same = [Need(x, same_row)]
        draft.tiles("map", x, y, *settings, channels, width, rows=height, makes=y, needs=same)

    make(y)
    draft.again[operation.y] = make

    def undo(dy: Buffer) -> None:
        own = operation.norm
        sums = own and (not own.fixed or not draft.wanted.isdisjoint((own.weight, own.bias)))
        if sums or operation.x in draft.needs_gradient:
            x = draft.past(operation.x)
            d = map_back(draft, operation, dy, x, settings)
            if operation.x in draft.needs_gradient:
                draft.give(operation.x, d)

    draft.undone(operation, undo)


def map_back(
    draft: PlanDraft, operation: Map, dy: Buffer, x: Buffer,
    settings: tuple[Any, ...] = (NONE, Activation.RELU, NONE),
) -> Buffer:  # fmt: skip
    """The gradient of what a map was made of, x."""
    channels, width, height = draft.sides(operation.y)
    d, norm = draft.buffer_like(operation.y), operation.norm
    sums = draft.sums(4 * channels) if norm else NONE
    partial = draft.partial(2 * channels) if norm else NONE
    needs = [Need(dy, same_row), Need(x, same_row)]
    arguments = dy, x, d, *settings, sums, partial, channels, width, height
    draft.tiles("map_back", *arguments, rows=height, makes=d, needs=needs)
    if not norm:
        return d
    terms = draft.shared(3 * channels)
    gradients = [*draft.gradient_of(norm.weight), *draft.gradient_of(norm.bias)]
    fixed = int(norm.fixed)
    arguments = partial, settings[0], terms, *gradients, channels, width * height, fixed
    draft.once("norm_gradient", *arguments)
    dx, x = draft.buffer_like(operation.x), draft.past(operation.x)
    needs = [Need(d, same_row), Need(x, same_row)]
    relu = int(operation.x in draft.rectified)
    arguments = d, x, dx, terms, relu, channels, width
    draft.tiles("norm_back", *arguments, rows=height, makes=dx, needs=needs)
    return dx


def _norm(draft: PlanDraft, norm: Norm, x: Buffer) -> Buffer:
    """What a normalisation does to each channel, of the batch or fixed."""
    channels, width, height = draft.sides(norm.x)
    found = draft.shared(4 * channels)
    names = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    tensors = [draft.tensor_or_none(name) for name in names]
    if norm.fixed:
        call = KernelCall("fixed_norm", (found, *tensors, channels, norm.eps))
        draft.setup.calls.append(call)
        return found
    partial = draft.partial(2 * channels)
    arguments = x, draft.sums(2 * channels), partial, channels, width, height
    draft.tiles("moments", *arguments, rows=height, needs=[Need(x, same_row)])
    numbers = len(draft.norms), channels, width * height
    draft.once("norm", partial, found, *tensors, *numbers, norm.eps)
    draft.norms.append(norm)
    return found


def combine(draft: PlanDraft, operation: Combine) -> None:
    one, other = operation.xs
    _combine(draft, operation.xs, draft.make(operation.y), operation.sign, operation.y)

    def undo(dy: Buffer) -> None:
        for x, factor, is_second in ((one, other, False), (other, one, True)):
            if x not in draft.needs_gradient:
                continue
            gradient = dy
            if operation.sign == 0:
                gradient = draft.buffer_like(operation.y)
                _product(draft, dy, factor, gradient, operation.y)
            elif operation.sign < 0 and is_second:
                gradient = _scaled(draft, dy, -1.0, 0.0, operation.y)
            if draft.shapes[x] != draft.shapes[operation.y]:
                gradient = _reduced(draft, gradient, operation.y, x)
            draft.give(x, gradient)

    draft.undone(operation, undo)


def _combine(draft: PlanDraft, xs: tuple[str, ...], y: Buffer, sign: int, name: str) -> None:
    values = [draft.values[x] for x in xs]
    if all(draft.shapes[x] == draft.shapes[name] for x in xs):
        one, other = values
        draft.join(one, other, y, sign, name)
        return
    sizes = [size for x in xs for size in reversed(draft.flat(x))]
    needs = [draft.all_of(value, x) for value, x in zip(values, xs, strict=True)]
    draft.tiles("combine", *values, y, sign, *sizes, makes=y, needs=needs)


def _product(draft: PlanDraft, dy: Buffer, factor: str, y: Buffer, name: str) -> None:
    """Let y be the product of a gradient of a value and of a factor, which may be repeated."""
    past = draft.past(factor)
    if draft.shapes[factor] == draft.shapes[name]:
        draft.join(dy, past, y, 0, name)
        return
    sizes = [*reversed(draft.flat(name)), *reversed(draft.flat(factor))]
    needs = [draft.all_of(dy, name), draft.all_of(past, factor)]
    draft.tiles("combine", dy, past, y, 0, *sizes, makes=y, needs=needs)


def _reduced(draft: PlanDraft, gradient: Buffer, name: str, x: str) -> Buffer:
    """The sum of a gradient over what was repeated."""
    reduced = draft.buffer_like(x)
    sizes = [*reversed(draft.flat(name)), *reversed(draft.flat(x))]
    needs = [draft.all_of(gradient, name)]
    draft.tiles("reduce", gradient, reduced, *sizes, makes=reduced, needs=needs)
    return reduced


def _scaled(draft: PlanDraft, x: Buffer, scale: float, shift: float, name: str) -> Buffer:
    y = draft.buffer_like(name)
    arguments = x, y, float(scale), float(shift), draft.row(name) // lanes()
    same = [Need(x, same_row)]
    draft.tiles("affine", *arguments, rows=draft.height(name), makes=y, needs=same)
    return y


def affine(draft: PlanDraft, operation: Affine) -> None:
    x, scale, shift = draft.values[operation.x], operation.scale, operation.shift
    draft.values[operation.y] = _scaled(draft, x, scale, shift, operation.y)

    def undo(dy: Buffer) -> None:
        draft.give(operation.x, _scaled(draft, dy, scale, 0.0, operation.y))

    draft.undone(operation, undo)
