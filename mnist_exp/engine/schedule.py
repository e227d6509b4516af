"""When each call of a plan makes which of its rows, and where its buffers lie.

A tile of a large value does not fit into the cache that a core has for itself. So a stage is not
carried out call by call, but some rows of each call at a time, as far as the rows before allow:
what one call writes, the next reads while it is still there. A value that only one stage uses has
memory for as many rows as are needed at once, and the next row takes the place of the first.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

OF_TILE, OF_THREAD, OF_ALL = range(3)
"""Kinds of buffers, as in plan.cpp: a buffer for each tile, for each thread, or for all."""
CACHE = 384 * 1024
"""Bytes that the rows which are worked on may take: less than a core's second cache."""

LINE = 16
"""Numbers that the cache moves at once."""

Rows = Callable[[int], tuple[int, int]]
"""Of a row of the result, the rows first..end-1 of something."""


@dataclass(eq=False)
class Buffer:
    """Numbers in memory: `rows` of so many `floats`, or one. `kind` says of what there are some."""

    floats: int
    kind: int
    rows: int = 1
    stages: set[tuple[int, int]] = field(default_factory=set)
    """Where it is in use: the numbers of programs and of stages."""
    number: int = -1
    offset: int = 0
    """Where it begins in the memory of its kind."""


@dataclass(frozen=True)
class Need:
    """That a call reads rows of a buffer: of each row of its result, these."""

    buffer: Buffer
    rows: Rows


@dataclass(frozen=True, eq=False)
class KernelCall:
    """Of a kernel, by its name in plan.cpp without `add_`; `rows` are those of what it makes, one
    by one, or 1 where it makes all of it at once. `flops` are its operations for one image, of
    those that count as such: multiplications and additions of convolutions, with the weights `of`
    that name."""

    kernel: str
    arguments: tuple[Any, ...]
    rows: int = 1
    makes: Buffer | None = None
    needs: tuple[Need, ...] = ()
    flops: int = 0
    of: str = ""

    def buffers(self) -> Iterable[Buffer]:
        """Those that are among its arguments."""
        for argument in self.arguments:
            for part in argument if isinstance(argument, list) else (argument,):
                if isinstance(part, Buffer):
                    yield part


@dataclass(frozen=True)
class Portion:
    """Of a call, by its number, the rows first..end-1."""

    call: int
    first: int
    end: int


@dataclass
class Stage:
    """Calls for each tile, or once; of a tile, in these `steps`."""

    of_tiles: bool
    calls: list[KernelCall] = field(default_factory=list)
    steps: list[Portion] = field(default_factory=list)


def lay_out(buffers: Sequence[Buffer], programs: Sequence[Sequence[Stage]]) -> list[int]:
    """Find the steps of all stages of tiles, and the places of the buffers; returns how many floats
    a tile, a thread, and all together need."""
    for program, stages in enumerate(programs):
        for number, stage in enumerate(stages):
            for call in stage.calls:
                for buffer in call.buffers():
                    buffer.stages.add((program, number))
    for buffer in buffers:
        if buffer.kind == OF_THREAD and len(buffer.stages) > 1:
            buffer.kind = OF_TILE
    for stage in (stage for stages in programs for stage in stages if stage.of_tiles):
        _schedule(stage)
    return _place(buffers)


