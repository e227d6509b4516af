"""What a recipe names, as text that is the same in every process."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import re
import types
from collections.abc import Mapping
from functools import partial
from reprlib import recursive_repr
from typing import Any

CODE = type | types.FunctionType | types.MethodType | types.BuiltinFunctionType
CODE_DIGITS = 8
"""Hexadecimal digits of the hash that stands for the code of a function."""


def parts_of(named: object) -> tuple[Any, ...]:
    """The parts of what may name several, in order: those within a sequence, within torchvision's
    Compose and within torch's Sequential; none of None."""
    if named is None:
        return ()
    if type(named).__name__ == "Compose":
        named = vars(named).get("transforms", named)
    elif type(named).__name__ == "Sequential":
        named = list(vars(named).get("_modules", {}).values()) or named
    if isinstance(named, list | tuple):
        return tuple(part for each in named for part in parts_of(each))
    return (named,)


def name_of(part: object) -> str:
    """What a part of a recipe is called: a class by its name, a function by its name and a hash of
    its code, and another object by its class: `settings_of` has its settings. "none" for None."""
    if isinstance(part, partial):
        return name_of(part.func)
    if part is None or isinstance(part, CODE):
        return "none" if part is None else as_text(part)
    return type(part).__name__


def settings_of(part: object) -> Mapping[str, object]:
    """The settings of a part: the arguments of a partial, but for the first, which training fills
    in; or the fields of an object, or its public attributes; none of a class or a function."""
    if isinstance(part, partial):
        try:
            bound = inspect.signature(part.func).bind_partial(None, *part.args, **part.keywords)
        except ValueError:  # of a function that is not written in Python, whose arguments have no
            return {**part.keywords}  # names that can be found
        return dict(list(bound.arguments.items())[1:])
    if isinstance(part, CODE):
        return {}
    if dataclasses.is_dataclass(part):
        return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    # A loss of torch's has the weight of each class among its buffers.
    attributes = getattr(part, "__dict__", {})
    return {
        key: value
        for key, value in (attributes | attributes.get("_buffers", {})).items()
        if not key.startswith("_") and key != "training" and value is not None
    }


@recursive_repr("...")  # a function may call itself
def as_text(value: object) -> str:
    """A setting as it is recorded: numbers and texts as they are, a class by its name, a function
    by its name and a hash of its code, an object by its class and its attributes.

    The same for the same settings: no address in memory, as in Python's own text of a function.
    """
    if isinstance(value, partial):
        given = [*map(as_text, value.args), *_named(value.keywords)]
        return f"{as_text(value.func)}({', '.join(given)})"
    if isinstance(value, types.MethodType):
        return f"{as_text(value.__self__)}.{as_text(value.__func__)}"
    if isinstance(value, types.FunctionType):
        return f"{value.__name__} {_code_hash(value)}"
    if isinstance(value, type | types.BuiltinFunctionType):
        return value.__name__
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        inside = ", ".join(map(_inside, value))
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{comma})"
    if isinstance(value, set | frozenset):  # in an order that is the same in each process
        return "{" + ", ".join(sorted(map(_inside, value))) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_inside(k)}: {_inside(x)}" for k, x in value.items()) + "}"
    return _object_as_text(value)


def _inside(value: object) -> str:
    """Within a list, a text has its quotes."""
    return repr(value) if isinstance(value, str) else as_text(value)


def _named(values: Mapping[str, object]) -> list[str]:
    return [f"{name}={_inside(value)}" for name, value in values.items()]


def _object_as_text(value: object) -> str:
    text = str(value)
    if not re.search(r"\bat 0x[0-9a-fA-F]+", text):
        return text
    return f"{type(value).__name__}({', '.join(_named(getattr(value, '__dict__', {})))})"


def _code_hash(function: types.FunctionType) -> str:
    """A hash of what a function does: its code, its defaults, and what it takes from around it."""
    around = inspect.getclosurevars(function)
    used = [
        as_text(x) for x in (function.__defaults__, function.__kwdefaults__, dict(around.nonlocals))
    ]
    content = repr((_code(function.__code__), used))
    return hashlib.sha256(content.encode()).hexdigest()[:CODE_DIGITS]


def _code(code: types.CodeType) -> tuple[object, ...]:
    return code.co_code, code.co_names, code.co_varnames, [*map(_constant, code.co_consts)]


def _constant(value: object) -> object:
    if isinstance(value, types.CodeType):  # of a function within the function
        return _code(value)
    # The order of a set's texts is another in each process.
    return sorted(map(repr, value)) if isinstance(value, frozenset) else value
