"""Networks as hypothesis draws them: a list of layers, which reads like the code of a network."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

CHANNELS = 4
Layer = tuple[Any, ...]
"""A name of BUILT with its arguments; a branch holds lists of layers."""


class Drawn(nn.Module):
    """Layers, one behind the other; those that would leave no map, or one too large, are left out.

    `last` is the size of the map that they give.
    """

    def __init__(self, layers: list[Layer], size: int, largest: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(1, CHANNELS, 1)])
        x = self.layers[0](torch.zeros(2, 1, size, size))
        convolutions: list[nn.Module] = []
        for name, *arguments in layers:
            if name == "again":  # a layer that is used several times
                layer = convolutions[arguments[0] % len(convolutions)] if convolutions else None
            else:
                layer = BUILT[name](*arguments, x.shape)
            try:
                new = layer(x) if layer is not None else x[..., :0, :0]
            except (RuntimeError, ValueError):  # the window is larger than the map
                continue
            if layer is not None and new.numel() and max(new.shape[2:]) <= largest:
                self.layers.append(layer)
                convolutions += [layer] * (name == "conv")
                x = new
        self.last = x.shape

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Branches(nn.Module):
    """Branches of layers that keep the size of the map, which meet again."""

    def __init__(self, how: str, branches: list[list[Layer]]) -> None:
        super().__init__()
        self.how = how
        self.branches = nn.ModuleList(Sized(layers) for layers in branches)
        self.mix = nn.Conv2d(CHANNELS * len(branches), CHANNELS, 1) if how == "cat" else None

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        if self.how == "cat":
            return self.mix(torch.cat(parts, 1))
        if self.how == "stack":
            return torch.stack(parts, 1).mean(1)
        return functools.reduce(torch.add if self.how == "sum" else torch.mul, parts)


class Sized(nn.Sequential):
    """Convolutions and pools that keep the size of the map."""

    def __init__(self, layers: list[Layer]) -> None:
        made = []
        for kind, reach, dilation in layers:
            padding = reach * dilation
            if kind == "pool":
                made.append(nn.MaxPool2d(2 * reach + 1, 1, padding, dilation))
            else:
                made.append(
                    nn.Conv2d(CHANNELS, CHANNELS, 2 * reach + 1, 1, padding, dilation,
                              groups=CHANNELS if kind == "depthwise" else 1)
                )  # fmt: skip
        super().__init__(*made)


class Gate(nn.Module):
    """Squeeze and excitation: what all cells have in common scales each."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.linear(x.mean((2, 3))))[:, :, None, None]


class Shuffle(nn.Module):
    """Channels change places, and gate each other."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(CHANNELS, 2 * CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(x)
        n, c, *cells = x.shape
        x = x.view(n, 2, c // 2, *cells).transpose(1, 2).reshape(n, c, *cells)
        return F.glu(x, 1)


def _conv(
    kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int, mode: str, _: Any
) -> nn.Module:
    if mode != "zeros":  # a border that a window of this size sees with its originals
        padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    return nn.Conv2d(
        CHANNELS, CHANNELS, kernel, stride, padding, dilation, groups, padding_mode=mode
    )


def _pixels(_: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(CHANNELS, 4 * CHANNELS, 1), nn.PixelShuffle(2))


NORMS = {
    "batch": lambda _: nn.BatchNorm2d(CHANNELS),
    "group": lambda _: nn.GroupNorm(2, CHANNELS),
    "instance": lambda _: nn.InstanceNorm2d(CHANNELS, affine=True),
    "layer": lambda shape: nn.LayerNorm(tuple(shape[1:])),
}
BUILT = {
    "conv": _conv,
    "max": lambda k, s, p, d, _: nn.MaxPool2d(k, s, min(p, k // 2), d),
    "avg": lambda k, s, p, _: nn.AvgPool2d(k, s, min(p, k // 2)),
    "branches": lambda how, branches, _: Branches(how, branches),
    "gate": lambda _: Gate(),
    "norm": lambda kind, shape: NORMS[kind](shape),
    "relu": lambda _: nn.ReLU(),
    "up": lambda factor, mode, _: nn.Upsample(scale_factor=factor, mode=mode),
    "transposed": lambda k, s, p, o, _: nn.ConvTranspose2d(
        CHANNELS, CHANNELS, max(k, s), s, min(p, max(k, s) - 1), min(o, s - 1)
    ),
    "shuffle": lambda _: Shuffle(),
    "pixels": _pixels,
    "unpixels": lambda _: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * CHANNELS, CHANNELS, 1)),
    "pad": lambda pads, _: nn.ZeroPad2d(pads),
}

_two = functools.partial(st.tuples)
few = st.integers(1, 3)
pads = st.integers(0, 2)
_sized = st.lists(
    st.tuples(st.sampled_from(["conv", "depthwise", "pool"]), st.integers(0, 2), st.integers(1, 2)),
    max_size=3,
)
_layers = st.one_of(
    st.tuples(
        st.just("conv"), _two(st.integers(1, 5), st.integers(1, 5)), _two(few, few),
        _two(pads, pads), _two(st.integers(1, 2), st.integers(1, 2)), st.sampled_from([1, 2, 4]),
        st.sampled_from(["zeros", "zeros", "reflect", "replicate"]),
    ),
    st.tuples(st.just("again"), st.integers(0, 3)),
    st.tuples(st.just("max"), st.integers(1, 4), few, pads, st.integers(1, 2)),
    st.tuples(st.just("avg"), st.integers(1, 4), few, pads),
    st.tuples(
        st.just("branches"), st.sampled_from(["sum", "product", "cat", "stack"]),
        st.lists(_sized, min_size=2, max_size=3),
    ),
    st.tuples(st.just("gate")),
    st.tuples(st.just("norm"), st.sampled_from(sorted(NORMS))),
    st.tuples(st.just("relu")),
    st.tuples(st.just("up"), st.sampled_from([2, 3]), st.just("nearest")),
    st.tuples(st.just("up"), st.just(2), st.sampled_from(["bilinear", "bicubic"])),
    st.tuples(st.just("transposed"), st.integers(1, 5), few, pads, pads),
    st.tuples(st.just("shuffle")),
    st.tuples(st.just("pixels")),
    st.tuples(st.just("unpixels")),
    st.tuples(st.just("pad"), _two(pads, pads, pads, pads)),
)  # fmt: skip
layers = st.lists(_layers, min_size=1, max_size=7)
"""Any network of up to seven layers."""
heads = st.sampled_from(["none", "none", "linear", "mean", "means", "flattened mean"])
"""What may follow on the map."""


def with_head(network: Drawn, head: str) -> nn.Module:
    """The network with what makes one row of numbers of its map, or nothing."""
    if head == "none":
        return network
    return Headed(network, head)


class Headed(nn.Module):
    def __init__(self, network: Drawn, head: str) -> None:
        super().__init__()
        self.network, self.head = network, head
        _, c, height, width = network.last
        self.linear = nn.Linear(c * height * width if head == "linear" else c, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.network(x)
        match self.head:
            case "linear":
                x = x.flatten(1)
            case "mean":
                x = x.mean((2, 3))
            case "means":
                x = x.mean(3).mean(2)
            case "flattened mean":
                x = x.view(len(x), x.shape[1], -1).mean(2)
        return self.linear(x)
