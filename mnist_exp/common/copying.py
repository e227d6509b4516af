"""Copies of networks, with all that torch's own leave out."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn


def copied(network: nn.Module) -> nn.Module:
    """A copy of a network, with what is set on its weights, as in `weight.slow = True`, and the
    hooks of their gradients, which `copy.deepcopy` leaves out."""
    memo: dict[int, Any] = {}
    made: nn.Module = copy.deepcopy(network, memo)
    for own, other in zip(made.parameters(), network.parameters(), strict=True):
        vars(own).update(copy.deepcopy(vars(other), memo))
        for hook in _hooks(other, "_backward_hooks"):
            own.register_hook(copy.deepcopy(hook, memo))
        for hook in _hooks(other, "_post_accumulate_grad_hooks"):
            own.register_post_accumulate_grad_hook(copy.deepcopy(hook, memo))
    return made


def hooks_of(weight: Tensor) -> Iterator[Any]:
    """What is called with the gradient of a weight, or once it is there."""
    yield from _hooks(weight, "_backward_hooks")
    yield from _hooks(weight, "_post_accumulate_grad_hooks")


def _hooks(weight: Tensor, name: str) -> list[Any]:
    kept: Mapping[int, Any] | None = getattr(weight, name, None)
    return list((kept or {}).values())
