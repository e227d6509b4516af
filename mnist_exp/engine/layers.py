"""Which of torch's layers and functions the engine knows, and what they are as its operations."""

import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from mnist_exp.engine.operations import (
    Activation,
    Affine,
    Combine,
    Concatenate,
    Conv,
    Drop,
    Flatten,
    LogSoftmax,
    Map,
    Norm,
    Operation,
    Pool,
    PoolWindow,
    Same,
    Shape,
    shape_of,
)

Made = Operation | None
"""An operation, or None for what torch computes."""
Arguments = Mapping[str, Any]


class Nodes:
    """What is known of the nodes of a traced graph: what each `gave` for an example, of these the
    `sizes` of values of the network by name, and the module of one that calls a module. What is
    `opaque` only torch computes."""

    def __init__(
        self, network: nn.Module, gave: Mapping[str, Any], sizes: Mapping[str, tuple[int, ...]],
        opaque: Collection[str],
    ) -> None:  # fmt: skip
        self.network = network
        self.gave = gave
        self.sizes = sizes
        self.opaque = opaque

    def size(self, node: Any) -> tuple[int, ...] | None:
        """The size of a value of the network, without that of its batch; None of what is none."""
        return self.sizes.get(node.name) if isinstance(node, fx.Node) else None

    def shape(self, node: Any) -> Shape | None:
        """The same as channels, height and width."""
        size = self.size(node)
        return None if size is None else shape_of(size)

    def tensor(self, node: Any) -> str | None:
        """The name of a tensor of the network's own, if a node stands for one."""
        return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None

    def operation(self, node: fx.Node) -> Made:
        """The operation that a node is, if the engine knows it."""
        known = self.shape(node) is not None and node.target not in self.opaque
        made = self._made(node) if known else None
        inputs = {x.name: x for x in node.all_input_nodes}
        takes_values = made and all(self.shape(inputs[x]) is not None for x in made.xs)
        return made if takes_values else None

    def _made(self, node: fx.Node) -> Made:
        if node.op == "call_module":
            module = self.network.get_submodule(str(node.target))
            of_module = MODULES.get(type(module))
            plain = len(node.args) == 1 and not node.kwargs
            return of_module(self, node, module) if of_module and plain else None
        of_function = FUNCTIONS.get(node.target) if node.op.startswith("call") else None
        if of_function is None:
            return None
        names, make = of_function
        given = dict(zip(names, node.args, strict=False))
        if len(node.args) > len(names) or set(node.kwargs) - set(names):
            return None
        return make(self, node, {**given, **node.kwargs})


