"""A network in the engine against the same one in torch, in float64."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mnist_exp.engine.compiled import CompiledNetwork


@dataclass(frozen=True)
class Computed:
    """What a network gave, and the gradients of its tensors by name; those that have none are left
    out."""

    output: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Normal noise, float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def computed(network: nn.Module, images: Tensor, directions: Sequence[Tensor]) -> Computed:
    """Go forward and back once for each direction, which is the gradient of the output."""
    network.zero_grad()
    for direction in directions:
        output = network(images)
        if output.requires_grad:
            output.backward(direction.to(output.dtype))
    return Computed(
        output.detach(),
        {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None},
        {name: buffer.clone() for name, buffer in network.named_buffers()},
    )


def largest(tensors: Iterable[Tensor]) -> float:
    return max((float(x.abs().nan_to_num().max()) for x in tensors if x.numel()), default=0.0)


def assert_near(
    found: Tensor, expected: Tensor, tolerance: float, what: str, scale: float | None = None
) -> None:
    """Each number is within a share of it, or of a scale: else of the largest."""
    assert found.shape == expected.shape, what
    scale = largest([expected]) if scale is None else scale
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=tolerance, atol=tolerance * scale + 1e-12,
        equal_nan=True, msg=lambda text: f"{what}: {text}",
    )  # fmt: skip


def check(
    network: nn.Module, images: Tensor, *, steps: int = 1, through_torch: tuple[str, ...] = (),
    tolerance: float = 2e-5,
) -> CompiledNetwork:  # fmt: skip
    """The network in the engine gives what torch gives in float64, forward and back, several
    times; torch does what it is said to, and nothing else."""
    exact = copy.deepcopy(network).double()
    engine = CompiledNetwork(network)
    size = exact_output(exact, images).shape
    directions = [noise(*size, seed=10 + step) for step in range(steps)]
    with engine.standing_in():
        found = computed(network, images, directions)
    expected = computed(exact, images.double(), directions)
    assert engine.through_torch == through_torch, engine.through_torch
    assert_near(found.output, expected.output, tolerance, "output")
    assert found.gradients.keys() == expected.gradients.keys()
    scale = largest(expected.gradients.values())  # one may be a sum that is zero but for rounding
    for name, gradient in expected.gradients.items():
        assert_near(found.gradients[name], gradient, tolerance, name, scale)
    for name, buffer in expected.buffers.items():
        assert_near(found.buffers[name], buffer, tolerance, name)
    return engine


def check_norms(network: nn.Module, images: Tensor, tolerance: float) -> tuple[str, ...]:
    """The same of whole networks, once: errors are shares of the norm of a gradient, since a number
    next to a kink may be taken for one on the other side; they may be some times as large as those
    of torch in float32, where much cancels out. Returns what torch did."""
    exact, plain = copy.deepcopy(network).double(), copy.deepcopy(network)
    directions = [noise(*exact_output(exact, images).shape, seed=10)]
    engine = CompiledNetwork(network)
    with engine.standing_in():
        found = computed(network, images, directions)
    expected = computed(exact, images.double(), directions)
    assert_near(found.output, expected.output, tolerance, "output")
    assert found.gradients.keys() == expected.gradients.keys()
    usual = computed(plain, images, directions).gradients
    largest_norm = max((float(x.norm()) for x in expected.gradients.values()), default=0.0)
    for name, gradient in expected.gradients.items():
        error, allowed = (float((x[name] - gradient).norm()) for x in (found.gradients, usual))
        allowed = 20 * allowed + tolerance * max(float(gradient.norm()), 0.01 * largest_norm)
        assert error <= allowed, (name, error, allowed)
    scale = largest(expected.buffers.values())  # a mean may be zero but for rounding
    for name, buffer in expected.buffers.items():
        assert_near(found.buffers[name], buffer, tolerance, name, scale)
    return engine.through_torch


def exact_output(network: nn.Module, images: Tensor) -> Tensor:
    """Of a copy, since it may keep something."""
    output: Tensor = copy.deepcopy(network)(images.double())
    return output


def in_engine(network: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, tuple[str, ...]]:
    """What the network gives in the engine, and what torch does of it."""
    engine = CompiledNetwork(network)
    with engine.standing_in():
        return network(*args, **kwargs), engine.through_torch


class Apply(nn.Module):
    """A function of the values of layers, in a network."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.layers)
