"""What the code of an iteration remembers from step to step, wherever it keeps it.

Numbers may depend on it only later, as on a counter that is looked at after an epoch. So a trial
compares it, besides the numbers, between a resumed training and an uninterrupted one.
"""

import random
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnist_exp.common.sameness import bytes_of
from mnist_exp.notebook.entries import Entry
from mnist_exp.training import beside
from mnist_exp.training.loop import Training

COMPARED = nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler
"""What a checkpoint holds, so that it is compared there."""


def remembered(entry: Entry, training: Training) -> object:
    """A value that is the same for trainings whose code remembers the same: in the attributes of
    modules, in what the recipe names, and in the globals and classes of what the iteration and its
    helpers define there."""
    memory = _Memory(entry)
    modules = list(training.network.modules())
    stepped = training.optimizer, training.schedule, training.batch_schedule
    return [
        [memory.items(module) for module in modules],
        [memory.all(vars(kind).values()) for module in modules for kind in type(module).__mro__],
        memory.items(training.recipe),
        [memory.items(part) for part in stepped if memory.is_own(type(part))],
    ]


def is_shared(entry: Entry, network: nn.Module, average: nn.Module) -> bool:
    """Whether the average of a network has what its network has in objects that no checkpoint
    carries. What it carries, the average takes over."""

    def beyond(whole: nn.Module) -> object:
        memory, carried = _Memory(entry), beside.read_attributes(whole)
        # A recurrent layer lists its weights once more; they differ, since they are averaged.
        memory.seen.update((id(x), x) for x in (*whole.parameters(), *whole.buffers()))
        return [
            {
                key: memory.state(value)
                for key, value in sorted(vars(module).items())  # copying changes their order
                if key not in beside.OF_TORCH and key not in carried[name]
            }
            for name, module in whole.named_modules()
        ]

    return beyond(network) == beyond(average)


class _Memory:
    """Takes values apart, each once, so that what refers to itself has an end."""

    def __init__(self, entry: Entry) -> None:
        self.files = {str(entry.folder / name) for name in (entry.path.name, *entry.helpers)}
        self.seen: dict[int, object] = {}
        """By their ids, which are unique only while the objects live."""

    def is_own(self, value: Any) -> bool:
        """Whether it is a function, or a class with one, that the iteration or a helper defines."""
        if isinstance(value, type):
            return any(map(self.is_own, vars(value).values()))
        return isinstance(value, types.FunctionType) and value.__code__.co_filename in self.files

    def items(self, value: object) -> object:
        """The attributes of an object, but for those whose content a checkpoint has."""
        known = {*beside.OF_TORCH, "param_groups", "state"} if isinstance(value, COMPARED) else ()
        slots = [x for kind in type(value).__mro__ for x in getattr(kind, "__slots__", ())]
        named = {k: getattr(value, k) for k in slots if hasattr(value, k)}
        named |= getattr(value, "__dict__", {})
        return self.named({k: x for k, x in named.items() if k not in known})

    def named(self, values: Mapping[Any, Any]) -> object:
        return [
            (repr(key), self.state(value))
            for key, value in sorted(values.items(), key=lambda item: repr(item[0]))
            if not str(key).startswith("__")
        ]

    def all(self, values: Iterable[Any]) -> object:
        return [self.state(value) for value in values]

    def state(self, value: Any) -> object:
        """What there is of a value to compare; None where that is nothing."""
        if isinstance(value, bool | int | float | complex | str | bytes):
            return repr(value)  # nan is not equal to itself
        if id(value) in self.seen or isinstance(value, (*COMPARED, types.ModuleType)):
            return None
        self.seen[id(value)] = value
        if isinstance(value, Tensor):
            return value.dtype, value.shape, bytes_of(value)
        if isinstance(value, np.ndarray):
            return value.dtype, value.shape, value.tobytes()
        if type(value) in beside.GENERATORS and not isinstance(value, random.Random):
            return repr(beside.GENERATORS[type(value)][0](value))
        if isinstance(value, random.Random):
            return None if isinstance(value, random.SystemRandom) else value.getstate()
        if isinstance(value, Mapping):
            return self.named(value)
        if isinstance(value, list | tuple | set | frozenset):
            return self.all(
                sorted(value, key=repr) if isinstance(value, set | frozenset) else value
            )
        if isinstance(value, partial):
            return self.all([value.func, *value.args, *value.keywords.values()])
        if isinstance(value, type | types.FunctionType):
            return [self.items(value), self.around(value)] if self.is_own(value) else None
        text = repr(value)  # as of itertools.count(3)
        if isinstance(value, Iterator) and " at 0x" in text:
            return object()  # it does not tell where it is, so it is another than any
        if hasattr(value, "__dict__") or hasattr(type(value), "__slots__"):
            return type(value).__qualname__, self.items(value)
        return None if " at 0x" in text else text

    def around(self, value: Any) -> object:
        """What a function takes from around it: from another function, and from its file."""
        cells = getattr(value, "__closure__", None) or ()
        held = [cell.cell_contents for cell in cells if cell != types.CellType()]
        defaults = (getattr(value, f"__{name}__", None) for name in ("defaults", "kwdefaults"))
        return self.all([*held, *defaults, getattr(value, "__globals__", None)])
