"""What a network is made of, as the engine knows it: operations on named values.

A value is a batch of images, float32 (N, C, H, W), or of features, (N, C), which are images of one
pixel. Tensors of the network (weights, statistics) go by their dotted names in it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum


@dataclass(frozen=True)
class Shape:
    """What one image of a value has."""

    channels: int
    height: int = 1
    width: int = 1

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def numbers(self) -> int:
        return self.channels * self.pixels


def shape_of(size: tuple[int, ...]) -> Shape | None:
    """The shape of what torch has in this size: images (C, H, W), features (C,), or either with
    axes of length 1 behind. None of anything else."""
    if len(size) == 3:
        return Shape(*size)
    return Shape(size[0]) if size and set(size[1:]) <= {1} else None


class Activation(IntEnum):
    """As in kernels.h."""

    IDENTITY = 0
    RELU = 1
    SILU = 2
    GELU = 3
    GELU_TANH = 4
    TANH = 5
    SIGMOID = 6


@dataclass(frozen=True)
class Operation:
    """Takes some values and makes `y`."""

    xs: tuple[str, ...]
    y: str

    @property
    def x(self) -> str:
        return self.xs[0]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the network's own tensors that it reads or writes."""
        return ()


@dataclass(frozen=True)
class Conv(Operation):
    """A convolution; of features, a linear layer. Pairs are vertical, horizontal; `padding` is top,
    left, bottom, right. `relu` says that what is below zero becomes zero."""

    weight: str
    bias: str | None = None
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    relu: bool = False

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.weight, self.bias) if self.bias else (self.weight,)


@dataclass(frozen=True)
class Same(Operation):
    """The same numbers, perhaps in another size of torch's."""


@dataclass(frozen=True)
class Norm(Operation):
    """Batch normalisation of the module called `module`. `fixed` is by its running statistics,
    which else take part of those of the batch, if it has any. `weight` and so on are "" where it
    has none."""

    module: str
    eps: float
    fixed: bool
    weight: str = ""
    bias: str = ""
    running_mean: str = ""
    running_var: str = ""

    @property
    def tensors(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.weight, self.bias, self.running_mean, self.running_var)))


@dataclass(frozen=True)
class Map(Operation):
    """Of each number: normalised, then activated, then dropped out, each if it is there."""

    norm: Norm | None = None
    activation: Activation = Activation.IDENTITY
    dropout: "Drop | None" = None

    @property
    def tensors(self) -> tuple[str, ...]:
        return self.norm.tensors if self.norm else ()


@dataclass(frozen=True)
class Drop(Operation):
    """Of the module called `module`, whose `p` says how likely; or of `p`, where it is none."""

    module: str | None
    p: float


@dataclass(frozen=True)
class PoolWindow:
    """The pixels start..end - 1 along an axis, and how many they are with those of a border."""

    start: int
    end: int
    with_border: int = 0

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Pool(Operation):
    """The mean or the maximum of each window: the rows start, end of each row of the result, and so
    the columns; and by what each mean is divided, row by row."""

    mean: bool
    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]
    divisors: tuple[float, ...]


@dataclass(frozen=True)
class Combine(Operation):
    """The sum of two values (sign 1), their difference (-1) or their product (0)."""

    sign: int


@dataclass(frozen=True)
class Affine(Operation):
    """scale * x + shift."""

    scale: float
    shift: float


@dataclass(frozen=True)
class Concatenate(Operation):
    """The channels of one value after those of the other."""


@dataclass(frozen=True)
class Flatten(Operation):
    """All numbers of an image as features, in torch's order: channel by channel."""


@dataclass(frozen=True)
class LogSoftmax(Operation):
    """Over the channels."""


def fused(operations: Iterable[Operation], outputs: Iterable[str]) -> list[Operation]:
    """The same operations, some of them in one pass over memory: a convolution with the ReLU behind
    it, and a normalisation, an activation and dropout one behind the other."""
    uses = Counter(outputs)
    for operation in operations:
        uses.update(operation.xs)
    done: list[Operation] = []
    made_at: dict[str, int] = {}
    for operation in map(_as_map, operations):
        at = made_at.get(operation.x, -1)
        joined = _joined(done[at], operation) if at >= 0 and uses[operation.x] == 1 else None
        if joined:
            done[at] = joined
        else:
            at = len(done)
            done.append(operation)
        made_at[operation.y] = at
    return done


def _as_map(operation: Operation) -> Operation:
    if isinstance(operation, Norm):
        return Map(operation.xs, operation.y, norm=operation)
    if isinstance(operation, Drop):
        return Map(operation.xs, operation.y, dropout=operation)
    return operation


def _joined(before: Operation, own: Operation) -> Operation | None:
    """Both in one, if there is such an operation."""
    if not isinstance(own, Map) or own.norm:
        return None
    if isinstance(before, Conv) and own.activation == Activation.RELU and not own.dropout:
        return None if before.relu else replace(before, y=own.y, relu=True)
    if not isinstance(before, Map) or before.dropout or (own.activation and before.activation):
        return None
    activation = own.activation or before.activation
    return replace(before, y=own.y, activation=activation, dropout=own.dropout)
