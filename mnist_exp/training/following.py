"""Any network, followed operation by operation: what each tensor of it sees of the image.

Copies of the network run on noise. torch's dispatcher reports each tensor operation of the first as
it is carried out, and the rules say how it moves the field. Nothing is taken on trust: a second
copy is followed with other random numbers, and a third one sees the same images changed outside of
what was derived (`causality`).
"""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mnist_exp.common.copying import copied
from mnist_exp.common.randomness import random_states_kept
from mnist_exp.training import causality, torch_internals
from mnist_exp.training.axes import Axis, Field, ReceptiveFieldError, Row
from mnist_exp.training.call import Call, tensors_in
from mnist_exp.training.causality import Note
from mnist_exp.training.map_rules import MAP_RULES, SLIDING, join_maps
from mnist_exp.training.number_rules import (
    CELL_BY_CELL,
    NUMBER_RULES,
    join_numbers,
    stay_in_one_field,
)
from mnist_exp.training.sight import Sight, grid
from mnist_exp.training.torch_internals import TorchDispatchMode


@dataclass(frozen=True)
class Followed:
    """What came of following a network."""

    rows: Sequence[Row]
    """One for each spatial layer, up to where the network can be followed."""
    field: Field | None = None
    """Of the output; None where it is not known."""
    is_global: bool = False
    """Whether numbers that are the same for all cells come in besides."""
    stops: str = ""
    """Why the rows end before the network does; empty where they do not."""


def follow(module: nn.Module, input_shape: Sequence[int]) -> Followed:
    """Follow `module` for images of `input_shape` (channels, height, width).

    The module, and the random state of torch, numpy and Python, are left as they were. Raises
    TypeError for what is no module, and ValueError for no such shape.
    """
    if not isinstance(module, nn.Module):
        is_class = isinstance(module, type) and issubclass(module, nn.Module)
        given = f"a class: call it, as in {module.__name__}()" if is_class else f"{module!r:.60}"
        raise TypeError(f"a network is a torch module, as nn.Conv2d(1, 8, 3) is, and not {given}")
    sizes = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(
            f"input_shape is (channels, height, width), as in (1, 28, 28), and not {input_shape!r}"
        )
    try:
        return _follow(module, input_shape, plain=False)
    except causality.InfluenceError:
        # Fast kernels may compute neighbours together: then they differ by rounding.
        try:
            return _follow(module, input_shape, plain=True)
        except causality.InfluenceError as error:
            return Followed(error.rows, stops=str(error))


def _follow(module: nn.Module, input_shape: Sequence[int], *, plain: bool) -> Followed:
    """The same; raises InfluenceError where pixels outside of what was derived change a number."""
    found = _Recorder(causality.IMAGES, input_shape)
    again = _Recorder(2, input_shape)
    try:
        with repeatable(), torch_internals.kernels(plain=plain):
            network = _copy(module)
            found.run(network, causality.noise(causality.IMAGES, input_shape), seed=1)
            again.run(_copy(module), causality.noise(2, input_shape), seed=2)
            _check_agreement(found, again)
            _check_influence(found, network, module, input_shape)
    except causality.InfluenceError:
        raise
    except ReceptiveFieldError as error:
        return Followed(found.rows, stops=str(error))
    sight = found.result
    assert sight is not None
    is_global = sight.is_global and not _sees_all(sight.field, found.pixels)
    return Followed(found.rows, sight.field, is_global)


def _sees_all(field: Field, pixels: Sequence[int]) -> bool:
    return all(
        axis.seen(cell, size) == (0, size)
        for axis, size in zip(field, pixels, strict=True)
        for cell in range(axis.n)
    )


def _copy(module: nn.Module) -> nn.Module:
    try:
        return copied(module).cpu().float().eval()
    except Exception as error:  # whatever a network of the user's holds
        raise ReceptiveFieldError(
            f"the receptive field cannot be followed: {_in_words(error, 'copying the network')}"
        ) from error


