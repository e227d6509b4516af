"""A plan while it is written down: its programs, buffers and gradients so far.

The functions that write operations down call it: `values` are where the values of the network lie,
`tiles` and `once` add calls of kernels, `undone` says what undoes an operation in the backward
program, and `give` hands a gradient to a value.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from mnist_exp.engine.kernels import lanes, pixel
from mnist_exp.engine.operations import Drop, Norm, Operation, shape_of
from mnist_exp.engine.schedule import (
    OF_ALL,
    OF_THREAD,
    OF_TILE,
    Buffer,
    KernelCall,
    Need,
    Stage,
)

NONE = -1

Tensor = tuple[str, str | int]
"""A tensor that a program reads or writes: what it is (`weight`, `gradient`, `input`, `output`,
`output gradient`, `input gradient`), and which."""


class PlanDraft:
    """`lengths` are those of the network's tensors, of which `wanted` are those with a gradient,
    and `sizes` those of values. `dropouts` and `norms` are those of which a run is given what is
    kept and a seed, and a momentum. Values in `rectified` are made by a ReLU that is undone with
    the normalisation behind it."""

    def __init__(
        self, sizes: Mapping[str, tuple[int, ...]], lengths: Mapping[str, int],
        wanted: Collection[str], of_inputs: Collection[str],
    ) -> None:  # fmt: skip
        self.lengths = lengths
        self.wanted = set(wanted)
        self.needs_gradient = set(of_inputs)
        shapes = {name: shape_of(size) for name, size in sizes.items()}
        self.shapes = {name: shape for name, shape in shapes.items() if shape}
        self.dropouts: list[Drop] = []
        self.norms: list[Norm] = []
        self.buffers: list[Buffer] = []
        self.setup = Stage(of_tiles=False)
        self.programs: list[list[Stage]] = []
        self.values: dict[str, Buffer] = {}
        self.gradients: dict[str, Buffer] = {}
        self.partials: dict[str, list[Buffer]] = {}
        self.packed: dict[tuple[str, bool, tuple[int, ...]], Buffer] = {}
        self.rectified: set[str] = set()
        self.again: dict[str, Callable[[Buffer], None]] = {}
        self.undo: list[Callable[[], None]] = []
        self._made_again: dict[tuple[int, str], Buffer] = {}
        self._begun: set[str] = set()

    # ---- Values and their gradients ----

    def give(self, name: str, gradient: Buffer) -> None:
        """Add a gradient of a value to what others gave."""
        if name in self.gradients:
            others, both = self.gradients[name], self.buffer_like(name)
            self.join(others, gradient, both, 1, name)
            gradient = both
        self.gradients[name] = gradient

    def join(self, one: Buffer, other: Buffer, y: Buffer, sign: int, name: str) -> None:
        """Let y be the sum, the difference or the product of values like that of the name."""
        needs = [Need(one, same_row), Need(other, same_row)]
        arguments = one, other, y, sign, self.row(name) // lanes()
        self.tiles("join", *arguments, rows=self.height(name), makes=y, needs=needs)

    def undone(self, operation: Operation, undo: Callable[[Buffer], None]) -> None:
        """In the backward program, call `undo` with the gradient of what the operation makes, if it
        has one."""

        def call() -> None:
            if operation.y in self.gradients:
                undo(self.gradients[operation.y])

        if operation.y in self.needs_gradient:
            self.undo.append(call)

    def past(self, name: str) -> Buffer:
        """In the backward program, a value of the forward one. What a Map made is made again: to
        read it from memory would take longer."""
        if name not in self.again:
            return self.values[name]
        stages = self.programs[-1]
        key = len(stages) - (not stages or not stages[-1].of_tiles), name
        if key not in self._made_again:
            self._made_again[key] = self.buffer_like(name)
            self.again[name](self._made_again[key])
        return self._made_again[key]

    def gradient_of(self, name: str) -> tuple[Tensor | int, int]:
        """The gradient of a tensor that is wanted, and whether to add to it: there was another
        use."""
        if name not in self.wanted:
            return NONE, 0
        again = name in self._begun
        self._begun.add(name)
        return ("gradient", name), int(again)

    # ---- Buffers and calls ----

    def flat(self, name: str) -> tuple[int, int]:
        """The channels and the pixels of a value."""
        return self.shapes[name].channels, self.shapes[name].pixels

    def sides(self, name: str) -> tuple[int, int, int]:
        """The channels, the width and the height of a value."""
        shape = self.shapes[name]
        return shape.channels, shape.width, shape.height

    def row(self, name: str) -> int:
        """The floats of a tile's row of a value."""
        return pixel(self.shapes[name].channels) * self.shapes[name].width

    def height(self, name: str) -> int:
        return self.shapes[name].height

    def all_of(self, buffer: Buffer, name: str) -> Need:
        """That all rows of a value are needed."""
        height = self.height(name)
        return Need(buffer, lambda _: (0, height))

    def make(self, name: str) -> Buffer:
        self.values[name] = self.buffer_like(name)
        return self.values[name]

    def buffer_like(self, name: str) -> Buffer:
        """A buffer for a value, or its gradient."""
        return self.buffer(self.row(name), OF_THREAD, self.height(name))

    def sums(self, numbers: int) -> Buffer:
        """A buffer for sums that go on from row to row."""
        return self.buffer(numbers * lanes(), OF_THREAD)

    def partial(self, floats: int) -> Buffer:
        """A buffer for sums over a tile."""
        return self.buffer(floats, OF_TILE)

    def gradient_partial(self, name: str) -> Buffer:
        partial = self.partial(self.lengths[name])
        self.partials.setdefault(name, []).append(partial)
        return partial

    def shared(self, floats: int) -> Buffer:
        """A buffer that all tiles share."""
        return self.buffer(floats, OF_ALL)

    def buffer(self, floats: int, kind: int, rows: int = 1) -> Buffer:
        self.buffers.append(Buffer(floats, kind, rows))
        return self.buffers[-1]

    def tensor_or_none(self, name: str | None) -> Tensor | int:
        return ("weight", name) if name else NONE

    def tiles(
        self, kernel: str, *arguments: Any, rows: int = 1, makes: Buffer | None = None,
        needs: Collection[Need] = (), flops: int = 0, of: str = "",
    ) -> None:  # fmt: skip
        call = KernelCall(kernel, arguments, rows, makes, tuple(needs), flops, of)
        self._call(call, of_tiles=True)

    def once(self, kernel: str, *arguments: Any) -> None:
        self._call(KernelCall(kernel, arguments), of_tiles=False)

    def _call(self, call: KernelCall, *, of_tiles: bool) -> None:
        stages = self.programs[-1]
        if not stages or stages[-1].of_tiles != of_tiles or stages[-1] is self.setup:
            stages.append(Stage(of_tiles))
        stages[-1].calls.append(call)


def same_row(i: int) -> tuple[int, int]:
    """That of a row of the result the same row is needed."""
    return i, i + 1
