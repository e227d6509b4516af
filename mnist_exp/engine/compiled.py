"""A network in kernels of its own: it stands in for the network's `forward`."""

import contextlib
import ctypes
import itertools
from collections.abc import Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn

from mnist_exp.engine import fallback, library
from mnist_exp.engine.plan import Plan, carried_out_by
from mnist_exp.engine.trace import Segment, Traced, UntraceableError, trace

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
            reason = version.unsuited or version.unsuited_for(len(args[0]))
        if reason:
            self._note((f"the whole network ({reason})",))
            return self._own_forward(*args, **kwargs)
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
    """A network as it was traced, and as long as it is so: with these modules and settings, for
    images of this size."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.network = network
        self.size = images.shape[1:]
        self.modules = list(network.modules())
        self.settings = [dict(vars(module)) for module in self.modules]
        self.unsuited = ""
        self.executions: dict[Any, _Program] = {}
        try:
            self.traced = trace(network, images.detach())
        except UntraceableError as error:
            self.unsuited = str(error)
            return
        named = itertools.chain(network.named_parameters(remove_duplicate=False),
                                network.named_buffers(remove_duplicate=False))  # fmt: skip
        self.lengths = {name: tensor.numel() for name, tensor in named}

    def is_of(self, images: Tensor) -> bool:
        """Whether it is the network as it is now."""
        modules = list(self.network.modules())
        return (
            images.shape[1:] == self.size
            and len(modules) == len(self.modules)
            and all(
                one is other and _same(vars(one), settings)
                for one, other, settings in zip(modules, self.modules, self.settings, strict=True)
            )
            and all(names.get(name) == value for names, name, value in self._reads())
        )

    def _reads(self) -> tuple[Any, ...]:
        return () if self.unsuited else self.traced.reads

    def unsuited_for(self, images: int) -> str:
        """Why the engine cannot take a batch of so many images, or ""."""
        if images == 0:
            return "no image"
        return ""

    def run(self, images: Tensor) -> Any:
        """What the network gives."""
        (placeholder,) = self.traced.graph.find_nodes(op="placeholder")
        values: dict[str, Any] = {placeholder.name: images}
        for part in self.traced.parts:
            if isinstance(part, Segment):
                given = [values[name] for name in part.inputs]
                values |= zip(part.outputs, self._segment(part, given), strict=True)
            else:
                values[part.name] = fallback.compute(
                    part, self.network, values, self.traced.sizes, len(images)
                )
        (output,) = self.traced.graph.find_nodes(op="output")
        return fx.node.map_arg(output.args[0], lambda node: values[node.name])

    def _segment(self, segment: Segment, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        names = segment.tensors
        tensors = [_tensor(self.network, name) for name in names]
        graded = torch.is_grad_enabled()
        wanted = [
            name for name, tensor in zip(names, tensors, strict=True)
            if graded and tensor.requires_grad
        ]  # fmt: skip
        of_inputs = [
            name for name, tensor in zip(segment.inputs, inputs, strict=True)
            if graded and tensor.requires_grad
        ]  # fmt: skip
        key = segment, tuple(wanted), tuple(of_inputs)
        if key not in self.executions:
            self.executions[key] = _Program(segment, self.traced, self.lengths, wanted, of_inputs)
        program = self.executions[key]
        by_name = dict(zip(names, tensors, strict=True))
        run = _Run(program, self.network, by_name, inputs)
        if not wanted and not of_inputs:
            return run.forward()
        graded_tensors = [by_name[name] for name in wanted]
        graded_inputs = [
            tensor for name, tensor in zip(segment.inputs, inputs, strict=True) if name in of_inputs
        ]
        return _Graded.apply(run, *graded_inputs, *graded_tensors)  # type: ignore[no-any-return]


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the attributes of a module are the same objects, or equal numbers and texts."""
    if one.keys() - {"forward"} != other.keys() - {"forward"}:
        return False
    return all(
        one[key] is value or (isinstance(value, int | float | str | tuple) and one[key] == value)
        for key, value in other.items()
        if key != "forward"
    )


def _tensor(network: nn.Module, name: str) -> Tensor:
    module, _, own = name.rpartition(".")
    tensor: Tensor = getattr(network.get_submodule(module), own)
    return tensor


