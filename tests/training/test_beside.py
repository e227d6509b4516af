"""What modules keep beside their state dict, read from one network and given to another."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mnist_exp.training import beside


class Layer(nn.Module):
    """A layer with one attribute, in a layer, so that it has a name."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.inside = nn.Identity()
        self.inside.value = value


@pytest.mark.parametrize(
    "value",
    [3, 0.1, True, None, "text", b"bytes", [1, [2.5, "x"]], (1, None), {"a": [1], 2: {"b": 3}}],
)
def test_plain_attributes_go_over_and_are_no_longer_shared(value: object) -> None:
    one, other = Layer(value), Layer("another")
    beside.give(other, beside.read_attributes(one))
    assert other.inside.value == value
    assert type(other.inside.value) is type(value)
    if isinstance(value, list | dict):
        assert other.inside.value is not value


def test_an_array_goes_over_through_what_a_checkpoint_holds() -> None:
    one, other = Layer(np.array([1.5, 2])), Layer(np.zeros(3))
    state = beside.read_attributes(one)
    assert isinstance(state["inside"]["value"], Tensor)
    beside.give(other, state)
    assert isinstance(other.inside.value, np.ndarray)
    assert other.inside.value.tolist() == [1.5, 2]
    assert other.inside.value is not one.inside.value


def test_a_tensor_is_changed_in_place() -> None:
    one, other = Layer(torch.ones(3)), Layer(torch.zeros(3))
    view = other.inside.value[1:]
    beside.give(other, beside.read_attributes(one))
    assert view.tolist() == [1, 1]
    beside.give(other, beside.read_attributes(Layer(torch.ones(2, dtype=torch.int64))))
    assert other.inside.value.tolist() == [1, 1]
    assert view.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("make", "draw"),
    [
        (torch.Generator, lambda g: torch.rand(2, generator=g).tolist()),
        (random.Random, lambda g: [g.random(), g.gauss(0, 1)]),
        (np.random.default_rng, lambda g: g.random(2).tolist()),
    ],
)
def test_a_generator_goes_on_where_the_other_is(
    make: Callable[[], Any], draw: Callable[[Any], object]
) -> None:
    one, other = Layer(make()), Layer(make())
    draw(one.inside.value)
    beside.give(other, beside.read_attributes(one))
    assert other.inside.value is not one.inside.value
    assert draw(other.inside.value) == draw(one.inside.value)


def test_what_has_a_name_already_is_left_out() -> None:
    module = nn.Linear(2, 3)
    module.view = module.weight.detach()[0]
    module.made = module.weight * 2
    module.object = object()
    module.register_buffer("seen", torch.ones(()), persistent=False)
    module.register_buffer("kept", torch.ones(()))
    attributes = beside.read_attributes(module)[""]
    assert attributes == {"in_features": 2, "out_features": 3}
    (buffer,) = beside.read_buffers(module)[""].items()
    assert buffer[0] == "seen"


def test_buffers_that_are_not_persistent_go_over() -> None:
    def made(value: float) -> nn.Module:
        module = nn.Linear(1, 1)
        module.register_buffer("seen", torch.tensor(value), persistent=False)
        return nn.Sequential(module)

    one, other = made(1.5), made(0)
    beside.give(other, beside.read_buffers(one))
    seen: Tensor = other[0].seen  # type: ignore[index]
    assert seen == 1.5
