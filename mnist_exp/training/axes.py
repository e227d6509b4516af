"""The arithmetic of receptive fields, along each axis of a map.

It is that of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks",
Distill (2019): along each axis, position i of a feature map sees the `size` input pixels from
`start + i * jump`. A layer with kernel k, dilation d, stride s and p cells of padding in front
gives

    start' = start - p * jump      size' = size + d * (k - 1) * jump      jump' = s * jump
"""

from dataclasses import dataclass

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