def _schedule(stage: Stage) -> None:
    """Find the steps of a stage, and how many rows of its buffers are there at once."""
    progress = _Progress(stage)
    rounds = max(1, -(-4 * sum(b.floats * b.rows for b in set(_values(stage))) // CACHE))
    for round_number in range(1, rounds + 1):
        progress.let_go()
        for number, call in enumerate(stage.calls):
            # What depends on earlier stages alone sets the pace.
            end = call.rows
            if not any(need.buffer in progress.made_by for need in call.needs):
                end = -(-call.rows * round_number // rounds)
            progress.carry_out(number, call, end)
    assert all(progress.done[call] == call.rows for call in stage.calls), "a call waits for ever"
    for buffer, rows in progress.most.items():
        if buffer.kind == OF_THREAD:
            buffer.rows = rows


class _Progress:
    """How far each call of a stage is: `done` are its rows, `lowest` the first row of a buffer that
    is still needed, and `most` how many rows of it were there at once."""

    def __init__(self, stage: Stage) -> None:
        self.steps = stage.steps
        self.made_by = {call.makes: call for call in stage.calls if call.makes}
        self.users = {
            buffer: [call for call in stage.calls if any(n.buffer is buffer for n in call.needs)]
            for buffer in self.made_by
        }
        self.done = dict.fromkeys(stage.calls, 0)
        self.lowest = dict.fromkeys(self.made_by, 0)
        self.most = dict.fromkeys(self.made_by, 0)

    def there(self, buffer: Buffer) -> int:
        """How many rows of a buffer have been made."""
        maker = self.made_by.get(buffer)
        if maker is None or maker.rows == 1:  # of an earlier stage, or all at once
            return buffer.rows if maker is None or self.done[maker] else 0
        return self.done[maker]

    def let_go(self) -> None:
        """Let go of rows that nobody needs any more."""
        for buffer, maker in self.made_by.items():
            if buffer.kind == OF_THREAD and maker.rows == buffer.rows:
                users = self.users[buffer]
                first = min((_next_row(call, buffer, self.done[call]) for call in users), default=0)
                self.lowest[buffer] = min(first, self.there(buffer))

    def carry_out(self, number: int, call: KernelCall, end: int) -> None:
        """Make the rows of a call up to `end`, or those that can be made with what is there."""
        needs = [need for need in call.needs if need.buffer in self.made_by]
        while end > self.done[call] and any(
            need.rows(end - 1)[1] > self.there(need.buffer) for need in needs
        ):
            end -= 1
        if end > self.done[call]:
            self.steps.append(Portion(number, self.done[call], end))
            self.done[call] = end
        if call.makes:
            held = self.there(call.makes) - self.lowest[call.makes]
            self.most[call.makes] = max(self.most[call.makes], held)


def _values(stage: Stage) -> Iterable[Buffer]:
    for call in stage.calls:
        yield from (need.buffer for need in call.needs)
        if call.makes:
            yield call.makes


def _next_row(call: KernelCall, buffer: Buffer, done: int) -> int:
    """The first row of a buffer that a call will still read."""
    if done == call.rows:
        return buffer.rows
    return min(need.rows(done)[0] for need in call.needs if need.buffer is buffer)


def _place(buffers: Sequence[Buffer]) -> list[int]:
    """Number the buffers and find their offsets; returns how many floats each kind has. Two of a
    tile share memory if one is in use after the other; so what one pass leaves may be overwritten
    by a later one, and the backward program can run only once after the forward one."""
    sizes = [0, 0, 0]
    of_stages: Counter[tuple[int, int]] = Counter()  # each begins anew with the memory of a thread
    slots: list[_Slot] = []
    for number, buffer in enumerate(sorted(buffers, key=lambda buffer: min(buffer.stages))):
        buffer.number = number
        if buffer.kind == OF_TILE:
            _slot(buffer, slots).take(buffer)
        elif buffer.kind == OF_THREAD:
            (stage,) = buffer.stages
            buffer.offset = of_stages[stage]
            of_stages[stage] += _lines(buffer)
        else:
            buffer.offset = sizes[OF_ALL]
            sizes[OF_ALL] += _lines(buffer)
    sizes[OF_THREAD] = max(of_stages.values(), default=0)
    for slot in slots:
        for buffer in slot.buffers:
            buffer.offset = sizes[OF_TILE]
        sizes[OF_TILE] += slot.floats
    return sizes


@dataclass
class _Slot:
    """Memory of a tile that one buffer has after the other."""

    floats: int = 0
    buffers: list[Buffer] = field(default_factory=list)

    def is_free(self, buffer: Buffer) -> bool:
        return max(self.buffers[-1].stages) < min(buffer.stages)

    def take(self, buffer: Buffer) -> None:
        self.floats = max(self.floats, _lines(buffer))
        self.buffers.append(buffer)


def _slot(buffer: Buffer, slots: list[_Slot]) -> _Slot:
    """The free slot that is nearest in size, or a new one."""
    free = [slot for slot in slots if slot.is_free(buffer)]
    # A small buffer does not take the place of a large one, which will come.
    free = [slot for slot in free if slot.floats <= 4 * _lines(buffer)]
    if not free:
        slots.append(_Slot())
        return slots[-1]
    return min(free, key=lambda slot: abs(slot.floats - _lines(buffer)))


def _lines(buffer: Buffer) -> int:
    """The floats of a buffer in whole lines of the cache."""
    return -(-buffer.floats * buffer.rows // LINE) * LINE
