"""What each number of a tensor sees: its image of the batch, and the pixels between two rows and
two columns.

Most tensors are maps, (N, C, H, W) with one cell for each field; of these the axes say it all.
Of any other the bounds are written down number by number, so that whatever shape a network gives
its numbers, what they see goes with them.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mnist_exp.training.axes import Field, Span, Window, fit

BOUNDS = 6
"""The first image, row and column that is seen, and those behind the last, negated: so of several
bounds the smallest hold them all. Infinite where nothing of the images is seen."""


@dataclass(frozen=True)
class Sight:
    """What the numbers of a tensor see."""

    field: Field
    """The cells of the map that it is, or that it was made of."""
    bounds: Tensor | None = None
    """(6, *shape), float32; None for a map whose axes are `field`."""
    is_global: bool = False
    """Whether numbers that are the same for all cells come in besides."""
    is_mixed: bool = False
    """Whether its channels see differently: `field` holds what all of them see."""
    margins: tuple[int, int] = (0, 0)
    """How wide a window has to be, at least, where cells of the border were copied around it."""
    since: str = ""
    """What made it another thing than a map."""

    def made_global(self) -> "Sight":
        return dataclasses.replace(self, is_global=True)

    def bounds_of(self, tensor: Tensor) -> Tensor:
        """The bounds of each number of `tensor`, whose sight this is."""
        if self.bounds is not None:
            return self.bounds
        return bounds_of_map(self.field, len(tensor)).expand(BOUNDS, *tensor.shape)


def bounds_of_map(field: Field, images: int) -> Tensor:
    """The bounds of a map, (6, N, 1, H, W)."""
    rows, columns = (torch.tensor(axis.spans(), dtype=torch.float32).T for axis in field)
    numbers = torch.arange(images, dtype=torch.float32)
    sizes = images, 1, field[0].n, field[1].n
    places = (
        (numbers, (-1, 1, 1, 1)), (rows[0], (1, 1, -1, 1)), (columns[0], (1, 1, 1, -1)),
        (-numbers - 1, (-1, 1, 1, 1)), (-rows[1], (1, 1, -1, 1)), (-columns[1], (1, 1, 1, -1)),
    )  # fmt: skip
    return torch.stack([values.view(place).expand(sizes) for values, place in places])


def as_map(bounds: Tensor, images: int, before: Field) -> tuple[Field, bool] | None:
    """The axes of the map that has these bounds, and whether its channels see differently; None
    where they are not those of a map. `before` are the axes that it was made of."""
    if bounds.dim() != 5 or not bounds.numel():
        return None
    all_channels = bounds.amin(dim=2, keepdim=True)
    if not all_channels.isfinite().all():
        return None
    if is_spread(bounds) and bounds.shape[-2:] != (1, 1):
        return None  # one field, of which nothing tells whether it is spread over a map
    rows, columns = all_channels[:, 0, 0, :, 0], all_channels[:, 0, 0, 0, :]
    height = fit(_spans(rows[1], rows[4]), before[0])
    width = fit(_spans(columns[2], columns[5]), before[1])
    if height is None or width is None:
        return None
    if not torch.equal(bounds_of_map((height, width), images), all_channels):
        return None
    return (height, width), not torch.equal(bounds, all_channels.expand_as(bounds))


def grid(bounds: Tensor, before: Field) -> Field | None:
    """The axes of the different fields among `bounds`, in order; None where they have no order."""
    axes = []
    for first, last, axis in ((1, 4, before[0]), (2, 5, before[1])):
        spans = different(bounds, first, last)
        if spans == sorted(set(axis.spans())):
            axes.append(axis)
        elif not spans or (found := fit(spans, axis)) is None or found.phases:
            return None  # or several maps among each other
        else:
            axes.append(found)
    return axes[0], axes[1]


def different(bounds: Tensor, first: int, last: int) -> list[Span]:
    """The different spans among `bounds`, between its parts `first` and `last`."""
    seen = bounds[first].isfinite()
    firsts, ends = bounds[first][seen].long(), -bounds[last][seen].long()
    if not len(firsts):
        return []
    low, width = int(firsts.min()), int(ends.max() - firsts.min()) + 1
    keys = torch.bincount((firsts - low) * width + ends - low).nonzero().flatten().tolist()
    return [(key // width + low, key % width + low) for key in keys]


def is_spread(bounds: Tensor) -> bool:
    """Whether all numbers see the same pixels, each of its own image."""
    pixels = bounds[[1, 2, 4, 5]].flatten(1)
    return bool((pixels == pixels[:, :1]).all())


def windows(before: Field, after: Field) -> tuple[Window, Window] | None:
    """What slides over `before` to give `after`, as far as it is plain: nothing along an axis, or a
    window over all of it."""
    found = []
    for axis, new in zip(before, after, strict=True):
        whole = Window(axis.n, axis.n)
        if axis == new:
            found.append(Window())
        elif axis.slide(new.n, whole).span(0) == new.span(0) and (new.n == 1 or new.jump == 0):
            found.append(whole)
        else:
            return None
    return found[0], found[1]


def _spans(firsts: Tensor, lasts: Tensor) -> Sequence[Span]:
    return [(int(a), int(-b)) for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True)]
