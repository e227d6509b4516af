"""How operations move the field of what is no map, by the bounds of each number.

A rule takes a call, and gives what each output sees (or the first ones: the rest is not followed).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mnist_exp.training.call import Call
from mnist_exp.training.sight import BOUNDS, Sight, is_spread

NumberRule = Callable[[Call], list[Sight]]


def _hull(parts: Iterable[Tensor], shape: Sequence[int]) -> Tensor:
    """The bounds that hold those of all parts, each of which is spread over `shape`."""
    hull = torch.full((BOUNDS, *shape), math.inf)
    for part in parts:
        lead = [1] * (hull.dim() - part.dim())
        hull = torch.minimum(hull, part.reshape(BOUNDS, *lead, *part.shape[1:]))
    return hull


def rearrange(call: Call) -> list[Sight]:
    """Numbers are put elsewhere, or left out, by position: their bounds go with them."""
    stacks = "tensors" in call.arguments
    if not stacks:
        call.require_constants()
    if call.is_mixed and call.operation in SOME:
        raise call.error("takes some of channels that see differently")

    def bounds_in_place(x: Any, number: int) -> Any:
        if not isinstance(x, Tensor):
            return x
        bounds = call.bounds(x)
        if bounds is None:
            return torch.full(x.shape, math.inf) if stacks else x
        return bounds[number].contiguous()

    parts = []
    for number in range(BOUNDS):
        args, kwargs = pytree.tree_map(
            lambda x, number=number: bounds_in_place(x, number), (call.args, call.kwargs)
        )
        moved = call.function(*args, **kwargs)
        parts.append(list(moved) if isinstance(moved, list | tuple) else [moved])
    moved_bounds = (torch.stack(list(six)) for six in zip(*parts, strict=True))
    is_told = call.operation not in SHAPED
    return [
        call.settle(six, output, is_told=is_told)
        for six, output in zip(moved_bounds, call.outputs, strict=True)
    ]


def take_apart(call: Call) -> list[Sight]:
    """Windows become channels, which is what `unfold` does."""
    if any(call.arguments["padding"]):
        raise call.error("pads what it takes apart")
    return rearrange(call)


def halve(call: Call) -> list[Sight]:
    """A gated linear unit: one half of the numbers is the gate of the other."""
    x, one = call.inputs[0]
    dim = call.arguments["dim"] % x.dim() + 1
    return [call.settle(_hull(one.bounds_of(x).chunk(2, dim), call.output.shape), call.output)]


def reduce(call: Call) -> list[Sight]:
    """One number of several: a mean, a maximum, a deviation, over whatever dimensions."""
    call.require_constants()
    x, one = call.inputs[0]
    dims = [dim + 1 for dim in call.dims(call.arguments.get("dim"))]
    bounds = one.bounds_of(x).amin(dims, keepdim=bool(call.arguments.get("keepdim")))
    sight = call.settle(bounds, call.output)
    return [sight] * len(call.outputs)


def multiply(call: Call) -> list[Sight]:
    """A product of matrices: each number sees a row of the one and a column of the other."""
    has_bias = call.operation in ("addmm", "baddbmm")
    bias, left, right = call.args[:3] if has_bias else (None, *call.args[:2])
    if call.bounds(bias) is not None:
        raise call.error("takes its bias from the images")
    sides = ((call.bounds(left), -1), (call.bounds(right), -2))
    parts = [bounds.amin(dim, keepdim=True) for bounds, dim in sides if bounds is not None]
    return [call.settle(_hull(parts, call.output.shape), call.output, is_mixed=False)]


def attend(call: Call) -> list[Sight]:
    """Attention: each query sees all keys and all values."""
    names = {"query": (-1,), "key": (-2, -1), "value": (-2,)}
    for name, value in call.arguments.items():
        if name not in names and any(call.bounds(x) is not None for x in [value]):
            raise call.error(f"takes its {name} from the images")
    seen = ((call.bounds(call.arguments[name]), dims) for name, dims in names.items())
    parts = [bounds.amin(dims, keepdim=True) for bounds, dims in seen if bounds is not None]
    return [call.settle(_hull(parts, call.output.shape), call.output)]


def add_statistics(call: Call, dims: Any) -> list[Sight]:
    """Each number goes on seeing what it saw; the statistics over `dims` come in besides, if they
    see more of the image."""
    call.require_constants()
    x, one = call.inputs[0]
    bounds = one.bounds_of(x)
    statistics = bounds.amin([dim + 1 for dim in call.dims(dims)], keepdim=True)
    if bool((-statistics[3] - statistics[0] > 1).any()):
        raise call.error("takes its statistics from all images of a batch")
    if bool((call.clip(bounds) <= call.clip(statistics)).all()):
        return [one]
    call.normalises = True
    if not one.is_global:
        call.add_row(one.field, one.field, is_global=True)
    return [one.made_global()]


def normalise_channels(call: Call) -> list[Sight]:
    if not call.arguments.get("training"):
        return go_on(call)
    return add_statistics(call, [dim for dim in range(len(call.shape)) if dim != 1])


def softmax(call: Call) -> list[Sight]:
    return add_statistics(call, call.arguments["dim"])


def layer_norm(call: Call) -> list[Sight]:
    return add_statistics(call, list(range(-len(call.arguments["normalized_shape"]), 0)))


def group_norm(call: Call) -> list[Sight]:
    return add_statistics(call, list(range(1, len(call.shape))))


def go_on(call: Call) -> list[Sight]:
    """Each number goes on seeing what it saw."""
    call.require_constants()
    return [call.first]


def join_numbers(call: Call) -> list[Sight]:
    """Branches meet, number by number, as maps do cell by cell."""
    shape = call.output.shape
    if len(call.inputs) == 1 and call.shape == shape:
        return [call.first] * len(call.outputs)
    parts = [(x, one.bounds_of(x)) for x, one in call.inputs]
    still = [(x, bounds) for x, bounds in parts if is_spread(bounds)]
    if len(still) == len(parts):
        still = []
    moving = [bounds for x, bounds in parts if not any(x is other for other, _ in still)]
    hull = _hull(moving, shape)
    for x, bounds in still:
        spread = _hull([bounds], shape)
        if not bool((call.clip(hull) <= call.clip(spread)).all()):
            call.frozen.append(x)
        # What sees nothing by itself, as a parameter, sees what is spread over it.
        hull = torch.where(hull.isfinite(), hull, spread)
    images = _hull((bounds for _, bounds in parts), shape)
    hull[0], hull[3] = images[0], images[3]
    is_global = bool(call.frozen)
    found = call.settle(hull, call.output, is_global=is_global)
    if is_global and not call.is_global and not call.rows:
        call.add_row(found.field, found.field, is_global=True)
    return [found] * len(call.outputs)


def stay_in_one_field(call: Call) -> list[Sight]:
    """There is one field, and whatever is made of it has it."""
    parts = [one.bounds_of(x).flatten(1).amin(1) for x, one in call.inputs]
    hull = torch.stack(parts).amin(0)
    found = []
    for output in call.outputs:
        own = hull.view(-1, *[1] * output.dim()).repeat(1, *output.shape)
        images = torch.arange(call.images).view(-1, *[1] * (output.dim() - 1))
        own[0], own[3] = images, -images - 1
        found.append(call.settle(own, output))
    return found


SOME = {"slice", "select", "split", "split_with_sizes", "unbind", "index", "index_select", "gather"}
"""What takes some of the numbers, and leaves others."""
SHAPED = {"view", "_unsafe_view", "_reshape_alias", "permute", "transpose", "t", "expand", "repeat"}
SHAPED |= {"squeeze", "unsqueeze", "cat", "stack", "channel_shuffle", "native_channel_shuffle"}
"""What leaves all numbers as they are, and only their places change."""
MOVED = SOME | SHAPED | {"flip", "roll", "unfold", "diagonal"}
MOVED |= {"pixel_shuffle", "pixel_unshuffle"}
REDUCED = {"mean", "sum", "amax", "amin", "max", "min", "prod", "std", "var", "argmax", "argmin"}
REDUCED |= {"linalg_vector_norm", "norm", "logsumexp", "any", "all"}

NUMBER_RULES: Mapping[str, NumberRule] = {
    **dict.fromkeys(MOVED, rearrange),
    **dict.fromkeys(REDUCED, reduce),
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), multiply),
    "_scaled_dot_product_flash_attention_for_cpu": attend,
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit_no_training"), normalise_channels
    ),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax"), softmax),
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    "im2col": take_apart,
    "glu": halve,
}
"""What is known of numbers in any order."""
CELL_BY_CELL = {"clone", "detach", "alias", "_to_copy", "lift_fresh", "_prelu_kernel"}
CELL_BY_CELL |= {"hardswish", "hardswish_", "log_sigmoid_forward", "rrelu_with_noise"}
CELL_BY_CELL |= {"native_dropout"}
"""What is elementwise, and not marked so by torch."""