def _in_words(error: Exception, doing: str) -> str:
    return f"{doing} raises {type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """In the block nothing is drawn from random states but what is seeded there; they are put back
    afterwards."""
    with random_states_kept(), torch.no_grad():
        yield


def _run(network: nn.Module, images: Tensor, seed: int) -> Any:
    """The output of a copy, with random numbers from `seed`."""
    torch.default_generator.manual_seed(seed)  # not that of a GPU, which no copy is on
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    try:
        return network(images)
    except ReceptiveFieldError:
        raise
    except Exception as error:  # whatever the network does: it is run on noise here
        raise ReceptiveFieldError(
            "the receptive field cannot be followed: "
            f"{_in_words(error, 'running the network on noise')}"
        ) from error


def _check_agreement(found: "_Recorder", again: "_Recorder") -> None:
    if (found.rows, found.result_field) != (again.rows, again.result_field):
        same = [a == b for a, b in zip(found.rows, again.rows, strict=False)]
        found.rows = found.rows[: (*same, False).index(False)]
        raise ReceptiveFieldError(
            "the receptive field cannot be followed: the network's layers see other pixels each "
            "time that it is run"
        )


def _check_influence(
    found: "_Recorder", network: nn.Module, module: nn.Module, input_shape: Sequence[int]
) -> None:
    """Raise ReceptiveFieldError where pixels outside of what was derived change a number."""
    regions = causality.regions(found.notes, found.pixels)
    images = causality.noise(causality.IMAGES, input_shape)
    probe, outputs = causality.noise(2, input_shape), []
    for level in causality.LEVELS:
        other = _copy(module)
        changed = causality.change(images, regions, level)
        with causality.Replay(found.rows, found.notes, regions):
            _run(other, changed, seed=1)
        outputs.append(_run(other, probe, seed=1))
    outputs.append(_run(network, probe, seed=1))
    if not all(causality.same(outputs[0], one) for one in outputs[1:]):
        raise ReceptiveFieldError(
            "the receptive field cannot be followed: what the network gives for an image depends "
            "on those that it has seen before"
        )


class _Recorder(TorchDispatchMode):
    """Carries what is seen along with every tensor that depends on the images."""

    def __init__(self, images: int, input_shape: Sequence[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.images, self.pixels = images, tuple(input_shape[1:])
        field = Axis(self.pixels[0]), Axis(self.pixels[1])
        self.start = Sight(field)
        self.rows = [Row("input", None, field)]
        # Each tensor is kept with its sight: an id is unique only while its object lives.
        self.seen: dict[int, tuple[Tensor, Sight]] = {}
        self.modules: list[tuple[str, bool]] = []
        self.notes: list[Note | None] = []
        """Of each operation that torch reports, in order; None where no image reaches it."""
        self.result: Sight | None = None
        self.thread = threading.get_ident()

    @property
    def result_field(self) -> Field | None:
        return self.result.field if self.result else None

    def run(self, network: nn.Module, images: Tensor, seed: int) -> None:
        """Follow `network`; `result` is what its output sees."""
        for name, layer in network.named_modules():
            is_leaf = next(layer.children(), None) is None
            layer.register_forward_pre_hook(self._entering(name, is_leaf))
            layer.register_forward_hook(self._leave, always_call=True)
        self.seen[id(images)] = images, self.start
        with self, _StayInTorch(self):
            output = _run(network, images, seed)
        if not isinstance(output, Tensor) or id(output) not in self.seen:
            raise ReceptiveFieldError(
                "the receptive field cannot be followed: the network's output does not depend on "
                "its input, as far as torch reports its operations"
            )
        self.result = self._of_output(output, self.seen[id(output)][1])
        self.seen.clear()

    def _entering(self, name: str, is_leaf: bool) -> Callable[..., None]:
        def enter(*_: object) -> None:
            if threading.get_ident() == self.thread:
                self.modules.append((name, is_leaf))

        return enter

    def _leave(self, *_: object) -> None:
        if threading.get_ident() == self.thread and self.modules:
            self.modules.pop()

    def _of_output(self, output: Tensor, sight: Sight) -> Sight:
        if sight.bounds is None:
            return sight
        field = grid(sight.bounds, sight.field)
        if field is None or (output.dim() == 4 and field[0].n * field[1].n > 1):
            raise ReceptiveFieldError(
                f"the receptive field cannot be followed through layer {sight.since}: its cells "
                "are in no order that a start and a jump describe"
            )
        return Sight(field, sight.bounds, sight.is_global)

    def layer(self, operation: str) -> str:
        """The innermost module; a functional call is named by its operation behind its module."""
        name, is_leaf = self.modules[-1] if self.modules else ("", False)
        return name if is_leaf and name else ".".join(filter(None, (name, operation)))

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operation = torch_internals.operation(function)
        sees = any(id(x) in self.seen for x in tensors_in((args, kwargs)))
        sees = sees and operation not in INDEPENDENT
        # Before it is carried out, where it writes into one of them.
        writes = sees and torch_internals.writes(function)
        given = [x for x in tensors_in((args, kwargs)) if sees]
        before = [x.clone() if writes and id(x) in self.seen else x for x in given]
        result = function(*args, **kwargs)
        self.notes.append(None)
        if sees:
            outputs = list(result) if isinstance(result, list | tuple) else [result]
            self._follow(function, args, kwargs, outputs, before)
        return result

    def _follow(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Any],
        before: list[Tensor],
    ) -> None:  # fmt: skip
        # An empty output is batch normalisation's unused buffer.
        filled = [x for x in outputs if isinstance(x, Tensor) and x.numel()]
        call = Call(
            function, args, kwargs, filled,
            seen=self.seen, layer=self.layer, images=self.images, pixels=self.pixels,
        )  # fmt: skip
        if not all(isinstance(x, Tensor) for x in outputs):
            raise call.error("takes a number out of the map")
        if not filled:
            raise call.error("leaves nothing of the map")
        sights = rule_of(call)
        for target in torch_internals.written(function, call.arguments):
            if id(target) not in self.seen or not _alike(self.seen[id(target)][1], sights[0]):
                raise call.error("writes another field into a tensor in place")
        note = Note(function, call.layer, len(self.rows), call.normalises)
        for x, earlier in zip(tensors_in((args, kwargs)), before, strict=True):
            held = any(x is one for one in call.frozen) or (call.normalises and x is args[0])
            note.arguments.append(earlier.clone() if held else None)
        self.rows += call.rows
        for output, sight in zip(filled, sights, strict=False):
            self.seen[id(output)] = output, sight
            note.outputs.append((output.clone(), sight))
        self.notes[-1] = note


def rule_of(call: Call) -> list[Sight]:
    """What each output of a call sees, by the rule for its operation."""
    operation = call.operation
    elementwise = torch.Tag.pointwise in call.function.tags or operation in CELL_BY_CELL
    margins = call.first.margins
    if any(margins) and not (operation in SLIDING or (elementwise and len(call.inputs) == 1)):
        raise call.error("takes copied cells of the border for others")
    if call.is_of_maps and operation in MAP_RULES and (found := MAP_RULES[operation](call)):
        return [found] * len(call.outputs)
    if operation in NUMBER_RULES:
        return NUMBER_RULES[operation](call)
    if elementwise:
        if any(margins):
            return [call.first]
        is_map = call.output.dim() == 4 and len(call.output) == call.images
        if call.is_of_maps and is_map:
            return [join_maps(call)] * len(call.outputs)
        return join_numbers(call)
    if call.sees_one_field() and all(len(x) == call.images for x in call.outputs if x.dim()):
        return stay_in_one_field(call)
    if operation in MAP_RULES:
        call.require_constants()
        since = next((one.since for _, one in call.inputs if one.since), operation)
        raise call.error(f"is given no map in its order, since {since}")
    raise call.error("does what no receptive field can be given for")


def _alike(before: Sight, after: Sight) -> bool:
    if before.bounds is None or after.bounds is None:
        same = before.bounds is after.bounds and before.field == after.field
    else:
        same = torch.equal(before.bounds, after.bounds)
    return same and before.is_global == after.is_global


class _StayInTorch(TorchFunctionMode):
    """Notices what the dispatcher does not report: a map that leaves torch."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function in LEAVES_TORCH and id(args[0]) in self.recorder.seen:
            layer = self.recorder.layer(function.__name__.strip("_"))
            raise ReceptiveFieldError(
                f"the receptive field cannot be followed through layer {layer}: it leaves torch"
            )
        return function(*args, **(kwargs or {}))


LEAVES_TORCH = {
    Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.__dlpack__, Tensor.__dlpack_device__,
    Tensor.untyped_storage, Tensor.data_ptr,
}  # fmt: skip
INDEPENDENT = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"}
INDEPENDENT |= {"new_zeros", "new_ones", "new_empty", "new_full", "randint_like"}
"""Operations whose result takes a tensor's shape and not its values."""
