"""What a network's code reads beside its input and its tensors: settings, globals, its own lists.

A trace holds as long as all that is the same. What may change without being seen, such as a
generator or an iterator, makes a network one that cannot be followed.
"""

import contextlib
import dis
import functools
import gc
import itertools
import os
import signal
import sys
import sysconfig
from collections.abc import Callable, Container, Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class UntraceableError(Exception):
    """A network cannot be followed; the text says why, in a line."""


Read = tuple[Callable[[], Any], Any]
"""How to read a value, and what `frozen` made of it."""

NOT_THE_USERS = (
    str(Path(torch.__file__).parent), sysconfig.get_path("stdlib") + os.sep,
    str(Path(__file__).parent),
)  # fmt: skip
OF_MODULES = vars(nn.Module()).keys() | {"forward"}
"""Attributes that every module has, and what may stand in for a forward."""
OF_OTHERS = {*sys.stdlib_module_names, "torch", "torchvision", "numpy"}
STORES = {"STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL"}
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, slice)
HEAP_TYPE = 1 << 9
"""A flag of classes: not a part of Python itself."""
BY_IDENTITY = (
    Tensor, nn.Module, FunctionType, BuiltinFunctionType, MethodDescriptorType, np.ufunc, Enum,
    property, staticmethod, classmethod,
)  # fmt: skip


class _Is:
    """Equal to what is the same object, in the same version if it is a tensor."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.version = value._version if isinstance(value, Tensor) else 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Is):
            return False
        return self.value is other.value and self.version == other.version

    __hash__ = None  # type: ignore[assignment]


def frozen(value: Any, depth: int = 0) -> Any:
    """What is equal as long as a value is the same. Raises UntraceableError for what may change
    without being seen."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, BY_IDENTITY) or _is_others(value):
        return _Is(value)
    if depth > 8:
        raise UntraceableError(f"it reads a {type(value).__name__}")
    inside = functools.partial(frozen, depth=depth + 1)
    match value:
        case list() | tuple():
            return type(value), [inside(item) for item in value]
        case dict():
            return type(value), [(inside(key), inside(item)) for key, item in value.items()]
        case set() | frozenset():
            return type(value), set(value)
        case np.ndarray() | np.generic():
            return value.dtype, value.shape, value.tobytes()
        case functools.partial():
            return inside((value.func, value.args, value.keywords))
        case MethodType():
            return _Is(value.__func__), _Is(value.__self__)
        case type():  # what is read of it by name is found there
            return _Is(value)
    kinds = type(value).mro()[:-1]
    if all(kind.__flags__ & HEAP_TYPE and not _is_others(kind) for kind in kinds):
        return _Is(value), inside(vars(value))  # written in Python: it has no other state
    raise UntraceableError(f"it reads a {type(value).__name__}")


def _is_others(value: Any) -> bool:
    """Whether it is a module or a class that is not the user's."""
    if isinstance(value, ModuleType):
        return value.__name__.partition(".")[0] in OF_OTHERS
    return isinstance(value, type) and value.__module__.partition(".")[0] in OF_OTHERS


def _plainly_held(kind: type) -> list[str]:
    return [key for key in vars(kind) if not (key.startswith("__") and key.endswith("__"))]


Called = dict[CodeType, list[Read]]
"""Functions that are called, and what they read of globals and of functions around them."""


@contextlib.contextmanager
def calls_into(called: Called) -> Iterator[None]:
    """Collect the functions outside of torch that are called in the block. Raises UntraceableError
    before one begins that writes anything, or reads what may change without being seen, and before
    an autograd function, whose forward alone would be followed."""

    def watch(frame: FrameType, event: str, called_in_c: Any) -> None:
        code = frame.f_code
        is_new = event == "call" and code not in called
        is_users = is_new and not code.co_filename.startswith(NOT_THE_USERS)
        if is_users and not _is_pythons(frame) and not _answers_a_signal(frame, handlers):
            called[code] = [*_of_globals(code, frame.f_globals), *_of_defaults(frame)]
            # What looks for functions looks at all objects that there are, which takes its time.
            around = set(code.co_freevars) - {"__class__"}
            if around and not any(code in other.co_consts for other in called):
                called[code] += _of_functions_around(code)
        owner = called_in_c.__self__ if event == "c_call" else None
        if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
            raise UntraceableError(f"{owner.__name__} has a backward of its own")

    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()}
    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()  # it may call whatever somebody wants to be called then
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()


def _code(answer: Any) -> CodeType | None:
    """That of what answers a signal: a function, a part of one, or an object that can be called."""
    while isinstance(answer, functools.partial):
        answer = answer.func
    if callable(answer) and not hasattr(answer, "__code__"):
        answer = type(answer).__call__
    code: CodeType | None = getattr(answer, "__code__", None)
    return code


def _answers_a_signal(frame: FrameType | None, handlers: Container[CodeType | None]) -> bool:
    """Whether it is not the network that calls a function: a signal came, and an error raised here
    would stand for what its handler does."""
    while frame and frame.f_code not in handlers:
        frame = frame.f_back
    return frame is not None


def _is_pythons(frame: FrameType) -> bool:
    """Whether it is a function of Python's own that lies in no file."""
    is_of_named_tuple = str(frame.f_globals.get("__name__")).startswith("namedtuple_")
    return frame.f_code.co_filename.startswith("<frozen ") or is_of_named_tuple


