"""Layers and networks in compiled kernels, forward and back, against torch in float64."""

import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from against_torch import Apply, check, in_engine, noise
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

drawn = settings(
    deadline=None, derandomize=True, max_examples=40, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
batches = st.integers(1, 40)
channels = st.integers(1, 20)
pairs = st.tuples


def seeded(make: Callable[[], nn.Module], seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return make()


@st.composite
def convolutions(draw: Any) -> tuple[nn.Conv2d, tuple[int, int]]:
    """A convolution, and the size of an image that it takes."""
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 2), (5, 5), (4, 1), (1, 3), (2, 5)]))
    dilation = draw(pairs(st.integers(1, 3), st.integers(1, 3)))
    stride = draw(pairs(st.integers(1, 3), st.integers(1, 3)))
    padding: Any = draw(st.one_of(
        st.sampled_from(["same", "valid"]), pairs(st.integers(0, 3), st.integers(0, 3)),
        pairs(st.integers(0, 9), st.integers(0, 9)),
    ))  # fmt: skip
    if padding == "same":
        stride = (1, 1)
    groups = draw(st.sampled_from([1, 1, 2, 3, "depthwise"]))
    if groups == "depthwise":
        groups = draw(channels)
        inputs, outputs = groups, groups * draw(st.sampled_from([1, 1, 2, 3]))
    else:
        inputs, outputs = (groups * -(-draw(channels) // groups) for _ in range(2))
    size = draw(pairs(st.integers(1, 14), st.integers(1, 14)))
    around = (0, 0) if isinstance(padding, str) else padding
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if padding != "same":
        assume(all(s + 2 * p >= r for s, p, r in zip(size, around, reach, strict=True)))
    layer = seeded(lambda: nn.Conv2d(
        inputs, outputs, kernel, stride, padding, dilation, groups, bias=draw(st.booleans())
    ))  # fmt: skip
    return layer, size


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(drawn, max_examples=60)
@given(convolutions(), batches)
def test_a_convolution(drawn: tuple[nn.Conv2d, tuple[int, int]], batch: int) -> None:
    layer, size = drawn
    before = seeded(lambda: nn.Conv2d(2, layer.in_channels, 1))
    check(nn.Sequential(before, layer), noise(batch, 2, *size))


@drawn
@given(
    st.integers(2, 35), pairs(st.integers(5, 21), st.integers(5, 21)), st.integers(1, 3),
    st.integers(1, 2), st.integers(0, 2), st.booleans(), batches,
)  # fmt: skip
def test_a_depthwise_convolution_of_nine_taps(
    channels: int, size: tuple[int, int], down: int, across: int, padding: int, bias: bool,
    batch: int,
) -> None:  # fmt: skip
    assume(size[0] + 2 * padding > 2 * down)
    settings = {"padding": padding, "dilation": (down, across), "groups": channels, "bias": bias}
    before = seeded(lambda: nn.Conv2d(2, channels, 1))
    layer = seeded(lambda: nn.Conv2d(channels, channels, 3, **settings))
    check(nn.Sequential(before, layer, nn.ReLU()), noise(batch, 2, *size))


class Functional(nn.Module):
    """The same layer as a function of its weights."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.rest: Any = ()
        if isinstance(layer, nn.Conv2d):
            self.rest = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        return (F.conv2d if self.rest else F.linear)(x, self.weight, self.bias, *self.rest)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@drawn
@given(convolutions(), batches)
def test_a_convolution_as_a_function(drawn: tuple[nn.Conv2d, tuple[int, int]], batch: int) -> None:
    layer, size = drawn
    check(Functional(layer), noise(batch, layer.in_channels, *size))


@drawn
@given(st.integers(1, 70), st.integers(1, 40), st.booleans(), st.booleans(), batches)
def test_a_linear_layer(inputs: int, outputs: int, bias: bool, function: bool, batch: int) -> None:
    layer = seeded(lambda: nn.Linear(inputs, outputs, bias=bias))
    own = Functional(layer) if function else layer
    check(nn.Sequential(nn.Flatten(), own), noise(batch, inputs, 1, 1))


@drawn
@given(
    channels, pairs(st.integers(1, 9), st.integers(1, 9)), st.integers(5, 40), st.booleans(),
    st.sampled_from([0.1, 0.0, 1.0, None]), st.booleans(), st.booleans(), st.booleans(),
    st.sampled_from([1e-5, 0.1, 1]), st.booleans(),
)  # fmt: skip
def test_batch_normalisation(
    channels: int, size: tuple[int, int], batch: int, affine: bool, momentum: float | None,
    tracked: bool, frozen: bool, flat: bool, eps: float, relu: bool,
) -> None:  # fmt: skip
    kind = nn.BatchNorm1d if flat else nn.BatchNorm2d
    norm = kind(channels, eps, momentum, affine, tracked)
    if affine:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    layers = [nn.Conv2d(3, channels, 1), *[nn.ReLU()] * relu, *[nn.Flatten()] * flat, norm]
    size = (1, 1) if flat else size
    network = seeded(lambda: nn.Sequential(*layers, *[nn.SiLU()] * relu))
    norm.train(not frozen)
    check(network, 3 * noise(batch, 3, *size) + 1, steps=3, tolerance=2e-4)


def test_a_normalisation_whose_tensors_are_fixed() -> None:
    for name in ("weight", "bias"):
        network = seeded(lambda: nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.Tanh()))
        getattr(network[1], name).requires_grad_(False)
        check(network, noise(19, 1, 9, 9), steps=2)
    network.requires_grad_(False)
    network[1].bias.requires_grad_()
    check(network, noise(19, 1, 9, 9), steps=2)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "silu": F.silu, "gelu": F.gelu, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}  # fmt: skip
MODULES = {
    "relu": nn.ReLU(), "silu": nn.SiLU(), "gelu": nn.GELU(), "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(), "gelu_tanh": nn.GELU(approximate="tanh"),
}  # fmt: skip


class Shifted(nn.Module):
    """An activation of x + b."""

    def __init__(self, activation: Callable[[Tensor], Tensor], channels: int = 1) -> None:
        super().__init__()
        self.shift = nn.Conv2d(channels, channels, 1, groups=channels)
        nn.init.ones_(self.shift.weight), nn.init.zeros_(self.shift.bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.shift(x))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("as_module", [False, True])
def test_an_activation(name: str, as_module: bool) -> None:
    spread = torch.cat([torch.linspace(-100, 100, 4001), torch.linspace(-1, 1, 3999)])
    tiny = torch.logspace(-38, 0, 160)
    numbers = torch.cat([spread, tiny, -tiny])
    activation = MODULES[name] if as_module else ACTIVATIONS[name]
    images = numbers.view(40, 1, -1, 1)
    network = Shifted(activation)
    check(network, images)
    exact = ACTIVATIONS[name](numbers.double())
    found = in_engine(network, images)[0].detach().flatten().double()
    # Relative, too, near zero, where differences of numbers near one would be lost.
    near = numbers.abs() < 1
    torch.testing.assert_close(found[near], exact[near], rtol=2e-6, atol=1e-38)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_of_what_is_not_finite(name: str) -> None:
    numbers = [math.nan, math.inf, -math.inf, 1e30, -1e30, 3e38, 0.0, -0.0]
    images = torch.tensor(numbers).view(8, 1, 1, 1)
    network = Shifted(ACTIVATIONS[name])
    expected = ACTIVATIONS[name](images.double()).float()  # in float32, some give no number for inf
    found, _ = in_engine(network, images)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-30, equal_nan=True)


@st.composite
def poolings(draw: Any) -> tuple[Any, tuple[int, int]]:
    kernel = draw(pairs(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.one_of(st.none(), pairs(st.integers(1, 4), st.integers(1, 4))))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = draw(pairs(st.integers(4, 13), st.integers(4, 13)))
    ceil = draw(st.booleans())
    mean = draw(st.booleans())
    as_module = draw(st.booleans())
    if mean:
        border = draw(st.booleans())
        window = (kernel, stride, padding, ceil, border)
        function = Apply(lambda x: F.avg_pool2d(x, *window))
        return (nn.AvgPool2d(*window) if as_module else function), size
    function = Apply(lambda x: F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil))
    layer = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
    return (layer if as_module else function), size


@settings(drawn, max_examples=25)
@given(poolings(), st.sampled_from([1, 3, 5, 16]), batches)
def test_a_pooling(pooling: tuple[Any, tuple[int, int]], channels: int, batch: int) -> None:
    function, size = pooling
    before = seeded(lambda: nn.Conv2d(1, channels, 1))
    check(nn.Sequential(before, function), noise(batch, 1, *size))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_of_equal_maxima_the_first_has_the_gradient(stride: int) -> None:
    images = noise(17, 2, 9, 9).round()
    network = Shifted(lambda x: F.max_pool2d(F.relu(x), 3, stride, 1), channels=2)
    check(network, images)
    check(Shifted(nn.AdaptiveMaxPool2d((4, 2)), channels=2), images)


@pytest.mark.parametrize("size", [1, 2, (3, 1), (None, 2), 7, 11])
@pytest.mark.parametrize("mean", [False, True])
def test_an_adaptive_pooling(size: Any, mean: bool) -> None:
    kind = nn.AdaptiveAvgPool2d if mean else nn.AdaptiveMaxPool2d
    function = F.adaptive_avg_pool2d if mean else F.adaptive_max_pool2d
    images = noise(18, 3, 7, 5)
    check(Shifted(kind(size), channels=3), images)
    check(Shifted(lambda x: function(x, size), channels=3), images)


def squeezed(x: Tensor, wide: nn.Module, one: nn.Module, other: nn.Module) -> Tensor:
    x = wide(x)
    gate = other(F.silu(one(F.adaptive_avg_pool2d(x, 1)))).sigmoid()
    return x * gate


def squeezed_by_lines(x: Tensor, wide: nn.Module, one: nn.Module, other: nn.Module) -> Tensor:
    x = wide(x)
    gate = torch.sigmoid(other(F.relu(one(x.mean((2, 3))))))
    return gate[:, :, None, None] * x


def by_place(x: Tensor, wide: nn.Module, narrow: nn.Module) -> Tensor:
    x = wide(x)
    return x * torch.sigmoid(narrow(x)) - narrow(x)


def by_both(x: Tensor, wide: nn.Module, narrow: nn.Module) -> Tensor:
    x = wide(x)
    return F.adaptive_avg_pool2d(x, 1) * narrow(x) + x - F.adaptive_avg_pool2d(narrow(x), 1)


def conv(inputs: int, outputs: int, kernel: int = 3, **rest: Any) -> nn.Conv2d:
    return seeded(lambda: nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **rest))


FORMS: dict[str, tuple[Callable[..., Tensor], list[nn.Module]]] = {
    "residual": (lambda x, a, b: F.relu(b(y := F.relu(a(x))) + y), [conv(2, 4), conv(4, 4)]),
    "twice": (lambda x, a: a(x) + a(x), [conv(2, 4)]),
    "itself": (lambda x, a: (y := a(x)) + y, [conv(2, 4)]),
    "square": (lambda x, a: (y := a(x)) * y, [conv(2, 4)]),
    "cube": (lambda x, a: (y := a(x)) * y * y, [conv(2, 4)]),
    "nothing": (lambda x, a: (y := a(x)) - y, [conv(2, 4)]),
    "difference": (lambda x, a, b: a(x) - b(x), [conv(2, 4), conv(2, 4)]),
    "difference of one": (lambda x, a, b: b(x) - a(x), [conv(2, 4), conv(2, 1)]),
    "product": (lambda x, a, b: torch.mul(a(x), b(x)), [conv(2, 4), conv(2, 4)]),
    "with the image": (lambda x, a: a(x) * x + x - a(x), [conv(2, 2)]),
    "squeezed": (squeezed, [conv(2, 6), conv(6, 2, 1), conv(2, 6, 1)]),
    "squeezed by lines": (squeezed_by_lines, [conv(2, 6), nn.Linear(6, 3), nn.Linear(3, 6)]),
    "by place": (by_place, [conv(2, 6), conv(6, 1)]),
    "by both": (by_both, [conv(2, 6), conv(6, 1)]),
    "numbers": (lambda x, a: 2 * (1 - (3 + a(x) / 4 - 0.5)) * 0.25, [conv(2, 4)]),
    "negative": (lambda x, a: -a(x) + torch.neg(x.mean((2, 3), keepdim=True)), [conv(2, 2)]),
    "in place": (lambda x, a: operator.iadd(a(x), 2).mul(3), [conv(2, 4)]),
    "int": (lambda x, a: a(x) * 3 + 1, [conv(2, 4)]),
    "together": (
        lambda x, a, b: torch.cat([y := a(x), b(y), x, y], 1).tanh(), [conv(2, 3), conv(3, 5)],
    ),
    "together behind": (lambda x, a: torch.cat((a(x), x), dim=-3), [conv(2, 3)]),
    "features together": (
        lambda x, a, b: torch.cat([a(x.flatten(1)), b(x.flatten(1))], -1),
        [nn.Linear(162, 3), nn.Linear(162, 4)],
    ),
    "flat": (lambda x, a, b: b(a(x).flatten(1)), [conv(2, 3), nn.Linear(243, 5)]),
    "viewed": (lambda x, a, b: b(a(x).view(x.size(0), -1)), [conv(2, 3), nn.Linear(243, 5)]),
    "reshaped": (lambda x, a, b: b(a(x).reshape(-1, 243)), [conv(2, 3), nn.Linear(243, 5)]),
    "shaped": (lambda x, a, b: b(torch.reshape(a(x), (x.shape[0], 243))),
               [conv(2, 3), nn.Linear(243, 5)]),
    "squeezed axes": (
        lambda x, a: F.adaptive_max_pool2d(a(x), 1).squeeze(3).squeeze(2).tanh(), [conv(2, 4)],
    ),
    "pixel": (lambda x, a: F.adaptive_max_pool2d(a(x), 1)[:, :, 0, 0], [conv(2, 4)]),
    "mean of places": (lambda x, a: a(x).mean(dim=[-1, -2]), [conv(2, 4)]),
    "mean kept": (lambda x, a: a(x) - a(x).mean((2, 3), keepdim=True), [conv(2, 4)]),
    "classes": (lambda x, a: F.log_softmax(a(x).mean((2, 3)), dim=1), [conv(2, 10)]),
    "classes behind": (lambda x, a: (9 * a(x)).log_softmax(-3), [conv(2, 10)]),
    "shared": (
        lambda x, a, b, n, c: c(n(b(F.relu(n(b(a(x))))))),
        [conv(2, 4), conv(4, 4), nn.BatchNorm2d(4), conv(4, 2)],
    ),
    "norm shared": (lambda x, a, n: n(a(x)) * n(x), [conv(2, 2), nn.BatchNorm2d(2)]),
    "norm of image": (lambda x, n, a: a(n(x)), [nn.BatchNorm2d(2), conv(2, 4)]),
    "norm twice": (lambda x, a, n, m: m(n(a(x))), [conv(2, 4), *[nn.BatchNorm2d(4)] * 2]),
    "relu, norm and again": (
        lambda x, a, n: (y := F.relu(a(x))) + n(y), [conv(2, 4), nn.BatchNorm2d(4)],
    ),
    "many uses": (
        lambda x, a, b: (y := F.gelu(a(x))) + b(y) * y + F.max_pool2d(y, 3, 1, 1) + y.tanh(),
        [conv(2, 4), conv(4, 4)],
    ),
    "nothing at all": (lambda x, a: a(x), [nn.Identity()]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("batch", [3, 21])
def test_a_form(name: str, batch: int) -> None:
    function, layers = FORMS[name]
    torch.manual_seed(2)
    for layer in layers:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    check(Apply(function, *layers), noise(batch, 2, 9, 9), steps=2)


# ---- Many more ----------------------------------------------------------------------------------

MANY = settings(drawn, max_examples=250)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@MANY
@given(convolutions(), batches)
def test_many_convolutions(drawn: tuple[nn.Conv2d, tuple[int, int]], batch: int) -> None:
    layer, size = drawn
    before = seeded(lambda: nn.Conv2d(2, layer.in_channels, 1))
    check(nn.Sequential(before, layer), noise(batch, 2, *size))


@pytest.mark.slow
@MANY
@given(poolings(), st.sampled_from([1, 3, 5, 16]), batches)
def test_many_poolings(pooling: tuple[Any, tuple[int, int]], channels: int, batch: int) -> None:
    function, size = pooling
    before = seeded(lambda: nn.Conv2d(1, channels, 1))
    check(nn.Sequential(before, function), noise(batch, 1, *size))
