"""Batches go through the programs of a segment, forward and backward."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mnist_exp.engine.kernels import functions
from mnist_exp.engine.plan import KernelPlan, carried_out_by
from mnist_exp.engine.schedule import KernelCall
from mnist_exp.engine.trace import Segment

Sizes = Mapping[str, tuple[int, ...]]


class Program:
    """A segment for which the library has a plan, and memory in which batches go through it.

    `wanted` are the tensors of the network, and `of_inputs` the inputs of the segment, whose
    gradients it makes. `sizes` are those of values, without the batch.
    """

    def __init__(
        self, segment: Segment, sizes: Sizes, network: nn.Module, wanted: Sequence[str],
        of_inputs: Sequence[str],
    ) -> None:  # fmt: skip
        lengths = {name: tensor_of(network, name).numel() for name in segment.tensors}
        self.plan = KernelPlan(segment, sizes, lengths, wanted, of_inputs=of_inputs)
        self.address = carried_out_by(self.plan)
        self.let_go = functions().plan_free  # at the end of Python, modules may be gone before this
        self.segment, self.wanted, self.of_inputs = segment, wanted, of_inputs
        self.sizes = [sizes[name] for name in segment.outputs]
        modules = (norm.module for norm in self.plan.draft.norms)
        self.norms = [network.get_submodule(name) for name in modules]
        self.dropouts: list[Any] = [  # whose p is read at each run, since a network may change it
            network.get_submodule(dropout.module) if dropout.module else dropout
            for dropout in self.plan.draft.dropouts
        ]
        self.free: list[_Memory] = []
        self.timed = False

    def run(self, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs of the segment, of which torch can ask the gradients that are wanted."""
        run = _Run(self, tensors, inputs)
        if not self.wanted and not self.of_inputs:
            return run.forward()
        of_inputs = [
            tensor for name, tensor in zip(self.segment.inputs, inputs, strict=True)
            if name in self.of_inputs
        ]  # fmt: skip
        graded: Sequence[Tensor] = _Graded.apply(
            run, *of_inputs, *(tensors[name] for name in self.wanted)
        )
        return graded

    def cross_entropy(
        self, tensors: Mapping[str, Tensor], images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy of the only output, (N, C), float32 (), and how many images are
        classified rightly, int64 (). Its gradients become those of the tensors that are wanted,
        which have none."""
        run = _Run(self, tensors, [images])
        (output,) = run.forward()
        gradient, loss = torch.empty_like(output), _empty()
        right = functions().cross_entropy(
            *(tensor.data_ptr() for tensor in (output, labels)), *output.shape,
            *(tensor.data_ptr() for tensor in (gradient, loss)),
        )  # fmt: skip
        for name, own in zip(self.wanted, run.backward([gradient]), strict=True):
            tensors[name].grad = own
        return loss, torch.tensor(right)

    def seconds(self) -> list[tuple[int, KernelCall, float]]:
        """Of each call: whether it is in the forward program (0) or the backward one (1), and its
        seconds of processor time while this was `timed`."""
        found = []
        for program, stages in enumerate(self.plan.draft.programs):
            calls = [call for stage in stages for call in stage.calls]
            seconds = (ctypes.c_double * len(calls))()
            functions().plan_seconds(self.address, program, seconds)
            found += [(program, call, own) for call, own in zip(calls, seconds, strict=True)]
        return found

    def memory(self, images: int) -> _Memory:
        """Memory that no other batch uses, for so many images."""
        tiles, threads = -(-images // functions().lanes()), torch.get_num_threads()
        for number, memory in enumerate(self.free):
            if memory.tiles >= tiles and memory.threads >= threads:
                return self.free.pop(number)
        return _Memory(self, tiles, threads)

    def __del__(self) -> None:
        if hasattr(self, "let_go"):
            self.let_go(self.address)


class _Memory:
    """Memory of a program, for so many tiles and threads."""

    def __init__(self, program: Program, tiles: int, threads: int) -> None:
        self.tiles, self.threads = tiles, threads
        address = functions().memory_new(program.address, tiles, threads)
        if not address:
            raise MemoryError("no memory is left for a batch of this size")
        self.address = ctypes.c_void_p(address)
        self.let_go = functions().memory_free

    def __del__(self) -> None:
        if hasattr(self, "let_go"):
            self.let_go(self.address)


class _Run:
    """One batch in a program: forward, and then backward as often as torch asks for it. Its memory
    is its own as long as it lasts, so that a second batch may come before the first goes back."""

    def __init__(
        self, program: Program, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]
    ) -> None:
        self.program, self.tensors = program, tensors
        self.images = len(inputs[0])
        self.inputs = [tensor.detach().contiguous() for tensor in inputs]
        momenta = map(_momentum, program.norms)
        self.numbers = (ctypes.c_double * (len(program.norms) or 1))(*momenta)
        self.integers = (ctypes.c_int64 * (2 * len(program.dropouts) or 1))(
            *(number for dropout in program.dropouts for number in _kept_and_seed(dropout.p))
        )
        self.memory = program.memory(self.images)
        self.went_back = False

    def forward(self) -> list[Tensor]:
        """The outputs of the segment."""
        outputs = [_empty(self.images, *size) for size in self.program.sizes]
        self._carry_out(0, {"output": outputs})
        return outputs

    def backward(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of inputs and of tensors, from those of the outputs."""
        if self.went_back:  # which left nothing of what the forward pass had kept
            running = {name: tensor.clone() for name, tensor in self.tensors.items()}
            outputs = [_empty(self.images, *size) for size in self.program.sizes]
            self._carry_out(0, {"output": outputs, "weight": running})
        self.went_back = True
        own = {name: _empty(*self.tensors[name].shape) for name in self.program.wanted}
        numbers = map(self.program.segment.inputs.index, self.program.of_inputs)
        of_inputs = {number: _empty(*self.inputs[number].shape) for number in numbers}
        given = [gradient.contiguous() for gradient in gradients]
        self._carry_out(1, {"output gradient": given, "gradient": own, "input gradient": of_inputs})
        return [*of_inputs.values(), *own.values()]

    def _carry_out(self, program: int, tensors: dict[str, Any]) -> None:
        tensors = {"weight": self.tensors, "input": self.inputs} | tensors
        addresses = [
            tensors[kind][which].data_ptr() if kind in tensors else None
            for kind, which in self.program.plan.tensors
        ]
        functions().set_threads(min(self.memory.threads, torch.get_num_threads()))
        functions().plan_run(
            self.program.address, self.memory.address, program, self.images,
            (ctypes.c_void_p * len(addresses))(*addresses), self.numbers, self.integers,
            int(self.program.timed),
        )  # fmt: skip

    def __del__(self) -> None:
        if hasattr(self, "memory"):
            self.program.free.append(self.memory)


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


def _empty(*size: int) -> Tensor:
    return torch.empty(size, dtype=torch.float32, device="cpu")


def tensor_of(network: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its dotted name."""
    module, _, own = name.rpartition(".")
    tensor: Tensor = getattr(network.get_submodule(module), own)
    return tensor


def _momentum(norm: Any) -> float:
    """With what weight the statistics of a batch enter the moving ones, after counting it."""
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            return 1 / int(norm.num_batches_tracked)
    return float(norm.momentum or 0)


def _kept_and_seed(p: float) -> tuple[int, int]:
    """What dropout keeps, in 2**-16, and from what it draws its masks."""
    return round((1 - p) * 2**16), int(torch.randint(2**62, ()))