# ---- Layers with weights ------------------------------------------------------------------------


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _conv(
    node: fx.Node, weight: str, bias: str | None, kernel: tuple[int, int], rest: Arguments
) -> Operation:
    stride, dilation = _pair(rest["stride"]), _pair(rest["dilation"])
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    if rest["padding"] == "same":  # torch puts the odd pixel behind
        down, across = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        padding = (down // 2, across // 2, down - down // 2, across - across // 2)
    elif rest["padding"] != "valid":
        padding = _pair(rest["padding"]) * 2
    return Conv(
        (node.all_input_nodes[0].name,), node.name, weight=weight, bias=bias, kernel=kernel,
        stride=stride, padding=padding, dilation=dilation, groups=rest["groups"],
    )  # fmt: skip


def _conv_module(_: Nodes, node: fx.Node, module: nn.Conv2d) -> Made:
    if module.padding_mode != "zeros":
        return None
    bias = None if module.bias is None else f"{node.target}.bias"
    kernel = _pair(module.weight.shape[2:])  # as torch does it, whatever kernel_size says
    return _conv(node, f"{node.target}.weight", bias, kernel, vars(module))


def _conv_function(nodes: Nodes, node: fx.Node, given: Arguments) -> Made:
    defaults = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    rest = {**defaults, **given}
    weight, bias = nodes.tensor(rest["weight"]), nodes.tensor(rest["bias"])
    if weight is None or (rest["bias"] is not None and bias is None) or _sizes_within(rest):
        return None
    if nodes.shape(rest["input"]) is None:
        return None
    kernel = nodes.gave[rest["weight"].name].shape[2:]
    return _conv(node, weight, bias, _pair(kernel), rest)


def _linear(nodes: Nodes, node: fx.Node, module: nn.Linear) -> Made:
    if len(nodes.size(node.args[0]) or ()) != 1:
        return None
    bias = None if module.bias is None else f"{node.target}.bias"
    return Conv((_name(node.args[0]),), node.name, weight=f"{node.target}.weight", bias=bias)


def _linear_function(nodes: Nodes, node: fx.Node, given: Arguments) -> Made:
    weight, bias = nodes.tensor(given["weight"]), nodes.tensor(given.get("bias"))
    known = weight is not None and len(nodes.size(given["input"]) or ()) == 1
    if not known or weight is None or (given.get("bias") is not None and bias is None):
        return None
    return Conv((_name(given["input"]),), node.name, weight=weight, bias=bias)


def _norm(nodes: Nodes, node: fx.Node, module: nn.BatchNorm2d | nn.BatchNorm1d) -> Made:
    size = nodes.size(node.args[0]) or ()
    if len(size) != (3 if isinstance(module, nn.BatchNorm2d) else 1):
        return None
    has_running = module.running_mean is not None and module.running_var is not None
    fixed = not module.training and has_running
    moving = module.training and module.track_running_stats and has_running
    names = {
        name: f"{node.target}.{name}" if getattr(module, name) is not None else ""
        for name in ("weight", "bias")
    }
    if fixed or moving:
        names |= {name: f"{node.target}.{name}" for name in ("running_mean", "running_var")}
    return Norm(
        (_name(node.args[0]),), node.name, module=str(node.target), eps=float(module.eps),
        fixed=fixed, **names,
    )  # fmt: skip


# ---- Elementwise --------------------------------------------------------------------------------


def _activation(kind: Activation) -> Callable[..., Made]:
    def make(_: Nodes, node: fx.Node, __: Any) -> Made:
        return Map((_first(node),), node.name, activation=kind)

    return make


def _gelu(approximate: str) -> Activation:
    return Activation.GELU_TANH if approximate == "tanh" else Activation.GELU


def _gelu_module(_: Nodes, node: fx.Node, module: nn.GELU) -> Made:
    return Map((_name(node.args[0]),), node.name, activation=_gelu(module.approximate))


def _gelu_function(_: Nodes, node: fx.Node, given: Arguments) -> Made:
    kind = _gelu(given.get("approximate", "none"))
    return Map((_name(given["input"]),), node.name, activation=kind)


def _dropout_module(_: Nodes, node: fx.Node, module: nn.Dropout) -> Made:
    x = (_name(node.args[0]),)
    if not module.training:
        return Same(x, node.name)
    return Drop(x, node.name, module=str(node.target), p=module.p)


def _dropout_function(_: Nodes, node: fx.Node, given: Arguments) -> Made:
    x, p = (_name(given["input"]),), given.get("p", 0.5)
    if isinstance(p, fx.Node) or isinstance(given.get("training"), fx.Node):
        return None
    return (
        Drop(x, node.name, module=None, p=p) if given.get("training", True) else Same(x, node.name)
    )


def _combine(sign: int) -> Callable[[Nodes, fx.Node, Arguments], Made]:
    """A sum, a difference (-1) or a product (0), of two values or of one and a number."""

    def make(nodes: Nodes, node: fx.Node, given: Arguments) -> Made:
        left, right = given["input"], given["other"]
        if _is_number(right) and nodes.size(left) is not None:
            scale, shift = (right, 0.0) if sign == 0 else (1.0, sign * right)
            return Affine((_name(left),), node.name, scale=scale, shift=shift)
        if _is_number(left) and nodes.size(right) is not None:
            scale, shift = (left, 0.0) if sign == 0 else (sign, left)
            return Affine((_name(right),), node.name, scale=scale, shift=shift)
        shapes, result = [nodes.shape(left), nodes.shape(right)], nodes.shape(node)
        ranks = {len(nodes.size(side) or ()) for side in (left, right)}
        if result is None or None in shapes or len(ranks) != 1:
            return None
        for shape in shapes:
            whole = shape and (shape.height, shape.width) in {(1, 1), (result.height, result.width)}
            if not whole or (shape and shape.channels not in (1, result.channels)):
                return None
        return Combine((_name(left), _name(right)), node.name, sign=sign)

    return make


def _divided(nodes: Nodes, node: fx.Node, given: Arguments) -> Made:
    if not _is_number(given["other"]) or given["other"] == 0 or nodes.size(given["input"]) is None:
        return None
    return Affine((_name(given["input"]),), node.name, scale=1 / given["other"], shift=0.0)


def _negative(_: Nodes, node: fx.Node, given: Arguments) -> Made:
    return Affine((_name(given["input"]),), node.name, scale=-1.0, shift=0.0)


def _log_softmax(nodes: Nodes, node: fx.Node, given: Any) -> Made:
    x = node.args[0] if isinstance(given, nn.Module) else given["input"]
    dim = given.dim if isinstance(given, nn.Module) else given.get("dim")
    rank = 1 + len(nodes.size(x) or ())
    if not isinstance(given, nn.Module) and given.get("dtype") is not None:
        return None
    return LogSoftmax((_name(x),), node.name) if dim in (1, 1 - rank) else None


# ---- Shapes -------------------------------------------------------------------------------------


def _reshaped(nodes: Nodes, node: fx.Node, _: Any) -> Made:
    """What only arranges the numbers of an image in another shape."""
    x = node.all_input_nodes[0]
    before, after = nodes.size(x), nodes.size(node)
    if before is None or after is None or math.prod(before) != math.prod(after):
        return None
    one, other = shape_of(before), shape_of(after)
    if one is None or other is None:
        return None
    if one == other:
        return Same((_name(x),), node.name)
    return Flatten((_name(x),), node.name) if other.pixels == 1 else None


def _indexed(nodes: Nodes, node: fx.Node, given: Arguments) -> Made:
    """x[:, :, 0, 0] of images of one pixel."""
    index = given["index"]
    whole = isinstance(index, tuple) and index[:2] == (slice(None), slice(None))
    plain = whole and all(part in (0, -1, None) for part in index[2:])
    return _reshaped(nodes, node, given) if plain and nodes.size(given["input"]) else None


def _same(_: Nodes, node: fx.Node, __: Any) -> Made:
    return Same((_first(node),), node.name)


def _concatenated(nodes: Nodes, node: fx.Node, given: Arguments) -> Made:
    parts = given["tensors"]
    if isinstance(parts, fx.Node):  # several values, as of x.chunk(2)
        return None
    shapes = [nodes.shape(part) for part in parts]
    rank = 1 + len(nodes.size(node) or ())
    if None in shapes or given.get("dim", 0) not in (1, 1 - rank):
        return None
    if len({len(nodes.size(part) or ()) for part in parts}) != 1:
        return None
    return Concatenate(tuple(map(_name, parts)), node.name)


# ---- Pooling ------------------------------------------------------------------------------------


def _windows(size: int, count: int, kernel: int, stride: int, padding: int) -> list[PoolWindow]:
    """Along one axis, the windows of a pooling as it slides, and their lengths with the border."""
    starts = [i * stride - padding for i in range(count)]
    return [
        PoolWindow(
            max(start, 0), min(start + kernel, size), min(start + kernel, size + padding) - start
        )
        for start in starts
    ]


def _pool(
    nodes: Nodes,
    node: fx.Node,
    x: Any,
    axes: list[list[PoolWindow]],
    *,
    mean: bool,
    with_border: bool,
) -> Made:
    if nodes.shape(x) is None or not all(window.size > 0 for axis in axes for window in axis):
        return None
    divisors = [
        down.with_border * across.with_border if with_border else down.size * across.size
        for down in axes[0] for across in axes[1]
    ]  # fmt: skip
    rows, columns = (tuple((window.start, window.end) for window in axis) for axis in axes)
    return Pool(
        (_name(x),), node.name, mean=mean, rows=rows, columns=columns, divisors=tuple(divisors)
    )


def _sliding(mean: bool) -> Callable[[Nodes, fx.Node, Any], Made]:
    def make(nodes: Nodes, node: fx.Node, given: Any) -> Made:
        settings = vars(given) if isinstance(given, nn.Module) else given
        x = node.args[0] if isinstance(given, nn.Module) else given["input"]
        before, after = nodes.shape(x), nodes.shape(node)
        odd = settings.get("return_indices") or settings.get("divisor_override")
        if odd or _pair(settings.get("dilation", 1)) != (1, 1) or _sizes_within(settings):
            return None
        if before is None or after is None or len(nodes.size(x) or ()) != 3:
            return None
        kernel = _pair(settings["kernel_size"])
        stride = _pair(settings.get("stride") or kernel)
        padding = _pair(settings.get("padding", 0))
        axes = [
            _windows(size, count, *of_axis)
            for size, count, *of_axis in zip(
                (before.height, before.width), (after.height, after.width), kernel, stride, padding,
                strict=True,
            )
        ]  # fmt: skip
        with_border = settings.get("count_include_pad", True)
        return _pool(nodes, node, x, axes, mean=mean, with_border=with_border)

    return make


def _adaptive(mean: bool) -> Callable[[Nodes, fx.Node, Any], Made]:
    def make(nodes: Nodes, node: fx.Node, given: Any) -> Made:
        is_module = isinstance(given, nn.Module)
        x = node.args[0] if is_module else given["input"]
        before, after = nodes.shape(x), nodes.shape(node)
        settings = vars(given) if is_module else given
        if before is None or after is None or settings.get("return_indices"):
            return None
        axes = [
            [PoolWindow(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
            for size, count in ((before.height, after.height), (before.width, after.width))
        ]
        return _pool(nodes, node, x, axes, mean=mean, with_border=False)

    return make


def _mean(nodes: Nodes, node: fx.Node, given: Arguments) -> Made:
    """Over both axes of an image."""
    shape, size = nodes.shape(given["input"]), nodes.size(given["input"])
    dims = given.get("dim")
    if shape is None or len(size or ()) != 3 or not isinstance(dims, tuple | list):
        return None
    if sorted(dim % 4 for dim in dims) != [2, 3]:
        return None
    axes = [[PoolWindow(0, shape.height)], [PoolWindow(0, shape.width)]]
    return _pool(nodes, node, given["input"], axes, mean=True, with_border=False)


def _first(node: fx.Node) -> str:
    return str(node.all_input_nodes[0].name)


def _name(node: Any) -> str:
    return str(node.name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sizes_within(given: Arguments) -> bool:
    """Whether settings are calculated in the network."""
    settings = {
        key: value for key, value in given.items() if key not in ("input", "weight", "bias")
    }
    found: list[fx.Node] = []
    fx.node.map_arg(settings, found.append)
    return bool(found)


MODULES: dict[type[nn.Module], Callable[[Nodes, fx.Node, Any], Made]] = {
    nn.Conv2d: _conv_module, nn.Linear: _linear,
    nn.BatchNorm2d: _norm, nn.BatchNorm1d: _norm,
    nn.ReLU: _activation(Activation.RELU), nn.SiLU: _activation(Activation.SILU),
    nn.Tanh: _activation(Activation.TANH), nn.Sigmoid: _activation(Activation.SIGMOID),
    nn.GELU: _gelu_module, nn.Dropout: _dropout_module, nn.LogSoftmax: _log_softmax,
    nn.MaxPool2d: _sliding(mean=False), nn.AvgPool2d: _sliding(mean=True),
    nn.AdaptiveMaxPool2d: _adaptive(mean=False), nn.AdaptiveAvgPool2d: _adaptive(mean=True),
    nn.Flatten: _reshaped, nn.Identity: _same,
}  # fmt: skip

X = ("input",)
BOTH = ("input", "other")
SHAPES = tuple(f"input {i}" for i in range(6))
WINDOW = ("input", "kernel_size", "stride", "padding")
FUNCTIONS: dict[Any, tuple[tuple[str, ...], Callable[[Nodes, fx.Node, Any], Made]]] = {
    F.conv2d: (
        ("input", "weight", "bias", "stride", "padding", "dilation", "groups"), _conv_function,
    ),
    F.linear: (("input", "weight", "bias"), _linear_function),
    **{
        function: (("input", "inplace"), _activation(kind))
        for kind, functions in {
            Activation.RELU: (F.relu, torch.relu, "relu", torch.relu_, "relu_"),
            Activation.SILU: (F.silu,),
            Activation.TANH: (F.tanh, torch.tanh, "tanh"),
            Activation.SIGMOID: (F.sigmoid, torch.sigmoid, "sigmoid"),
        }.items()
        for function in functions
    },
    F.gelu: (("input", "approximate"), _gelu_function),
    F.dropout: (("input", "p", "training", "inplace"), _dropout_function),
    F.log_softmax: (("input", "dim", "_stacklevel", "dtype"), _log_softmax),
    torch.log_softmax: (("input", "dim"), _log_softmax),
    "log_softmax": (("input", "dim"), _log_softmax),
    **{
        function: (BOTH, _combine(sign))
        for sign, functions in {
            1: (operator.add, operator.iadd, torch.add, "add", "add_"),
            -1: (operator.sub, operator.isub, torch.sub, "sub", "sub_"),
            0: (operator.mul, operator.imul, torch.mul, "mul", "mul_"),
        }.items()
        for function in functions
    },
    **dict.fromkeys(
        (operator.truediv, operator.itruediv, torch.div, "div", "div_"), (BOTH, _divided)
    ),
    operator.neg: (X, _negative), torch.neg: (X, _negative), "neg": (X, _negative),
    F.max_pool2d: (
        (*WINDOW, "dilation", "ceil_mode", "return_indices"), _sliding(mean=False),
    ),
    F.avg_pool2d: (
        (*WINDOW, "ceil_mode", "count_include_pad", "divisor_override"), _sliding(mean=True),
    ),
    F.adaptive_avg_pool2d: (("input", "output_size"), _adaptive(mean=True)),
    F.adaptive_max_pool2d: (
        ("input", "output_size", "return_indices"), _adaptive(mean=False),
    ),
    torch.mean: (("input", "dim", "keepdim"), _mean), "mean": (("input", "dim", "keepdim"), _mean),
    torch.cat: (("tensors", "dim"), _concatenated),
    torch.concat: (("tensors", "dim"), _concatenated),
    **dict.fromkeys(
        (
            torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, "flatten", "reshape",
            "view", "squeeze", "unsqueeze",
        ),
        (SHAPES, _reshaped),
    ),
    operator.getitem: (("input", "index"), _indexed),
    "contiguous": (X, _same), "float": (X, _same),
}  # fmt: skip
