"""Whether what was derived is so: pixels outside of a cell's field are changed, and the cell has to
stay the same, bit for bit.

This knows nothing of how fields are derived. So it also finds what reaches a cell by ways that
torch does not report, such as numpy or another thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mnist_exp.training.axes import ReceptiveFieldError, Row
from mnist_exp.training.sight import Sight, bounds_of_map
from mnist_exp.training.torch_internals import TorchDispatchMode

IMAGES = 16
"""Four for each side of the image, on which rows or columns up to somewhere are changed."""
LEVELS = (2, -2)
"""Brighter and darker: what is compared with a threshold changes one way or the other."""
Region = tuple[int, int, int, int]
"""The first row and column, and those behind the last, that are changed."""


class InfluenceError(ReceptiveFieldError):
    """A number depends on more than was derived; `rows` of the table lie before it."""

    def __init__(self, message: str, rows: Sequence[Row]) -> None:
        super().__init__(message)
        self.rows = rows


@dataclass
class Note:
    """What an operation did on the first run."""

    function: Any
    layer: str
    rows: int
    """How many of the table lie before it."""
    normalises: bool
    """Whether it brought in statistics of the map."""
    outputs: list[tuple[Tensor, Sight]] = field(default_factory=list)
    arguments: list[Tensor | None] = field(default_factory=list)
    """The tensors among its arguments that are held as they were, as the same for all cells; None
    for the others."""


def noise(images: int, input_shape: Sequence[int]) -> Tensor:
    """Always the same images (N, C, H, W), without a look at torch's random state."""
    return torch.randn(images, *input_shape, generator=torch.Generator().manual_seed(0))


def regions(notes: Sequence[Note | None], pixels: Sequence[int]) -> list[Region]:
    """What is changed on each of the images: rows and columns up to the last cell of some map, or
    from its first one on, so that all maps have cells that must not change."""
    fields = {one.field for note in notes if note for _, one in note.outputs if one.bounds is None}
    found: list[Region] = []
    for side, size in enumerate(pixels):
        spans = [(f[side].span(f[side].n - 1)[0], f[side].span(0)[1]) for f in fields]
        starts = sorted({first for first, _ in spans if 0 < first < size} or {size // 2})
        ends = sorted({end for _, end in spans if 0 < end < size} or {size // 2}, reverse=True)
        for places, is_above in ((starts, True), (ends, False)):
            for quarter in range(IMAGES // 4):
                place = places[quarter * (len(places) - 1) // (IMAGES // 4 - 1)]
                low, high = (0, place) if is_above else (place, size)
                whole = pixels[1 - side]
                found.append((low, 0, high, whole) if side == 0 else (0, low, whole, high))
    return found


def change(images: Tensor, changed: Sequence[Region], level: float) -> Tensor:
    """The images with other pixels in the region of each, far from what they were: noise around
    `level`."""
    generator = torch.Generator().manual_seed(1)
    others = level + 3 * torch.randn(images.shape, generator=generator)
    result = images.clone()
    for image, other, (top, left, bottom, right) in zip(result, others, changed, strict=True):
        image[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    return result


def same(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and a.shape == b.shape and not bool(_differ(a, b).any())


def _differ(a: Tensor, b: Tensor) -> Tensor:
    return (a != b) & ~((a != a) & (b != b))


class Replay(TorchDispatchMode):
    """Holds each operation of a second run, on the changed images, against the notes on the first.

    Raises InfluenceError at the first number that changes though it sees no changed pixel.
    """

    def __init__(
        self, rows: Sequence[Row], notes: Sequence[Note | None], changed: Sequence[Region]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows, self.notes, self.number = rows, notes, 0
        self.changed = torch.tensor(changed, dtype=torch.float32)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        note = self.notes[self.number] if self.number < len(self.notes) else None
        self.number += 1
        if note is None:
            return function(*args, **kwargs)
        if note.function is not function:
            raise self._error(note, "does other operations for other images")
        if note.normalises:
            return self._with_statistics_held(note, function, args, kwargs)
        leaves, structure = pytree.tree_flatten((args, kwargs))
        held = iter(note.arguments)
        leaves = [
            x if not isinstance(x, Tensor) or (kept := next(held)) is None else kept
            for x in leaves
        ]  # fmt: skip
        args, kwargs = pytree.tree_unflatten(leaves, structure)
        result = function(*args, **kwargs)
        outputs = [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor) and x.numel()]
        for output, (before, sight) in zip(outputs, note.outputs, strict=False):
            # Cells that were copied lie elsewhere; what slides over them is held against its field.
            if not any(sight.margins):
                self._compare(note, before, output, sight)
        return result

    def _with_statistics_held(
        self, note: Note, function: Any, args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """Each number moves as its own argument does, whatever the statistics would be."""
        (first, _), held = note.outputs[0], note.arguments[0]
        result = function(*args, **kwargs)
        output = result[0] if isinstance(result, tuple) else result
        moved = first + (args[0] - held).reshape(first.shape)
        output.copy_(moved)
        return result

    def _compare(self, note: Note, before: Tensor, after: Tensor, sight: Sight) -> None:
        if before.shape != after.shape:
            raise self._error(note, "has another shape for other images")
        bounds = sight.bounds
        if bounds is None:
            bounds = bounds_of_map(sight.field, len(before))
        # What sees nothing of the images has no image: its bounds are infinite.
        region = self.changed[bounds[0].nan_to_num(posinf=0).long()].movedim(-1, 0)
        touched = (bounds[1] < region[2]) & (-bounds[4] > region[0])
        touched &= (bounds[2] < region[3]) & (-bounds[5] > region[1])
        if bool((_differ(before, after) & ~touched).any()):
            raise self._error(note, "depends on more of the image than torch reports")

    def _error(self, note: Note, why: str) -> InfluenceError:
        return InfluenceError(
            f"the receptive field cannot be followed through layer {note.layer}: it {why}",
            self.rows[: note.rows],
        )
