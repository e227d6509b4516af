"""A segment of a network as a program of kernel calls: which kernels, over which buffers.

`KernelPlan` writes the program down, forward and backward; `plan.cpp` carries it out. Backward is
written as the forward is: each operation leaves behind what undoes it, and they are called in the
opposite order.
"""

import ctypes
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from mnist_exp.engine import convolution, elementwise, operations, shaping
from mnist_exp.engine.draft import PlanDraft, Tensor
from mnist_exp.engine.kernels import functions
from mnist_exp.engine.operations import Conv, Map, Operation, fused
from mnist_exp.engine.schedule import Buffer, lay_out
from mnist_exp.engine.trace import Segment

EMIT: Mapping[type[Operation], Callable[[PlanDraft, Any], None]] = {
    operations.Same: shaping.same_numbers,
    operations.Conv: convolution.convolution,
    operations.Map: elementwise.map_numbers,
    operations.Combine: elementwise.combine,
    operations.Affine: elementwise.affine,
    operations.Pool: shaping.pooling,
    operations.Concatenate: shaping.concatenate,
    operations.Flatten: shaping.flatten,
    operations.LogSoftmax: shaping.log_softmax,
}
"""What writes down an operation, and what undoes it."""


class KernelPlan:
    """The programs of a segment: forward, and backward for the `wanted` tensors of the network and,
    if so, the segment's inputs. Without any it is for evaluation, and keeps nothing.

    `tensors` are those that a run is given, in order, once the library has the plan; `sizes` are
    the floats that a tile, a thread and all together need.
    """

    def __init__(
        self, segment: Segment, sizes: Mapping[str, tuple[int, ...]],
        lengths: Mapping[str, int], wanted: Collection[str], *, of_inputs: Collection[str],
    ) -> None:  # fmt: skip
        self.draft = PlanDraft(sizes, lengths, wanted, of_inputs)
        self.tensors: list[Tensor] = []
        self._forward(segment)
        if wanted or of_inputs:
            self._backward(segment, of_inputs)
        self.sizes = lay_out(self.draft.buffers, self.draft.programs)

    def _forward(self, segment: Segment) -> None:
        draft = self.draft
        draft.programs.append([draft.setup])
        for number, name in enumerate(segment.inputs):
            value = draft.make(name)
            draft.tiles("load", ("input", number), value, *draft.flat(name), 0, makes=value)
        operations = fused(segment.operations, segment.outputs)
        draft.rectified = _behind_a_relu(operations, segment.outputs)
        for operation in operations:
            depends = not draft.needs_gradient.isdisjoint(operation.xs)
            if depends or not draft.wanted.isdisjoint(operation.tensors):
                draft.needs_gradient.add(operation.y)
            EMIT[type(operation)](draft, operation)
        for number, name in enumerate(segment.outputs):
            self._store(draft.values[name], name, ("output", number))

    def _backward(self, segment: Segment, of_inputs: Collection[str]) -> None:
        draft = self.draft
        draft.programs.append([])
        for number, name in enumerate(segment.outputs):
            if name in draft.needs_gradient:
                gradient = draft.buffer_like(name)
                arguments = ("output gradient", number), gradient, *draft.flat(name), 1
                draft.tiles("load", *arguments, makes=gradient)
                draft.give(name, gradient)
        for undo in reversed(draft.undo):
            undo()
        for number, name in enumerate(segment.inputs):
            if name in of_inputs:
                self._store(draft.gradients[name], name, ("input gradient", number))
        for weight, partials in draft.partials.items():
            of_weight = draft.gradient_of(weight)
            draft.once("sum_tiles", partials, len(partials), *of_weight, draft.lengths[weight])

    def _store(self, value: Buffer, name: str, tensor: Tensor) -> None:
        sizes, needs = self.draft.flat(name), [self.draft.all_of(value, name)]
        self.draft.tiles("store", value, tensor, *sizes, needs=needs)


def _behind_a_relu(operations: list[Operation], outputs: Iterable[str]) -> set[str]:
    """The values that a convolution with a ReLU makes for a normalisation only, which undoes the
    ReLU in the same pass."""
    users = Counter(outputs)
    for operation in operations:
        users.update(operation.xs)
    made = {one.y for one in operations if isinstance(one, Conv) and one.relu}
    normed = {one.x for one in operations if isinstance(one, Map) and one.norm}
    return {name for name in made & normed if users[name] == 1}


def carried_out_by(plan: KernelPlan) -> ctypes.c_void_p:
    """Hand a plan over to the library; returns its address there."""
    handle = ctypes.c_void_p(functions().plan_new())
    functions().plan_sizes(handle, *map(ctypes.c_int64, plan.sizes))
    for buffer in sorted(plan.draft.buffers, key=lambda buffer: buffer.number):
        place = ctypes.c_int64(buffer.offset), ctypes.c_int64(buffer.floats)
        functions().plan_buffer(handle, buffer.kind, *place, buffer.rows)
    numbers = {tensor: number for number, tensor in enumerate(plan.tensors)}

    def converted(argument: Any) -> Any:
        if isinstance(argument, Buffer):
            return argument.number
        if isinstance(argument, list):
            return (ctypes.c_int * len(argument))(*(buffer.number for buffer in argument))
        if isinstance(argument, tuple):
            return numbers.setdefault(argument, len(numbers))
        return ctypes.c_double(argument) if isinstance(argument, float) else argument

    for stages in plan.draft.programs:
        functions().plan_program(handle)
        for stage in stages:
            functions().plan_stage(handle, int(stage.of_tiles))
            for call in stage.calls:
                getattr(functions(), f"add_{call.kernel}")(handle, *map(converted, call.arguments))
            for part in stage.steps:
                functions().plan_step(handle, part.call, part.first, part.end)
    plan.tensors[:] = numbers
    return handle
