"""A network in kernels of its own: it stands in for the network's `forward`."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from mnist_exp.engine import fallback
from mnist_exp.engine.execution import Program, tensor_of
from mnist_exp.engine.kernels import functions
from mnist_exp.engine.operations import Conv, Norm
from mnist_exp.engine.reads import UntraceableError, has_hooks
from mnist_exp.engine.trace import Segment, Traced, trace

WIDE = 48
"""Channels from which on torch's kernels are as quick: `python -m benchmarks kernels` compares."""
VERSIONS = 8
"""Traces that are kept: of training, of evaluation, of other sizes of images."""


class CompiledNetwork:
    """Computes what a network does, with the parameters, statistics and settings that it has at
    each call. What the engine cannot do, torch does: `through_torch` says what that was."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.through_torch: tuple[str, ...] = ()
        self._own_forward = network.forward
        self._replaced = "its forward is not of its class" * ("forward" in vars(network))
        self._versions: list[_Version] = []

    def unsuited(self, images: Tensor) -> str:
        """Why torch has to compute the whole network, as it is now, for such images; or ""."""
        return self._replaced or _unsuited(images) or self._version(images).unsuited

    @property
    def programs(self) -> list[Program]:
        """What it has run so far."""
        return [program for version in self._versions for program in version.programs.values()]

    @contextlib.contextmanager
    def standing_in(self) -> Iterator[None]:
        """In the block, calling the network computes here. It is the network itself that is called,
        so that whoever has it may do with it what torch's networks let do."""
        own = vars(self.network)
        before = {key: own[key] for key in ("forward",) if key in own}
        own["forward"] = self
        try:
            yield
        finally:
            if own.pop("forward", None) is self:  # unless somebody else has taken the place
                own.update(before)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives for images, float32 (N, C, H, W)."""
        reason = "it is called with more than images" if kwargs or len(args) != 1 else ""
        reason = self._replaced or reason or _unsuited(args[0])
        if not reason:
            version = self._version(args[0])
            reason = version.unsuited or version.unsuited_for(args[0])
        if reason:
            self._note((f"the whole network ({reason})",))
            return self._own_forward(*args, **kwargs)
        if version.traced.through_torch:
            self._note(version.traced.through_torch)
        return version.run(args[0])

    def cross_entropy(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        """The mean cross-entropy of what the network gives for images, (N, C), float32 (), and how
        many of them it classifies rightly, int64 (). Its gradients become those of the weights: the
        same as by autograd, sooner.

        None where autograd might do more, or the network is not computed here alone."""
        other = type(self.network).__call__ is not nn.Module.__call__ or has_hooks(self.network)
        more = self._replaced or other or torch.is_anomaly_enabled()
        if more or not torch.is_grad_enabled() or _unsuited(images):
            return None
        if not _are_whole(labels) or len(labels) != len(images):
            return None
        version = self._version(images)
        if version.unsuited or version.unsuited_for(images):
            return None
        return version.cross_entropy(images, labels)

    def __reduce__(self) -> Any:
        """A copy of the network, made or kept while this stands in, has a forward of its own."""
        return getattr, (self.network, "forward")

    def _note(self, names: tuple[str, ...]) -> None:
        self.through_torch = tuple(dict.fromkeys(self.through_torch + names))

    def _version(self, images: Tensor) -> "_Version":
        """The network traced as it is now, for images of this size."""
        for version in self._versions:
            if version.is_of(images):
                return version
        version = _Version(self.network, images)
        self._versions = [version, *self._versions][:VERSIONS]
        return version


def _unsuited(images: Any) -> str:
    """Why images are not for the engine, or ""."""
    if type(images) is not Tensor or _is_transformed():
        return "a transformation of torch's"
    if images.dtype != torch.float32 or images.device.type != "cpu" or images.dim() != 4:
        return f"images of {images.dtype}, on {images.device.type}, of {images.dim()} axes"
    if torch.is_autocast_enabled("cpu"):
        return "autocast"
    return "the gradient of its input" if images.requires_grad and torch.is_grad_enabled() else ""


def _is_transformed() -> bool:
    """Whether torch does more with what it computes than to compute it."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or forward_ad._current_level >= 0
        or _has_any_global_hook()
    )


