"""A network in kernels of its own: it stands in for the network's `forward`."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn

from mnist_exp.engine import fallback
from mnist_exp.engine.execution import Program
from mnist_exp.engine.operations import Norm
from mnist_exp.engine.trace import Segment, UntraceableError, trace

VERSIONS = 8
"""Traces that are kept: of training, of evaluation, of other sizes of images."""


class CompiledNetwork:
    """Computes what a network does, with the parameters, statistics and settings that it has at
    each call. What the engine cannot do, torch does: `through_torch` says what that was."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.through_torch: tuple[str, ...] = ()
        self._own_forward = network.forward
        self._versions: list[_Version] = []

    def unsuited(self, images: Tensor) -> str:
        """Why torch has to compute the whole network, as it is now, for such images; or ""."""
        return _unsuited(images) or self._version(images).unsuited

    @contextlib.contextmanager
    def standing_in(self) -> Iterator[None]:
        """In the block, calling the network computes here. It is the network itself that is called,
        so that whoever has it may do with it what torch's networks let do."""
        vars(self.network)["forward"] = self
        try:
            yield
        finally:
            del vars(self.network)["forward"]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives for images, float32 (N, C, H, W)."""
        reason = "it is called with more than images" if kwargs or len(args) != 1 else ""
        reason = reason or _unsuited(args[0])
        if not reason:
            version = self._version(args[0])
            reason = version.unsuited or version.unsuited_for(args[0])
        if reason:
            self._note((f"the whole network ({reason})",))
            return self._own_forward(*args, **kwargs)
        if version.traced.through_torch:
            self._note(version.traced.through_torch)
        return version.run(args[0])

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the network, made while this stands in, has a forward of its own."""
        return MethodType(type(self.network).forward, memo[id(self.network)])

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
    if type(images) is not Tensor or torch._C._functorch.peek_interpreter_stack() is not None:
        return "a transformation of torch's"
    if images.dtype != torch.float32 or images.device.type != "cpu" or images.dim() != 4:
        return f"images of {images.dtype}, on {images.device.type}, of {images.dim()} axes"
    if torch.is_autocast_enabled("cpu"):
        return "autocast"
    return "the gradient of its input" if images.requires_grad and torch.is_grad_enabled() else ""


class _Version:
    """A network as it was traced, for as long as it stays so: with the same modules and settings,
    and for images of this size. `unsuited` says why there is no trace, or is ""."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.network = network
        self.size = images.shape[1:]
        # Shallow copies, of what is compared at each call: twenty modules take ten microseconds.
        self.modules = [
            (module, dict(_settings(module)), dict(module._modules)) for module in network.modules()
        ]
        self.unsuited = ""
        self.programs: dict[Any, Program] = {}
        try:
            self.traced = trace(network, images.detach())
        except UntraceableError as error:
            self.unsuited = str(error)
            return
        (placeholder,) = self.traced.graph.find_nodes(op="placeholder")
        (output,) = self.traced.graph.find_nodes(op="output")
        self.input, self.result = placeholder.name, output.args[0]
        self.tensors = {
            part: {name: _place(network, name) for name in part.tensors}
            for part in self.traced.parts
            if isinstance(part, Segment)
        }
        self.smallest = min(
            (math.prod(self.traced.sizes[operation.x][1:])
            for segment in self.tensors for operation in segment.operations
            if isinstance(operation, Norm) and not operation.fixed),
            default=2,
        )  # fmt: skip

    def is_of(self, images: Tensor) -> bool:
        """Whether the network is still so, and the images are of its size."""
        if images.shape[1:] != self.size:
            return False
        try:
            same = all(
                _settings(module) == settings and module._modules == modules
                for module, settings, modules in self.modules
            )
        except (RuntimeError, ValueError):  # of tensors and arrays that are compared
            return False
        reads = () if self.unsuited else self.traced.reads
        return same and all(names.get(name) == value for names, name, value in reads)

    def unsuited_for(self, images: Tensor) -> str:
        """Why it is not for such a batch, or ""."""
        tensors = (places[key] for own in self.tensors.values() for places, key in own.values())
        if not all(
            tensor.dtype == torch.float32 and tensor.is_contiguous() and tensor.device.type == "cpu"
            for tensor in tensors
        ):
            return "tensors that are not contiguous float32"
        return "a batch of one number" if len(images) * self.smallest < 2 else ""

    def run(self, images: Tensor) -> Any:
        """What the network gives."""
        values: dict[str, Any] = {self.input: images}
        for number, part in enumerate(self.traced.parts):
            if isinstance(part, Segment):
                inputs = [values[name] for name in part.inputs]
                values |= zip(part.outputs, self._segment(number, part, inputs), strict=True)
            else:
                values[part.name] = fallback.compute(
                    part, self.network, values, self.traced.sizes, len(images)
                )
        return fx.node.map_arg(self.result, lambda node: values[node.name])

    def _segment(self, number: int, segment: Segment, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        tensors = {name: places[key] for name, (places, key) in self.tensors[segment].items()}
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
        return self.programs[key].run(tensors, inputs)


def _settings(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module, without what stands in for its forward."""
    own = vars(module)
    return {key: own[key] for key in own if key != "forward"} if "forward" in own else own


def _place(network: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Where a module holds a parameter or buffer: the dictionary, and the key."""
    path, _, key = name.rpartition(".")
    module = network.get_submodule(path)
    return (module._parameters if key in module._parameters else module._buffers), key