class _Program:
    """A plan that the library has, and memory in which it runs."""

    def __init__(
        self, segment: Segment, traced: Traced, lengths: dict[str, int], wanted: Sequence[str],
        of_inputs: Sequence[str],
    ) -> None:  # fmt: skip
        self.functions = library.load()
        self.plan = Plan(segment, traced.sizes, lengths, wanted, of_inputs=of_inputs)
        self.handle = ctypes.c_void_p(carried_out_by(self.plan, self.functions))
        self.segment, self.wanted, self.of_inputs = segment, wanted, of_inputs
        self.sizes = [traced.sizes[name] for name in segment.outputs]
        self.free: list[_Memory] = []

    def memory(self, images: int) -> "_Memory":
        """Memory that nobody uses, for so many images."""
        tiles, threads = -(-images // self.functions.lanes()), torch.get_num_threads()
        for number, memory in enumerate(self.free):
            if memory.tiles >= tiles and memory.threads >= threads:
                return self.free.pop(number)
        return _Memory(self, tiles, threads)

    def __del__(self) -> None:
        self.free.clear()
        self.functions.plan_free(self.handle)


class _Memory:
    """Memory of a program."""

    def __init__(self, program: _Program, tiles: int, threads: int) -> None:
        self.functions, self.tiles, self.threads = program.functions, tiles, threads
        address = self.functions.memory_new(program.handle, tiles, threads)
        if not address:
            raise MemoryError("no memory is left for a batch of this size")
        self.address = ctypes.c_void_p(address)

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self.functions.memory_free(self.address)


class _Run:
    """One batch in a program: forward, and then backward as often as torch asks for it. Its memory
    is its own as long as it lasts, so that a second batch may come before the first goes back."""

    def __init__(
        self, program: _Program, network: nn.Module, tensors: dict[str, Tensor],
        inputs: Sequence[Tensor],
    ) -> None:  # fmt: skip
        self.program = program
        self.images = len(inputs[0])
        self.tensors = tensors
        self.inputs = [tensor.detach().contiguous() for tensor in inputs]
        self.memory = program.memory(self.images)
        plan = program.plan
        self.numbers = (ctypes.c_double * (len(plan.norms) + 1))(
            *(_momentum(network.get_submodule(norm.module)) for norm in plan.norms)
        )
        self.integers = (ctypes.c_int64 * (2 * len(plan.dropouts) + 1))()
        if plan.dropouts:
            seeds = torch.randint(2**62, (len(plan.dropouts),)).tolist()
            for number, (dropout, seed) in enumerate(zip(plan.dropouts, seeds, strict=True)):
                p = network.get_submodule(dropout.module).p if dropout.module else dropout.p
                self.integers[2 * number] = round((1 - p) * 2**16)
                self.integers[2 * number + 1] = seed

    def forward(self) -> list[Tensor]:
        """The outputs of the segment."""
        outputs = [torch.empty(self.images, *size) for size in self.program.sizes]
        self._carry_out(0, {"output": outputs})
        return outputs

    def backward(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of inputs and of tensors, from those of the outputs."""
        own = {name: torch.empty_like(self.tensors[name]) for name in self.program.wanted}
        names = self.program.segment.inputs
        of_inputs = {
            names.index(name): torch.empty_like(self.inputs[names.index(name)])
            for name in self.program.of_inputs
        }
        given = [gradient.contiguous() for gradient in gradients]
        self._carry_out(
            1, {"output gradient": given, "gradient": own, "input gradient": of_inputs}
        )
        return [*of_inputs.values(), *own.values()]

    def _carry_out(self, program: int, tensors: dict[str, Any]) -> None:
        tensors = {"weight": self.tensors, "input": self.inputs, **tensors}
        addresses = [
            tensors[kind][which].data_ptr() if kind in tensors else None
            for kind, which in self.program.plan.tensors
        ]
        functions = self.program.functions
        functions.set_threads(min(self.memory.threads, torch.get_num_threads()))
        functions.plan_run(
            self.program.handle, self.memory.address, program, self.images,
            (ctypes.c_void_p * len(addresses))(*addresses), self.numbers, self.integers, 0,
        )  # fmt: skip

    def __del__(self) -> None:
        self.program.free.append(self.memory)


def _momentum(norm: Any) -> float:
    """With what weight the statistics of a batch enter the moving ones, after counting it."""
    if norm.num_batches_tracked is None:
        return 0.0
    if not norm.training:
        return 0.0
    norm.num_batches_tracked.add_(1)
    return 1 / int(norm.num_batches_tracked) if norm.momentum is None else float(norm.momentum)


class _Graded(torch.autograd.Function):
    """A run of which torch asks the gradients."""

    @staticmethod
    def forward(ctx: Any, run: _Run, *tensors: Tensor) -> Any:
        ctx.run = run
        ctx.save_for_backward(*tensors)  # so that torch notices who changes one before backward
        return tuple(run.forward())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        _ = ctx.saved_tensors
        return None, *ctx.run.backward(gradients)
