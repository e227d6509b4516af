"""What the code of an iteration remembers from step to step, wherever it keeps it.

Numbers may depend on it only later, as on a counter that is looked at after an epoch. So a trial
compares it, besides the numbers, between a resumed training and an uninterrupted one.
"""

import random
import types
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnist_exp.notebook.entries import Entry
from mnist_exp.training import beside
from mnist_exp.training.loop import Training

COMPARED = nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler
"""What a checkpoint holds, so that it is compared there."""


def remembered(entry: Entry, training: Training) -> object:
    """A value that is the same for trainings whose code remembers the same: in the attributes of
    modules, in what the recipe names, in globals and classes of the iteration and its helpers."""
    memory = _Memory(entry)
    modules = list(training.network.modules())
    stepped = training.optimizer, training.schedule, training.batch_schedule
    return [
        [memory.items(module) for module in modules],
        [memory.globals_of(type(module)) for module in modules],
        memory.items(training.recipe),
        [memory.items(part) for part in stepped if memory.is_own(type(part))],
    ]


class _Memory:
    """Takes values apart, each once, so that what refers to itself has an end."""

    def __init__(self, entry: Entry) -> None:
        self.files = {str(entry.folder / name) for name in (entry.path.name, *entry.helpers)}
        self.seen: dict[int, object] = {}
        """By their ids, which are unique only while the objects live."""

    def globals_of(self, kind: type) -> object:
        """The globals of the files that define a class, or one that it inherits from."""
        functions = [x for parent in kind.__mro__ for x in vars(parent).values() if self.is_own(x)]
        return [self.named(function.__globals__) for function in functions[:1]]

    def is_own(self, value: Any) -> bool:
        """Whether it is a function, or a class with one, that the iteration or a helper defines."""
        if isinstance(value, type):
            return any(map(self.is_own, vars(value).values()))
        return isinstance(value, types.FunctionType) and value.__code__.co_filename in self.files

    def items(self, value: object) -> object:
        """The attributes of an object, but for those whose content a checkpoint has."""
        known = {*beside.OF_TORCH, "param_groups", "state"} if isinstance(value, COMPARED) else ()
        return self.named({k: x for k, x in vars(value).items() if k not in known})

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
            return value
        if id(value) in self.seen or isinstance(value, (*COMPARED, types.ModuleType)):
            return None
        self.seen[id(value)] = value
        if isinstance(value, Tensor):
            return value.dtype, value.shape, value.detach().cpu().numpy(force=True).tobytes()
        if isinstance(value, np.ndarray):
            return value.dtype, value.shape, value.tobytes()
        if type(value) in beside.GENERATORS and not isinstance(value, random.Random):
            return repr(beside.GENERATORS[type(value)][0](value))
        if isinstance(value, random.Random):
            return value.getstate()
        if isinstance(value, Mapping):
            return self.named(value)
        if isinstance(value, list | tuple | set | frozenset):
            return self.all(
                sorted(value, key=repr) if isinstance(value, set | frozenset) else value
            )
        if isinstance(value, partial):
            return self.all([value.func, *value.args, *value.keywords.values()])
        if isinstance(value, type | types.FunctionType):
            return [self.items(value), self.closure(value)] if self.is_own(value) else None
        if hasattr(value, "__dict__"):
            return type(value).__qualname__, self.items(value)
        text = repr(value)  # as of itertools.count(3)
        return None if " at 0x" in text else text

    def closure(self, value: Any) -> object:
        """What a function takes from around it."""
        cells = getattr(value, "__closure__", None) or ()
        return self.all([cell.cell_contents for cell in cells if cell != types.CellType()])
