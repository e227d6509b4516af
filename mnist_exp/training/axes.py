"""The arithmetic of receptive fields, along each axis of a map.

It is that of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks",
Distill (2019): along each axis, position i of a feature map sees the `size` input pixels from
`start + i * jump`. A layer with kernel k, dilation d, stride s and p cells of padding in front
gives

    start' = start - p * jump      size' = size + d * (k - 1) * jump      jump' = s * jump

Behind an upsampling or a transposed convolution the cells are not all alike: what they see repeats
itself after some cells. Then each of these, a phase, has a field of its own, and the same windows
slide over them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from mnist_exp.common.errors import ExpectedError


class ReceptiveFieldError(ExpectedError):
    """The network does something whose receptive field cannot be followed; names the layer."""


@dataclass(frozen=True)
class Window:
    """What a layer slides along one axis of a map."""

    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1


Span = tuple[int, int]
"""The first pixel that a cell sees, and the one behind the last."""


@dataclass(frozen=True)
class Axis:
    """One axis of a map of `n` cells; cell i sees `size` pixels from start + i * jump.

    Where the cells are not alike, `phases` are the spans of those after which they repeat
    themselves, moved on; `start` is then that of the first, `size` that of the largest, and `jump`
    the mean distance from one cell to the next.
    """

    n: int
    start: int = 0
    size: int = 1
    jump: int | Fraction = 1
    phases: tuple[Span, ...] = ()

    @classmethod
    def of_phases(cls, n: int, phases: Sequence[Span], moves: int) -> "Axis":
        """The axis whose first cells see `phases`, and each as many cells on, `moves` pixels on."""
        count = len(phases)
        for period in range(1, count + 1):
            step = Fraction(moves * period, count)
            if count % period == 0 and all(
                phases[i] == _moved(phases[i % period], step * (i // period)) for i in range(count)
            ):
                break
        alike = tuple(phases[:period])
        sizes = [end - first for first, end in alike]
        jump = Fraction(moves, count)
        whole = int(jump) if jump.denominator == 1 else jump
        return cls(n, alike[0][0], max(sizes), whole, alike if period > 1 else ())

    def span(self, cell: int) -> Span:
        """What `cell` sees; a cell beyond the map sees what lies further on, padding included."""
        if not self.phases:
            first = int(self.start + cell * self.jump)
            return first, first + self.size
        rounds, phase = divmod(cell, len(self.phases))
        first, end = _moved(self.phases[phase], rounds * self.moves)
        return first, end

    def spans(self) -> list[Span]:
        """What each cell of the map sees."""
        return [self.span(cell) for cell in range(self.n)]

    @property
    def period(self) -> int:
        """The cells after which what they see repeats itself."""
        return len(self.phases) or 1

    @property
    def moves(self) -> int:
        """How far it has moved on by then, in pixels."""
        return int(self.jump * self.period)

    def resample(
        self, n: int, every: int, steps: int, cells: Callable[[int], Iterable[int]]
    ) -> "Axis":
        """The axis of a map of `n` cells, of which cell i sees `cells(i)` of this one, and cell
        i + every the same `steps` cells on."""
        rounds = self.period // math.gcd(self.period, steps)
        phases = [hull(map(self.span, cells(i))) for i in range(every * rounds)]
        return Axis.of_phases(n, phases, self.moves * (steps * rounds // self.period))

    def slide(self, n: int, window: Window) -> "Axis":
        """The axis of the map of `n` cells that a window gives, sliding over this one."""

        def cells(i: int) -> Iterable[int]:
            first = i * window.stride - window.padding
            return range(first, first + window.dilation * window.kernel, window.dilation)

        return self.resample(n, 1, window.stride, cells)

    @property
    def centre(self) -> float:
        """The middle of the first cell's field, in pixels."""
        first, end = self.span(0)
        return (first + end - 1) / 2

    def seen(self, cell: int, pixels: int) -> Span:
        """The first of `pixels` input pixels that `cell` sees, and the one behind the last."""
        first, end = self.span(cell)
        return max(first, 0), min(end, pixels)


def hull(spans: Iterable[Span]) -> Span:
    """The smallest span that holds all of them."""
    firsts, ends = zip(*spans, strict=True)
    return min(firsts), max(ends)


def _moved(span: Span, pixels: int | Fraction) -> Span:
    return span[0] + pixels, span[1] + pixels  # type: ignore[return-value]


def fit(spans: Sequence[Span], before: Axis) -> Axis | None:
    """The axis whose cells see `spans`; None where they do not repeat themselves. Of a single cell
    the jump is that of a window over all of the axis `before`."""
    if list(spans) == before.spans():
        return before
    if len(spans) == 1:
        return Axis(1, spans[0][0], spans[0][1] - spans[0][0], before.jump * before.n)
    for period in range(1, len(spans) // 2 + 1):
        moves = spans[period][0] - spans[0][0]
        axis = Axis.of_phases(len(spans), spans[:period], moves)
        if axis.spans() == list(spans):
            return axis
    return None


def join(axes: Sequence[Axis], n: int, pixels: int) -> tuple[Axis, list[bool]]:
    """Branches meet on a map of `n` cells: the smallest axis that holds those of all that move from
    cell to cell; and for each whether it is left out of it, as it shows every cell the same
    (one cell spread over a map: a gate) and more of the `pixels` than the cells see anyway.

    Raises ValueError where the branches don't fit, or move differently.
    """
    if any(axis.n not in (1, n) for axis in axes):
        raise ValueError(f"joins maps of {sorted({axis.n for axis in axes})} cells")
    # One cell that is spread over a map shows every cell the same field: its jump is 0.
    spread = [a if a.n == n else Axis(n, a.start, a.size, 0) for a in axes]
    moving = [axis for axis in spread if axis.jump or n == 1] or spread
    jumps = {axis.jump for axis in moving}
    if len(jumps) > 1 and n > 1:
        said = ", ".join(map(str, sorted(jumps)))
        raise ValueError(f"joins branches whose fields move differently (jumps {said})")
    period = math.lcm(*(axis.period for axis in moving))
    phases = [hull(axis.span(i) for axis in moving) for i in range(period)]
    joined = Axis.of_phases(n, phases, int(max(jumps) * period))
    return joined, [
        axis not in moving and not _within(axis.seen(0, pixels), joined, pixels) for axis in spread
    ]


def _within(span: Span, axis: Axis, pixels: int) -> bool:
    """Whether each cell of `axis` sees all of `span`."""
    cells = [axis.seen(cell, pixels) for cell in range(axis.n)]
    return all(first <= span[0] and span[1] <= end for first, end in cells)


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
    is_global: bool = False
    """Whether numbers that are the same for all cells come in besides: statistics, a gate."""
