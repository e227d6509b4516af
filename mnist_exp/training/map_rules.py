"""How operations move the field of maps: along each axis, with a window or a pattern.

A rule takes a call all of whose images are maps, and gives what the outputs see; None where it does
not hold, so that the bounds of each number have to tell.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from mnist_exp.training.axes import Axis, Window, join
from mnist_exp.training.call import Call
from mnist_exp.training.sight import Sight

MapRule = Callable[[Call], Sight | None]


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return value[0], value[-1]


def slide(
    call: Call, kernel: Any, stride: Any, padding: Any, dilation: Any = 1,
    *, is_mixed: bool | None = None,
) -> Sight:  # fmt: skip
    """A window slides over the map."""
    call.require_constants()
    sizes = (_pair(x) for x in (kernel, stride or kernel, padding, dilation))
    height, width = (Window(*one) for one in zip(*sizes, strict=True))
    return _apply(call, (height, width), is_mixed=call.is_mixed if is_mixed is None else is_mixed)


def _check_margins(call: Call, windows: tuple[Window, Window]) -> None:
    for window, margin in zip(windows, call.first.margins, strict=True):
        if window.dilation * (window.kernel - 1) < margin:
            raise call.error("looks at copied cells alone, whose originals lie elsewhere")


def _apply(call: Call, windows: tuple[Window, Window], *, is_mixed: bool) -> Sight:
    _check_margins(call, windows)
    before, cells = call.first.field, call.output.shape[2:]
    height, width = (
        axis.slide(n, window) for axis, n, window in zip(before, cells, windows, strict=True)
    )
    call.add_row((height, width), before, windows=windows)
    return call.as_map((height, width), is_mixed=is_mixed)


def convolve(call: Call) -> Sight:
    kernel = tuple(call.arguments["weight"].shape[2:])
    is_mixed = call.is_mixed and call.arguments["groups"] > 1
    places = [call.arguments[name] for name in ("stride", "padding", "dilation")]
    if not call.arguments["transposed"]:
        return slide(call, kernel, *places, is_mixed=is_mixed)
    call.require_constants()
    axes = []
    sizes = zip(kernel, *map(_pair, places), strict=True)
    for axis, n, size in zip(call.first.field, call.output.shape[2:], sizes, strict=True):
        cells = functools.partial(_spread_from, size)
        if not all(cells(i) for i in range(size[1])):
            raise call.error("leaves cells that see nothing")
        axes.append(axis.resample(n, size[1], 1, cells))
    call.add_row((axes[0], axes[1]), call.first.field)
    return call.as_map((axes[0], axes[1]), is_mixed=is_mixed)


def _spread_from(size: tuple[int, int, int, int], i: int) -> list[int]:
    """The cells from which a transposed convolution makes its cell i, for its kernel, stride,
    padding and dilation."""
    kernel, stride, padding, dilation = size
    places = [i + padding - dilation * tap for tap in range(kernel)]
    return [place // stride for place in places if place % stride == 0]


def pool(call: Call) -> Sight:
    kernel, stride, padding = (call.arguments[x] for x in ("kernel_size", "stride", "padding"))
    return slide(call, kernel, stride, padding, call.arguments.get("dilation", 1))


def adapt(call: Call) -> Sight:
    """Adaptive pooling, where its windows are all alike."""
    before, cells = tuple(call.shape[2:]), tuple(call.output.shape[2:])
    if any(n % cell for n, cell in zip(before, cells, strict=True)):
        raise call.error(f"pools {before} cells into {cells}, unevenly")
    sizes = [n // cell for n, cell in zip(before, cells, strict=True)]
    return slide(call, sizes, sizes, 0)


def pad(call: Call) -> Sight:
    """Zeros around the map: as a window of one cell with padding."""
    left, _, top, _ = [*call.arguments["pad"], 0, 0][:4]
    if any(call.arguments["pad"][4:]):
        raise call.error("pads more than the map")
    return slide(call, 1, 1, (top, left))


def copy_border(call: Call) -> Sight:
    """Cells of the border around the map, mirrored or repeated. A window that is wide enough sees
    the originals with the copies, as if the map went on."""
    call.require_constants()
    left, right, top, bottom = call.arguments["padding"]
    windows = Window(padding=top), Window(padding=left)
    padded = _apply(call, windows, is_mixed=call.is_mixed)
    wide = COPIED[call.operation]
    return dataclasses.replace(padded, margins=(wide * max(top, bottom), wide * max(left, right)))


COPIED = {"reflection_pad2d": 2, "replication_pad2d": 1}
"""From the outermost cell of a window over the border to the farthest original: this many times the
padding."""


def _nearest(ratio: Fraction, i: int) -> Iterable[int]:
    return [math.floor(i * ratio)]


def _nearest_exact(ratio: Fraction, i: int) -> Iterable[int]:
    return [math.floor((i + HALF) * ratio)]


def _linear(ratio: Fraction, i: int) -> Iterable[int]:
    place = (i + HALF) * ratio - HALF
    return range(math.floor(place), math.ceil(place) + 1)


def _cubic(ratio: Fraction, i: int) -> Iterable[int]:
    between = _linear(ratio, i)
    first, *rest = between
    return range(first - 1, first + 3) if rest else between


HALF = Fraction(1, 2)
Pattern = Callable[[Fraction, int], Iterable[int]]
"""The cells that cell i is made of, where a map of n cells becomes one of n / ratio."""
RESIZED: Mapping[str, Pattern] = {
    "upsample_nearest2d": _nearest,
    "_upsample_nearest_exact2d": _nearest_exact,
    "upsample_bilinear2d": _linear,
    "upsample_bicubic2d": _cubic,
}


def resize(call: Call) -> Sight:
    """Upsampling, where the same pattern comes again after some cells."""
    call.require_constants()
    if call.arguments.get("align_corners"):
        raise call.error("aligns corners, which spaces its cells unevenly")
    scales = call.arguments["scales_h"], call.arguments["scales_w"]
    for axis, n, scale in zip(call.first.field, call.output.shape[2:], scales, strict=True):
        if scale is not None and scale * axis.n != n:
            raise call.error(f"makes {n} cells of {axis.n}, unevenly")
    return _resample(call, RESIZED[call.operation])


def _resample(call: Call, pattern: Pattern) -> Sight:
    """Each axis becomes one of as many cells as the output has, made of the old ones by pattern."""
    axes = []
    for axis, n in zip(call.first.field, call.output.shape[2:], strict=True):
        if axis.n == 1:
            axes.append(Axis(n, axis.start, axis.size, 0 if n > 1 else axis.jump))
        else:
            ratio = Fraction(axis.n, n)
            cells = functools.partial(pattern, ratio)
            axes.append(axis.resample(n, ratio.denominator, ratio.numerator, cells))
    after = axes[0], axes[1]
    if after != call.first.field:
        call.add_row(after, call.first.field)
    return call.as_map(after, is_mixed=call.is_mixed)


def shuffle_pixels(call: Call) -> Sight:
    """Channels become cells: each cell is taken apart."""
    if call.is_mixed:
        raise call.error("makes cells of channels that see differently")
    return _resample(call, _nearest)


def gather_pixels(call: Call) -> Sight:
    """Cells become channels, each of which sees another one."""
    factor = call.arguments["downscale_factor"]
    return _apply(call, (Window(factor, factor),) * 2, is_mixed=True)


def cut(call: Call) -> Sight | None:
    """A slice of the channels, or of the map: as a window with less than no padding."""
    dim = call.arguments["dim"] % 4
    if dim < 2:
        return keep_channels(call)
    if not call.output.numel():
        raise call.error("leaves nothing of the map")
    first = slice(call.arguments["start"], None).indices(call.shape[dim])[0]
    window = Window(stride=call.arguments["step"], padding=-first)
    if call.output.shape == call.shape and window == Window():
        return call.first
    windows = (window, Window()) if dim == 2 else (Window(), window)
    return _apply(call, windows, is_mixed=call.is_mixed)


def keep_channels(call: Call) -> Sight | None:
    """Some of the channels see what all do, unless they see differently."""
    if call.arguments["dim"] % 4 != 1 or call.is_mixed:
        return None
    return call.first


def keep_map(call: Call) -> Sight | None:
    """Each number goes on seeing what it saw."""
    call.require_constants()
    return call.first if call.output.shape == call.shape else None


def batch_norm_map(call: Call) -> Sight | None:
    return None if call.arguments.get("training") else keep_map(call)


def over_channels(call: Call) -> Sight | None:
    """A softmax, or a gated linear unit, in each cell."""
    return call.first if call.arguments["dim"] % 4 == 1 else None


def stack(call: Call) -> Sight | None:
    """Maps, one behind the other along their channels."""
    if call.arguments["dim"] % 4 != 1 or call.output.dim() != 4:
        return None
    fields = {one.field for _, one in call.inputs}
    constants = len(call.inputs) < len(call.arguments["tensors"])
    return join_maps(call, is_mixed=call.is_mixed or constants or len(fields) > 1)


def join_maps(call: Call, *, is_mixed: bool | None = None) -> Sight:
    """Branches meet, cell by cell: the smallest field that holds that of each."""
    fields = [one.field for _, one in call.inputs]
    places = zip(zip(*fields, strict=True), call.output.shape[2:], call.pixels, strict=True)
    try:
        (height, outside), (width, beside) = (join(axes, n, pixels) for axes, n, pixels in places)
    except ValueError as error:
        raise call.error(str(error)) from None
    after, left_out = (height, width), [any(pair) for pair in zip(outside, beside, strict=True)]
    call.frozen = [x for (x, _), out in zip(call.inputs, left_out, strict=True) if out]
    moving = [field for field, out in zip(fields, left_out, strict=True) if not out] or fields
    is_global = bool(call.frozen)
    if any(field != after for field in moving):
        tops, lefts = ([axis.centre for axis in axes] for axes in zip(*moving, strict=True))
        apart = max(tops) - min(tops), max(lefts) - min(lefts)
        call.add_row(after, None, misaligned=apart, is_global=is_global)
    elif is_global and not call.is_global:
        call.add_row(after, after, is_global=True)
    mixed = call.is_mixed if is_mixed is None else is_mixed
    return call.as_map(after, is_mixed=mixed, is_global=is_global)


MAP_RULES: Mapping[str, MapRule] = {
    "convolution": convolve,
    "max_pool2d_with_indices": pool,
    "avg_pool2d": pool,
    "_adaptive_avg_pool2d": adapt,
    "adaptive_max_pool2d": adapt,
    "constant_pad_nd": pad,
    **dict.fromkeys(COPIED, copy_border),
    **dict.fromkeys(RESIZED, resize),
    "pixel_shuffle": shuffle_pixels,
    "pixel_unshuffle": gather_pixels,
    "slice": cut,
    **dict.fromkeys(("split", "split_with_sizes"), keep_channels),
    "cat": stack,
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training"), batch_norm_map),
    **dict.fromkeys(("_softmax", "_log_softmax", "glu"), over_channels),
}
"""What is known of maps."""
SLIDING = {"convolution", "max_pool2d_with_indices", "avg_pool2d"}
"""What may follow on copied cells of the border."""
