"""One tensor operation of a network that is followed, as the rules see it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mnist_exp.training import torch_internals
from mnist_exp.training.axes import Field, ReceptiveFieldError, Row
from mnist_exp.training.sight import BOUNDS, Sight, as_map, grid, is_spread, windows

Seen = Mapping[int, tuple[Tensor, Sight]]
"""The tensors that depend on the images, by their ids: each with what it sees."""


class Call:
    """A tensor operation, with the tensors among its arguments that depend on the images."""

    def __init__(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Tensor],
        *, seen: Seen, layer: Callable[[str], str], images: int, pixels: Sequence[int],
    ) -> None:  # fmt: skip
        self.function, self.args, self.kwargs, self.outputs = function, args, kwargs, outputs
        self.seen, self.images, self.pixels = seen, images, pixels
        self.operation = torch_internals.operation(function)
        self.layer = layer(_told(self.operation))
        self.arguments = torch_internals.arguments(function, args, kwargs)
        self.inputs = [(x, seen[id(x)][1]) for x in tensors_in((args, kwargs)) if id(x) in seen]
        self.rows: list[Row] = []
        """Those of the table that come of it."""
        self.frozen: list[Tensor] = []
        """Arguments that show every cell the same, and are left out of the field."""
        self.normalises = False
        """Whether it brings in statistics of the map, and leaves the field as it was."""

    def error(self, why: str) -> ReceptiveFieldError:
        return ReceptiveFieldError(
            f"the receptive field cannot be followed through layer {self.layer}: "
            f"{self.operation} {why}"
        )

    @property
    def output(self) -> Tensor:
        return self.outputs[0]

    @property
    def first(self) -> Sight:
        """What the first argument sees that sees anything."""
        return self.inputs[0][1]

    @property
    def shape(self) -> torch.Size:
        return self.inputs[0][0].shape

    @property
    def is_of_maps(self) -> bool:
        return all(one.bounds is None for _, one in self.inputs)

    @property
    def is_global(self) -> bool:
        return any(one.is_global for _, one in self.inputs)

    @property
    def is_mixed(self) -> bool:
        return any(one.is_mixed for _, one in self.inputs)

    def sees_one_field(self) -> bool:
        """Whether there is one field, which all numbers of all arguments have."""
        return all(is_spread(one.bounds_of(x)) for x, one in self.inputs)

    def bounds(self, x: Any) -> Tensor | None:
        """The bounds of an argument; None where it does not depend on the images."""
        return self.seen[id(x)][1].bounds_of(x) if id(x) in self.seen else None

    def require_constants(self) -> None:
        """All but the first argument has to be independent of the images."""
        main = next(iter(self.arguments))
        for name, value in self.arguments.items():
            if name != main and any(id(x) in self.seen for x in tensors_in(value)):
                raise self.error(f"takes its {name} from the images")

    def dims(self, dims: Any) -> list[int]:
        """The dimensions of the first argument that another one names; all where it names none."""
        count = len(self.shape)
        listed = [dims] if isinstance(dims, int) else list(dims or range(count))
        return sorted({dim % count for dim in listed})

    def as_map(self, field: Field, *, is_mixed: bool, is_global: bool = False) -> Sight:
        """The sight of maps with these axes, which the outputs have to be."""
        cells = field[0].n, field[1].n
        for output in self.outputs:
            if output.dim() != 4 or (len(output), *output.shape[2:]) != (self.images, *cells):
                raise self.error(f"makes {tuple(output.shape)} of a map of {cells} cells")
        return Sight(field, is_mixed=is_mixed, is_global=self.is_global or is_global)

    def settle(
        self, bounds: Tensor, output: Tensor, *, is_global: bool = False,
        is_mixed: bool | None = None, is_told: bool = True,
    ) -> Sight:  # fmt: skip
        """The sight of numbers with these bounds: of a map if they are one; with a row if what they
        see has changed and `is_told`."""
        if bool((-bounds[3] - bounds[0] > 1).any()):
            raise self.error("mixes the images of a batch")
        before = self.first.field
        is_global = is_global or self.is_global
        is_mixed = self.is_mixed if is_mixed is None else is_mixed
        bounds = bounds.expand(BOUNDS, *output.shape)
        if (found := as_map(bounds, self.images, before)) is not None:
            after: Field | None = found[0]
            new = Sight(found[0], is_mixed=is_mixed or found[1], is_global=is_global)
        else:
            after = grid(bounds, before) if is_told else None  # it takes its time
            new = Sight(after or before, bounds, is_global, is_mixed, since=self.layer)
        if is_told and after is not None and after != before:
            self.add_row(after, before, windows=windows(before, after), is_global=is_global)
        return new

    def add_row(self, after: Field, before: Field | None, **more: Any) -> None:
        is_global = more.pop("is_global", False) or self.is_global
        self.rows.append(Row(self.layer, before, after, is_global=is_global, **more))

    def clip(self, bounds: Tensor) -> Tensor:
        """The bounds within the image."""
        least = torch.tensor([-math.inf, 0, 0, -math.inf, -self.pixels[0], -self.pixels[1]])
        return torch.maximum(bounds, least.view(-1, *[1] * (bounds.dim() - 1)))


def _told(operation: str) -> str:
    """The name of an operation without what torch adds for the kind of its kernel."""
    name = operation.removeprefix("_").removesuffix("_with_indices")
    return name.replace("flash_attention_for_cpu", "attention")


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors among arguments, lists and tuples included."""
    return [x for x in pytree.tree_leaves(values) if isinstance(x, Tensor)]
