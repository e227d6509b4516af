"""What modules keep beside their state dict: plain attributes, and buffers that are not persistent.

A counter that drives dropout is an example. A checkpoint holds it, and the average of a network
takes it over.
"""

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

OF_TORCH = vars(nn.Module()).keys()
"""Attributes that every module has."""

GENERATORS: Mapping[type, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    torch.Generator: (torch.Generator.get_state, torch.Generator.set_state),
    random.Random: (random.Random.getstate, random.Random.setstate),
    np.random.Generator: (
        lambda generator: generator.bit_generator.state,
        lambda generator, state: setattr(generator.bit_generator, "state", state),
    ),
}
"""Random generators of a network's own: how their state is read, and set."""

State = dict[str, dict[str, Any]]
"""By the name of a module: its attributes."""


def read_attributes(network: nn.Module) -> State:
    """The plain attributes of each module: numbers, texts, tensors, arrays, random generators, and
    lists, tuples and dictionaries of the first three.

    A tensor that shares its memory with a parameter or a buffer is left out: it has a name already.
    """
    named = [*network.parameters(), *network.buffers()]
    shared = {_memory(tensor) for tensor in named} - {None}
    return {
        name: {
            key: _content(value)
            for key, value in vars(module).items()
            if key not in OF_TORCH and _is_kept(value, shared)
        }
        for name, module in network.named_modules()
    }


def read_buffers(network: nn.Module) -> State:
    """The buffers of each module that its state dict leaves out."""
    return {
        name: {key: module._buffers[key] for key in module._non_persistent_buffers_set}
        for name, module in network.named_modules()
    }


def give(network: nn.Module, state: State) -> None:
    """Give the modules of a network what `read_attributes` or `read_buffers` gave of one like it.

    Tensors are changed in place where they can be, so that whatever shares their memory goes on
    sharing it.
    """
    for name, module in network.named_modules():
        for key, value in state.get(name, {}).items():
            now = getattr(module, key, None)
            if type(now) in GENERATORS:
                GENERATORS[type(now)][1](now, value)
            elif isinstance(now, np.ndarray) and isinstance(value, Tensor):
                setattr(module, key, value.numpy().copy())
            elif isinstance(now, Tensor) and isinstance(value, Tensor) and _alike(now, value):
                with torch.no_grad():
                    now.copy_(value)
            else:
                setattr(module, key, copy.deepcopy(value))


def _content(value: Any) -> Any:
    if type(value) in GENERATORS:
        return GENERATORS[type(value)][0](value)
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _is_kept(value: Any, shared: set[int | None]) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufc"
    try:
        return type(value) in GENERATORS or _is_plain(value, shared)
    except RecursionError:  # a list that holds itself
        return False


def _is_plain(value: Any, shared: set[int | None]) -> bool:
    if isinstance(value, Tensor):
        # No checkpoint of data alone can hold a sparse one.
        dense = value.layout == torch.strided
        return dense and not value.requires_grad and _memory(value) not in shared
    if type(value) in (list, tuple):
        return all(_is_plain(item, shared) for item in value)
    if type(value) is dict:
        return all(_is_plain(item, shared) for pair in value.items() for item in pair)
    return type(value) in (bool, int, float, complex, str, bytes, type(None))


def _memory(tensor: Tensor) -> int | None:
    """Where its numbers lie; None for a sparse one, which has them in several places."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else None


def _alike(one: Tensor, other: Tensor) -> bool:
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and one.layout == other.layout == torch.strided