class _Version:
    """A network as it was traced, for as long as it stays so: with the same modules and settings,
    and for images of this size. `unsuited` says why there is no trace, or is ""."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.network = network
        self.size = images.shape[1:]
        self.mode = network.training, torch.is_grad_enabled()
        self.unsuited = ""
        self.programs: dict[Any, Program] = {}
        try:
            self.traced = trace(network, images.detach())
        except UntraceableError as error:
            self.unsuited = str(error)
            return
        if _is_wide(self.traced, network):
            self.unsuited = f"convolutions of {WIDE} channels and more, for which torch is quicker"
            return
        (placeholder,) = self.traced.graph.find_nodes(op="placeholder")
        (output,) = self.traced.graph.find_nodes(op="output")
        self.input, self.result = placeholder.name, output.args[0]
        self.tensors = {
            part: {name: _place(network, name) for name in part.tensors}
            for part in self.traced.parts
            if isinstance(part, Segment)
        }
        self.shapes = [
            (places, key, places[key].shape)
            for own in self.tensors.values() for places, key in own.values()
        ]  # fmt: skip
        self.smallest = min(
            (math.prod(self.traced.sizes[operation.x][1:])
            for segment in self.tensors for operation in segment.operations
            if isinstance(operation, Norm) and not operation.fixed),
            default=2,
        )  # fmt: skip

    def is_of(self, images: Tensor) -> bool:
        """Whether the network is still so, and the images are of its size."""
        mode = self.network.training, torch.is_grad_enabled()
        if images.shape[1:] != self.size or mode != self.mode:
            return False
        if self.unsuited:
            return True
        same = all(
            (tensor := places.get(key)) is not None and tensor.shape == shape
            for places, key, shape in self.shapes
        )
        return same and self.traced.snapshot.is_now()

    def unsuited_for(self, images: Tensor) -> str:
        """Why it is not for such a batch, or ""."""
        for places, key, _ in self.shapes:
            if not _is_plain(places[key]) or not places[key].is_contiguous():
                return "tensors that are not contiguous float32"
        return "a batch of one number" if len(images) * self.smallest < 2 else ""

    def run(self, images: Tensor) -> Any:
        """What the network gives."""
        values: dict[str, Any] = {self.input: images}
        for number, part in enumerate(self.traced.parts):
            if isinstance(part, Segment):
                inputs = [values[name] for name in part.inputs]
                if all(map(partial(self._is_expected, images), part.inputs, inputs)):
                    values |= zip(part.outputs, self._segment(number, part, inputs), strict=True)
                else:
                    self._in_torch(part, values, len(images))
            else:
                values[part.name] = fallback.compute(
                    part, self.network, values, self.traced.sizes, len(images)
                )
        return _with_values(self.result, values)

    def _is_expected(self, images: Tensor, name: str, value: Any) -> bool:
        """Whether what torch has computed is as it was for the example."""
        return (
            isinstance(value, Tensor) and value.shape == (len(images), *self.traced.sizes[name])
            and _is_plain(value)
        )  # fmt: skip

    def _in_torch(self, segment: Segment, values: dict[str, Any], images: int) -> None:
        """Compute the values of a segment in torch, of an input in another size or type."""
        made = {operation.y for operation in segment.operations}
        for node in self.traced.graph.nodes:
            if node.name in made or (node.op == "get_attr" and node.name not in values):
                values[node.name] = fallback.compute(
                    node, self.network, values, self.traced.sizes, images
                )

    def cross_entropy(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        """As of the network; None where that is more than one segment, or its weights have
        gradients or hooks already."""
        segment = self.traced.parts[0]
        is_all = isinstance(self.result, fx.Node) and len(self.traced.parts) == 1
        if not is_all or not isinstance(segment, Segment) or segment.inputs != (self.input,):
            return None
        if segment.outputs != (self.result.name,) or len(self.traced.sizes[self.result.name]) != 1:
            return None
        tensors = self._tensors(segment)
        weights = [tensor for tensor in tensors.values() if tensor.requires_grad]
        are_tied = len(set(map(id, weights))) < len(weights)  # gradients that autograd would add
        if not weights or are_tied or not all(map(_awaits_gradient, weights)):
            return None
        (classes,) = self.traced.sizes[self.result.name]
        if not functions().are_classes(labels.data_ptr(), len(labels), classes):
            return None
        return self._program(0, segment, tensors, [images]).cross_entropy(tensors, images, labels)

    def _tensors(self, segment: Segment) -> dict[str, Tensor]:
        return {name: places[key] for name, (places, key) in self.tensors[segment].items()}

    def _segment(self, number: int, segment: Segment, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        tensors = self._tensors(segment)
        return self._program(number, segment, tensors, inputs).run(tensors, inputs)

    def _program(
        self, number: int, segment: Segment, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]
    ) -> Program:
        graded = torch.is_grad_enabled()
        wanted = tuple(name for name in tensors if graded and tensors[name].requires_grad)
        of_inputs = tuple(
            name for name, tensor in zip(segment.inputs, inputs, strict=True)
            if graded and tensor.requires_grad
        )  # fmt: skip
        key = number, wanted, of_inputs
        if key not in self.programs:
            own = self.network, wanted, of_inputs
            self.programs[key] = Program(segment, self.traced.sizes, *own)
        return self.programs[key]


def _are_whole(labels: Any) -> bool:
    """Whether each image has one number for a label."""
    return (
        type(labels) is Tensor and labels.dtype == torch.int64 and labels.dim() == 1
        and labels.device.type == "cpu" and labels.is_contiguous()
    )  # fmt: skip


def _awaits_gradient(weight: Tensor) -> bool:
    """Whether autograd would do no more than to give it its gradient."""
    return (
        weight.grad is None and weight.is_leaf and type(weight) in (nn.Parameter, Tensor)
        and not weight._backward_hooks and not weight._post_accumulate_grad_hooks
    )  # fmt: skip


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is as the kernels take it."""
    return (
        tensor.dtype == torch.float32 and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
    )  # fmt: skip


