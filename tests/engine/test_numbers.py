"""What is not finite, and what is very small, goes through every kernel as it does in torch."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from against_torch import Apply, in_engine, noise
from torch import Tensor, nn


def conv(inputs: int = 3, outputs: int = 3, kernel: int = 3, **rest: Any) -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(inputs, outputs, kernel, **rest)


KERNELS: dict[str, tuple[Callable[..., Tensor], list[nn.Module]]] = {
    "convolution": (lambda x, a: a(x), [conv(padding=1)]),
    "with stride": (lambda x, a: a(x), [conv(stride=2, padding=2)]),
    "depthwise": (lambda x, a: a(x), [conv(groups=3, padding=1)]),
    "rectified": (lambda x, a: F.relu(a(x)), [conv()]),
    "linear": (lambda x, a: a(x.flatten(1)), [nn.Linear(147, 4)]),
    "relu": (lambda x, a: F.relu(x) + a(x), [conv(kernel=1)]),
    "silu": (lambda x, a: F.silu(x) + a(x), [conv(kernel=1)]),
    "tanh": (lambda x, a: torch.tanh(x) + a(x), [conv(kernel=1)]),
    "sigmoid": (lambda x, a: torch.sigmoid(x) * a(x), [conv(kernel=1)]),
    "maximum": (lambda x, a: F.max_pool2d(a(x), 3, 1, 1), [conv()]),
    "mean": (lambda x, a: F.avg_pool2d(a(x), 2), [conv()]),
    "mean of all": (lambda x, a: a(x).mean((2, 3)), [conv()]),
    "maximum of all": (lambda x, a: F.adaptive_max_pool2d(a(x), 1), [conv()]),
    "frozen norm": (lambda x, n: n(x), [nn.BatchNorm2d(3).eval()]),
    "difference": (lambda x, a: a(x) - x, [conv(padding=1)]),
    "scaled": (lambda x, a: 3 * a(x) - 1, [conv(padding=1)]),
    "together": (lambda x, a: torch.cat([x, a(x)], 1), [conv(padding=1)]),
    "classes": (lambda x, a: a(x).log_softmax(1), [conv()]),
}  # fmt: skip


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("image", [0, 5, 18])
def test_one_image_does_not_reach_another(name: str, odd: float, image: int) -> None:
    function, layers = KERNELS[name]
    network = Apply(function, *layers)
    network.zero_grad()
    images = noise(19, 3, 7, 7)
    clean, names = in_engine(network, images)
    assert names == ()
    images[image, 1, 3, 3] = odd
    found, _ = in_engine(network, images)
    expected = network(images)
    others = torch.arange(19) != image
    assert torch.equal(found[others], clean[others])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    gradients = []
    for output in (found, expected):
        network.zero_grad()
        output.square().sum().backward()
        gradients.append([weight.grad.clone() for weight in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one.isfinite(), other.isfinite())


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_norm_of_a_batch_shows_it_everywhere(odd: float) -> None:
    network = nn.Sequential(conv(), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    images = noise(19, 3, 7, 7)
    images[18, 1, 3, 3] = odd
    found, _ = in_engine(network, images)
    assert found.isnan().all() == network(images).isnan().all()
    assert network[1].running_mean.isfinite().all() == torch.tensor(False)


@pytest.mark.parametrize("odd", [math.nan, math.inf, 1e30])
def test_the_loss_becomes_what_torchs_becomes(odd: float) -> None:
    network = nn.Sequential(conv(3, 10), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    images, labels = noise(19, 3, 7, 7), torch.arange(19) % 10
    images[7, 0, 2, 2] = odd
    found = F.cross_entropy(in_engine(network, images)[0], labels)
    torch.testing.assert_close(found, F.cross_entropy(network(images), labels), equal_nan=True)


def test_very_small_numbers_stay() -> None:
    one = conv(3, 3, 1, groups=3)
    nn.init.ones_(one.weight), nn.init.zeros_(one.bias)
    wide = conv(3, 3, 1)
    nn.init.constant_(wide.weight, 2**-10)
    images = torch.tensor([2**-149, 2**-140, -(2**-130)]).view(1, 3, 1, 1).repeat(19, 1, 4, 4)
    for function in (F.relu, F.silu, torch.tanh, lambda x: F.max_pool2d(x, 2), lambda x: x + x):
        network = Apply(lambda x, a, function=function: function(a(x)), one)
        found, _ = in_engine(network, images)
        assert found.any()
        torch.testing.assert_close(found, network(images), rtol=0, atol=2**-149)
    bright = 2**12 * images
    torch.testing.assert_close(in_engine(wide, bright)[0], wide(bright), rtol=0, atol=2**-149)
