"""The receptive field of a network, measured: independent of how the package derives it."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def measured_field(
    module: nn.Module, input_shape: Sequence[int], cell: tuple[int, int] | None = None
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The rows and the columns of the input, each as (first, behind the last), that a cell of the
    output depends on, the centre unless told, read off a gradient (float64, CPU); None where it
    depends on none.

    A copy of the module gets positive weights, no biases and
    neutral batch normalisation; maximum pooling passes on all of its window, and softmax is left
    out, so that no path is closed or cancelled. What is the same for all cells is held as it is:
    the statistics of other normalisations, and gates, which are what comes of a sigmoid.
    """
    network = copy.deepcopy(module).cpu().double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            # Weights that average keep the values near 1, far from the flat parts of activations.
            parameter.fill_(1 / parameter[0].numel() if parameter.dim() > 1 else 0)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_parameters()
    image = torch.ones(1, *input_shape, dtype=torch.float64, requires_grad=True)
    with _OpenPaths():
        output = network(image)
    if output.dim() == 4:
        row, column = cell or (output.shape[2] // 2, output.shape[3] // 2)
        output = output[..., row, column]
    (gradient,) = torch.autograd.grad(output.sum(), image)
    reached = (gradient[0] != 0).any(dim=0)
    rows, columns = (reached.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
    if not rows:
        return None
    return (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)


class _OpenPaths(TorchFunctionMode):
    """Replaces what closes paths for the gradient: maximum pooling and softmax."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        match function.__name__:
            case "max_pool2d":
                return _sum_pool2d(*args, **kwargs)
            case "adaptive_max_pool2d":
                return F.adaptive_avg_pool2d(args[0], args[1])
            case "amax":
                return args[0].mean(*args[1:], **kwargs)
            case "softmax" | "log_softmax" | "group_norm" | "layer_norm" | "instance_norm":
                return args[0]
            case "sigmoid":
                return args[0].sigmoid().detach()
        return function(*args, **kwargs)


def _sum_pool2d(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, **_: Any,
) -> Tensor:  # fmt: skip
    kernel, padding, dilation = _pair(kernel_size), _pair(padding), _pair(dilation)
    stride = _pair(stride) if stride else kernel
    # In ceil mode the last window may hang over the edge.
    below, right = (step - 1 if ceil_mode else 0 for step in stride)
    x = F.pad(x, (padding[1], padding[1] + right, padding[0], padding[0] + below))
    weight = torch.ones(x.shape[1], 1, *kernel, dtype=x.dtype)
    return F.conv2d(x, weight, stride=stride, dilation=dilation, groups=x.shape[1])


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