def _with_values(result: Any, values: dict[str, Any]) -> Any:
    """The result of a graph, in Python's own lists and dictionaries."""
    if isinstance(result, fx.Node):
        return values[result.name]
    if isinstance(result, list):
        return [_with_values(item, values) for item in result]
    if isinstance(result, dict):
        return {key: _with_values(item, values) for key, item in result.items()}
    if isinstance(result, tuple):
        items = (_with_values(item, values) for item in result)
        return type(result)(*items) if hasattr(result, "_fields") else tuple(items)
    return result


def _is_wide(traced: Traced, network: nn.Module) -> bool:
    """Whether most multiplications are in convolutions for which torch's kernels are made."""
    work = {True: 0, False: 0}
    for segment in traced.parts:
        for operation in segment.operations if isinstance(segment, Segment) else ():
            if isinstance(operation, Conv):
                weight = tensor_of(network, operation.weight)
                outputs, inputs, *taps = weight.shape
                narrow = min(inputs, outputs // operation.groups) < WIDE or math.prod(taps) == 1
                pixels = math.prod(traced.sizes[operation.y][1:])
                work[not narrow] += weight.numel() * pixels
    return work[True] > work[False]


def _place(network: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Where a module holds a tensor: the dictionary, and the key."""
    path, _, key = name.rpartition(".")
    own = vars(network.get_submodule(path))
    held = (own["_parameters"], own["_buffers"], own)
    return next(places for places in held if key in places), key
