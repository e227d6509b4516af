"""What torch does not promise to keep, as it is in 2.14.1.

When it changes, `tests/training/test_torch_internals.py` says what. One more thing has no promise:
the names of operations, by which the rules know them; its own tests hold those against
torch.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "TorchDispatchMode", "arguments", "batch_norm_gradients", "channel_statistics", "kernels",
    "operation", "unwrapped", "writes", "written",
]  # fmt: skip


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the biased variance of each channel of images (N, C, H, W), (C,) each."""
    means, variances = torch.batch_norm_update_stats(images, None, None, 0.0)
    return means, variances


def batch_norm_gradients(
    dy: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of the weight and the bias of a batch normalisation of `x`, (C,) each.

    `dy` is the gradient of its output, (N, C, H, W) as `x` is; `mean` and `inverse_std` are those
    of the channels of `x`. Per channel: the sum of dy * (x - mean) * inverse_std, and that of dy.
    """
    of_input, of_weight, of_bias = False, True, True
    _, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
        dy, x, None, None, None, mean, inverse_std, True, 0.0, [of_input, of_weight, of_bias]
    )
    return dweight, dbias


def unwrapped(network: nn.Module) -> nn.Module:
    """The network within what torch.compile or a parallel training puts around it. They share their
    weights, and only the network itself can be copied, followed and exported."""
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(network.module)
    compiled = getattr(network, "_orig_mod", None)
    return unwrapped(compiled) if isinstance(compiled, nn.Module) else network


def operation(function: Any) -> str:
    """The name of what the dispatcher reports, as `add` for torch.ops.aten.add.Tensor."""
    name: str = function.overloadpacket.__name__
    return name


def arguments(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call that the dispatcher reports, by their names, with the defaults."""
    return {
        parameter.name: args[position]
        if position < len(args)
        else kwargs.get(parameter.name, parameter.default_value)
        for position, parameter in enumerate(function._schema.arguments)
    }


def written(function: Any, arguments: dict[str, Any]) -> list[Tensor]:
    """The arguments to which what the dispatcher reports writes, as `add_` does to its first."""
    schema = function._schema.arguments
    names = [one.name for one in schema if one.alias_info and one.alias_info.is_write]
    return [arguments[name] for name in names if isinstance(arguments[name], Tensor)]


def writes(function: Any) -> bool:
    """Whether what the dispatcher reports writes to one of its arguments."""
    mutable: bool = function._schema.is_mutable
    return mutable


@contextlib.contextmanager
def kernels(*, plain: bool) -> Iterator[None]:
    """In the block attention is computed operation by operation, without torch's fast path; and if
    `plain`, convolutions window by window, where oneDNN and NNPACK may compute neighbours together.
    """
    onednn, nnpack = torch._C._get_mkldnn_enabled(), torch._C._get_nnpack_enabled()
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch._C._set_mkldnn_enabled(onednn and not plain)
        torch._C._set_nnpack_enabled(nnpack and not plain)
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch._C._set_mkldnn_enabled(onednn)
        torch._C._set_nnpack_enabled(nnpack)
        torch.backends.mha.set_fastpath_enabled(fast)
