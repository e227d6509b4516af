"""What the engine does not know is computed by torch, a node of the graph at a time."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn


def compute(
    node: fx.Node, network: nn.Module, values: Mapping[str, Any],
    sizes: Mapping[str, tuple[int, ...]], images: int,
) -> Any:  # fmt: skip
    """What a node gives, from the `values` of others by name, for a batch of so many images.

    `sizes` are those of values that need not be there, without that of the batch.
    """
    if is_size(node) and _first(node) in sizes:
        size = torch.Size((images, *sizes[_first(node)]))
        dims: Any = (*node.args[1:], *node.kwargs.values()) if node.op == "call_method" else ()
        return size if not dims or dims[0] is None else size[dims[0]]
    if node.op == "get_attr":
        return _attribute(network, str(node.target))
    args: Any = fx.node.map_arg(node.args, lambda used: values[used.name])
    kwargs: Any = fx.node.map_arg(node.kwargs, lambda used: values[used.name])
    if node.op == "call_module":
        return network.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def is_size(node: fx.Node) -> bool:
    """Whether it is x.shape, x.size() or x.size(dim)."""
    if node.op == "call_function":
        return node.target is getattr and node.args[1:] == ("shape",)
    return node.op == "call_method" and node.target == "size"


def _first(node: fx.Node) -> str:
    return str(node.all_input_nodes[0].name)


def _attribute(network: nn.Module, name: str) -> Tensor:
    module, _, own = name.rpartition(".")
    attribute: Tensor = getattr(network.get_submodule(module), own)
    return attribute