def _names_in(called: Called) -> set[str]:
    """All names that functions use for attributes, and texts, which may be such names."""
    names: set[str] = set()
    for code in called:
        names.update(code.co_names, (text for text in code.co_consts if isinstance(text, str)))
    return names


def _of_globals(code: CodeType, names: dict[str, Any]) -> Iterator[Read]:
    holder: Any = None  # a module or class of the user's, whose attribute is read next
    for instruction in dis.get_instructions(code):
        name = instruction.argval
        if instruction.opname in STORES:
            raise UntraceableError(f"{code.co_qualname} keeps something from one call to the next")
        if instruction.opname == "IMPORT_NAME" and name.partition(".")[0] not in OF_OTHERS:
            raise UntraceableError(f"{code.co_qualname} imports {name}")
        if instruction.opname == "LOAD_GLOBAL" and name in names:
            get, value = functools.partial(names.get, name), names[name]
        elif holder is not None and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            get = functools.partial(getattr, holder, name, None)
            value = get()
        elif isinstance(holder, ModuleType):
            raise UntraceableError(f"{code.co_qualname} reads the module {holder.__name__}")
        else:
            holder = None
            continue
        holder = value if isinstance(value, ModuleType | type) and not _is_others(value) else None
        if not isinstance(value, ModuleType) or holder is None:
            try:
                yield get, frozen(value)
            except UntraceableError:
                raise UntraceableError(f"{code.co_qualname} reads {name}") from None


def _of_defaults(frame: FrameType) -> Iterator[Read]:
    """What a function has for arguments that are not given, unless it is plain."""
    takes = frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount
    function = _function(frame) if takes else None
    if function is None:
        return
    get = functools.partial(_defaults, function)
    if not all(isinstance(value, PLAIN) for value in get()):
        try:
            yield get, frozen(get())
        except UntraceableError:
            raise UntraceableError(f"{frame.f_code.co_qualname} keeps a default") from None


def _defaults(function: FunctionType) -> tuple[Any, ...]:
    return (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())


def _function(frame: FrameType) -> FunctionType | None:
    """The function that is called, by its name in its module or class, or else of all."""
    code = frame.f_code
    kinds = type(frame.f_locals.get("self")).mro()
    named = [names.get(code.co_name) for names in (frame.f_globals, *map(vars, kinds))]
    plain = [getattr(one, "fget", None) or getattr(one, "__func__", one) for one in named]
    own = [one for one in plain if getattr(one, "__code__", None) is code]
    others = own or gc.get_referrers(code)
    return next((one for one in others if isinstance(one, FunctionType)), None)


def _of_functions_around(code: CodeType) -> Iterator[Read]:
    functions = [one for one in gc.get_referrers(code) if isinstance(one, FunctionType)]
    for function in functions:
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__":
                get = functools.partial(getattr, cell, "cell_contents")
                try:
                    yield get, frozen(get())
                except (UntraceableError, ValueError):
                    raise UntraceableError(f"{code.co_qualname} reads {name}") from None


def has_hooks(module: nn.Module) -> bool:
    """Whether something else happens before or behind its forward, or backward."""
    hooks = (
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks,
        module._backward_pre_hooks,
    )  # fmt: skip
    return any(hooks)


class Snapshot:
    """What the code of a network reads, as it is now, of itself and of the world: in the
    functions that are `called`. What is `opaque` is torch's business.

    Raises UntraceableError where something may change without being seen.
    """

    def __init__(self, network: nn.Module, opaque: set[str], called: Called) -> None:
        self.names = names = _names_in(called)
        self.reads = [*itertools.chain.from_iterable(called.values())] + [
            (functools.partial(vars(kind).get, key), frozen(vars(kind)[key]))
            for kind in {kind for module in network.modules() for kind in type(module).mro()}
            if not _is_others(kind) and kind is not object
            for key in _plainly_held(kind)
            if key in names
        ]
        self.modules = [
            (module, name not in opaque, self._settings(module, name not in opaque))
            for name, module in network.named_modules()
            if not any(name.startswith(f"{outer}.") for outer in opaque)
        ]

    def _settings(self, module: nn.Module, of_code: bool) -> Any:
        """What decides how a module is followed."""
        if not of_code:
            return has_hooks(module)
        own = vars(module)
        if _is_others(type(module)):
            plain = {key: own[key] for key in own if key not in OF_MODULES}
        else:
            names = (own.keys() & self.names) - OF_MODULES
            plain = {key: frozen(own[key]) for key in names}
        missing = [
            key for held in (module._parameters, module._buffers) for key in held
            if held[key] is None
        ]  # fmt: skip
        return plain, module.training, dict(module._modules), missing, has_hooks(module)

    def is_now(self) -> bool:
        """Whether all that is still so."""
        try:
            return all(
                self._settings(module, of_code) == settings
                for module, of_code, settings in self.modules
            ) and all(frozen(get()) == value for get, value in self.reads)
        except (UntraceableError, RuntimeError, ValueError):  # of tensors that are compared, too
            return False


def kept(network: nn.Module) -> Mapping[str, str]:
    """What modules keep beside parameters and modules, to be compared."""
    return {
        name: repr({key: value for key, value in vars(module).items() if key not in OF_MODULES})
        for name, module in network.named_modules()
    }
