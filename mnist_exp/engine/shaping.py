"""Pooling, and what arranges numbers anew, as calls of kernels, forward and back."""

import ctypes
from collections.abc import Collection, Iterable, Sequence

from mnist_exp.engine.draft import PlanDraft
from mnist_exp.engine.operations import Concatenate, Flatten, LogSoftmax, Pool, Same
from mnist_exp.engine.schedule import Buffer, Need


def same_numbers(draft: PlanDraft, operation: Same) -> None:
    draft.values[operation.y] = draft.values[operation.x]
    draft.undone(operation, lambda dy: draft.give(operation.x, dy))


def pooling(draft: PlanDraft, operation: Pool) -> None:
    y, x = draft.make(operation.y), draft.values[operation.x]
    before, after = draft.shapes[operation.x], draft.shapes[operation.y]
    of_rows = _windows_of(operation.rows, before.height)
    of_columns = _windows_of(operation.columns, before.width)
    windows = [*map(_ints, (operation.rows, operation.columns, of_rows, of_columns))]
    settings = (
        int(operation.mean), after.height, after.width, before.height, before.width,
        before.channels, *windows, _floats(operation.divisors),
    )  # fmt: skip
    reads = [Need(x, lambda i: operation.rows[i])]
    draft.tiles("pool", x, y, *settings, rows=after.height, makes=y, needs=reads)

    def undo(dy: Buffer) -> None:
        x, y = draft.past(operation.x), draft.past(operation.y)
        dx = draft.buffer_like(operation.x)

        def rows(i: int) -> tuple[int, int]:
            tops = [operation.rows[window][0] for window in range(*of_rows[i])]
            return min(tops, default=i), i + 1

        windows = [Need(dy, lambda i: of_rows[i]), Need(y, lambda i: of_rows[i])]
        draft.tiles(
            "pool_back", x, y, dy, dx, *settings, rows=before.height, makes=dx,
            needs=[Need(x, rows), *windows],
        )  # fmt: skip
        draft.give(operation.x, dx)

    draft.undone(operation, undo)


def concatenate(draft: PlanDraft, operation: Concatenate) -> None:
    """One call for all parts, since a value has one maker."""
    y, whole = draft.make(operation.y), draft.shapes[operation.y]
    values = [draft.values[x] for x in operation.xs]
    channels = [draft.shapes[x].channels for x in operation.xs]
    needs = [draft.all_of(value, x) for value, x in zip(values, operation.xs, strict=True)]
    counts = (ctypes.c_int * len(channels))(*channels)
    arguments = values, len(values), y, whole.pixels, counts
    draft.tiles("concatenate", *arguments, makes=y, needs=needs)

    def undo(dy: Buffer) -> None:
        first = 0
        for x, count in zip(operation.xs, channels, strict=True):
            if x in draft.needs_gradient:
                part = draft.buffer_like(x)
                arguments = dy, part, whole.pixels, whole.channels, first, count
                need = [draft.all_of(dy, operation.y)]
                draft.tiles("take_channels", *arguments, makes=part, needs=need)
                draft.give(x, part)
            first += count

    draft.undone(operation, undo)


def flatten(draft: PlanDraft, operation: Flatten) -> None:
    y, x, shape = draft.make(operation.y), draft.values[operation.x], draft.shapes[operation.x]
    needs = [draft.all_of(x, operation.x)]
    draft.tiles("flatten", x, y, shape.pixels, shape.channels, 0, makes=y, needs=needs)

    def undo(dy: Buffer) -> None:
        dx, needs = draft.buffer_like(operation.x), [draft.all_of(dy, operation.y)]
        draft.tiles("flatten", dy, dx, shape.pixels, shape.channels, 1, makes=dx, needs=needs)
        draft.give(operation.x, dx)

    draft.undone(operation, undo)


def log_softmax(draft: PlanDraft, operation: LogSoftmax) -> None:
    y, x, sizes = draft.make(operation.y), draft.values[operation.x], draft.flat(operation.y)
    needs = [draft.all_of(x, operation.x)]
    draft.tiles("log_softmax", x, y, *sizes, makes=y, needs=needs)

    def undo(dy: Buffer) -> None:
        dx = draft.buffer_like(operation.x)
        needs = [draft.all_of(y, operation.y), draft.all_of(dy, operation.y)]
        draft.tiles("log_softmax_back", y, dy, dx, *sizes, makes=dx, needs=needs)
        draft.give(operation.x, dx)

    draft.undone(operation, undo)


def _windows_of(windows: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Of each pixel along an axis, the windows first..end-1 that it is in."""
    return [
        (
            sum(end <= pixel for _, end in windows),
            sum(start <= pixel for start, _ in windows),
        )
        for pixel in range(size)
    ]


def _ints(pairs: Iterable[tuple[int, int]]) -> ctypes.Array[ctypes.c_int]:
    numbers = [number for pair in pairs for number in pair]
    return (ctypes.c_int * len(numbers))(*numbers)


def _floats(numbers: Collection[float]) -> ctypes.Array[ctypes.c_float]:
    return (ctypes.c_float * len(numbers))(*numbers)
