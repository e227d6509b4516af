"""The fields of a recipe, by names such as `optimizer.lr`: what they take, and a recipe that has
another value in one of them.

A part of a recipe is something that was made with settings: a partial, a dataclass, a module, or a
sequence of such. Whatever it is, it is never changed: another one is made with the other setting.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.values import as_text, parts_of
from mnist_exp.common.words import guessed
from mnist_exp.recipe import Recipe, example_of

Value = None | bool | int | float | str | tuple[Any, ...] | list[Any]
"""What can be written down. Tuples and lists hold such values."""

WORDS: dict[object, tuple[str, str]] = {
    bool: ("True or False", "True"),
    int: ("a whole number", "2"),
    float: ("a number", "0.1"),
    str: ("a text in quotes", "'text'"),
    tuple: ("a tuple", "(0.1, 0.2)"),
    list: ("a list", "[0.1, 0.2]"),
}
"""How a type is called, with an example of one."""

CODE = object()
"""In place of a type: that of something that cannot be written down."""


@dataclass(frozen=True)
class Setting:
    """One of the settings of a part: its value, what it has where nobody sets it, and the type of
    what it takes, as far as an annotation says so."""

    value: Any
    default: Any
    hint: Any

    def taken(self, name: str, value: Value) -> Value:
        """A value as the setting takes it; raises ExpectedError, which calls it `name`."""
        if value is None and self.default is None:
            return None
        if self.hint is CODE:
            what = "none, or another of its settings," if self.default is None else "its settings"
            raise ExpectedError(
                f"{name}={value!r}: {name} is code, of which {what} can be set, as in "
                f"optimizer.lr=0.05 or augment=none; for other code change the file"
            )
        if not fits(value, self.hint):
            words, example = _in_words(self.hint)
            own = next((x for x in (self.value, self.default) if x is not None), None)
            example = repr(own) if own is not None and is_written(own) else example
            raise ExpectedError(f"{name}={value!r}: {words} is needed, as in {name}={example}")
        takes_any_number = _takes(self.hint, float) and not _takes(self.hint, int)
        return float(value) if takes_any_number and type(value) is int else value


def own_value(recipe: Recipe, name: str) -> object:
    """What a recipe has in a field. Raises ExpectedError where it has no such field."""
    return setting(recipe, name).value


def value_of(recipe: Recipe, name: str) -> Value:
    """What a recipe has in a field that was given a value, which can be written down."""
    value = own_value(recipe, name)
    return value if is_written(value) else None


def setting(recipe: Recipe, name: str) -> Setting:
    """The field of a recipe. Raises ExpectedError where it has no such field."""
    found = Setting(recipe, None, CODE)
    keys = name.split(".")
    for place, key in enumerate(keys):
        found = _find(recipe, found.value, key, name, ".".join(keys[:place]))
    return found


def changed(recipe: Recipe, name: str, value: Value) -> Recipe:
    """The recipe with another value in one field.

    Raises ExpectedError, which names the field, where there is none, or it cannot take the value.
    """
    taken = setting(recipe, name).taken(name, value)
    try:
        new = _with(recipe, name.split("."), taken)
    except ExpectedError:
        raise
    except Exception as error:  # of whatever makes a part, and looks at its settings
        said = " ".join(str(error).split())[:200]
        own = as_text(own_value(recipe, name))
        raise ExpectedError(f"{name}={value!r}: {said}; the file has {name}={own}") from None
    assert isinstance(new, Recipe)
    return new


def _with(part: Any, keys: list[str], value: object) -> object:
    """A part with another value at the end of the way that the keys describe."""
    key, *further = keys
    if further:
        value = _with(_settings(part)[key].value, further, value)
    return _remade(part, key, value)


def _find(recipe: Recipe, part: object, key: str, name: str, owner: str) -> Setting:
    settings = _settings(part)
    if key in settings:
        return settings[key]
    if not owner:
        names = ", ".join(sorted(_recorded(recipe)))
        there = f"a recipe has no {key}; this one has {names}"
    elif part is None:
        there = f"the recipe has no {owner} whose {key} could be set: write it in the file"
        there = ", ".join(filter(None, (there, example_of(owner))))
    elif _is_several(part) and key in {type(each).__name__ for each in parts_of(part)}:
        there = f"{owner} has several {key}, which a name cannot tell apart: change the file"
    elif not settings:
        there = f"{owner} is {as_text(part)}, which has no settings"
    else:
        there = f"{owner} has no {key}; it has {', '.join(sorted(settings))}"
    guess = "" if part is None else guessed(name, [*_names(recipe), "learning_rate"])
    raise ExpectedError(f"{name}: {guess}{there}")


def _recorded(recipe: Recipe) -> set[str]:
    """The names in the records, as they are set."""
    return {
        "optimizer.lr" if name == "learning_rate" else name.removeprefix("step.")
        for name in recipe.hyperparameters()
    } - {"step"}


def _names(part: object, deep: int = 3) -> list[str]:
    """The names of all that can be set of a part, and of its parts."""
    names: list[str] = []
    for name, found in _settings(part).items():
        inside = _names(found.value, deep - 1) if deep > 1 else []
        names += [name, *(f"{name}.{each}" for each in inside)]
    return names


def _settings(part: object) -> Mapping[str, Setting]:
    """The settings of a part, by name."""
    if _is_several(part):
        return _settings_of_several(parts_of(part))
    if part is None or is_written(part):
        return {}
    try:
        maker, parameters = _maker(part), inspect.signature(_maker(part)).parameters
    except (TypeError, ValueError):  # of what is written in C
        return {}
    given = _given(part, parameters)
    named = {
        x.name: x for x in parameters.values() if x.kind not in (x.VAR_POSITIONAL, x.VAR_KEYWORD)
    }
    # What has no value is for the training to fill in, such as the weights of an optimizer.
    values = {name: given.get(name, x.default) for name, x in named.items()}
    return {
        name: Setting(value, named[name].default, _hint(maker, named[name], value))
        for name, value in values.items()
        if value is not inspect.Parameter.empty
    }


def _maker(part: Any) -> Any:
    """What makes a part when it is called with its settings."""
    if isinstance(part, partial):
        return part.func
    return part if isinstance(part, type | types.FunctionType) else type(part)


def _given(part: Any, parameters: Mapping[str, inspect.Parameter]) -> dict[str, object]:
    """The settings with which a part was made, or will be."""
    if isinstance(part, partial):
        return {**dict(zip(parameters, part.args, strict=False)), **part.keywords}
    if part is _maker(part):
        return {}
    return {name: getattr(part, name) for name in parameters if hasattr(part, name)}


def _remade(part: Any, key: str, value: object) -> object:
    """A part with another setting."""
    if _is_several(part):
        parts = parts_of(part)
        if len(parts) == 1:
            return _replaced(part, parts[0], _remade(parts[0], key, value))
        return _replaced(part, _settings_of_several(parts)[key].value, value)
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return dataclasses.replace(part, **{key: value})
    maker = _maker(part)
    parameters = inspect.signature(maker).parameters
    if isinstance(part, partial):
        places = dict(zip(parameters, part.args, strict=False))
        if key in places:
            return partial(maker, *(places | {key: value}).values(), **part.keywords)
        return partial(maker, *part.args, **part.keywords | {key: value})
    if part is maker:
        return partial(maker, **{key: value})
    given = _given(part, parameters)
    # Some keep what they were given in another form besides, as MixUp has a distribution of its
    # alpha: so it is made anew, which is right where that leads to what is there.
    if as_text(vars(maker(**given))) != as_text(vars(part)):
        raise ValueError(f"{maker.__name__} does not keep what it is made with: change the file")
    return maker(**given | {key: value})


def _is_several(part: object) -> bool:
    """Whether it is a sequence of parts, torchvision's Compose of them, or torch's Sequential."""
    return not is_written(part) and parts_of(part) != (part,)


def _settings_of_several(parts: tuple[Any, ...]) -> Mapping[str, Setting]:
    """The settings of the only part, or the parts by their classes, as the records have them."""
    if len(parts) == 1:
        return _settings(parts[0])
    names = [type(part).__name__ for part in parts]
    # Of two of a class, neither has a name of its own.
    return {
        name: Setting(part, inspect.Parameter.empty, CODE)
        for name, part in zip(names, parts, strict=True)
        if names.count(name) == 1
    }


def _replaced(several: Any, part: object, new: object) -> Any:
    """Several parts, of which one is another."""
    if several is part:
        return new
    if isinstance(several, tuple | list):
        return type(several)(_replaced(each, part, new) for each in several)
    if not _is_several(several):
        return several
    if hasattr(several, "transforms"):
        return type(several)(_replaced(several.transforms, part, new))
    return type(several)(*(_replaced(each, part, new) for each in several))


def _hint(maker: Any, parameter: inspect.Parameter, value: object) -> Any:
    """The type of what a parameter takes; where its annotation does not say, that of its value."""
    hint = parameter.annotation
    if isinstance(hint, str):
        home = _home(maker, parameter.name)
        try:
            hint = eval(hint, vars(sys.modules[home.__module__]))
        except (NameError, KeyError, TypeError, AttributeError):
            # Named for type checkers alone: for a recipe, that is what cannot be written down.
            hint = CODE if home is Recipe else parameter.empty
    if not is_written(value):
        return CODE
    if hint is parameter.empty or hint is Any:
        kinds = {int: int | float, float: float, type(None): Any}
        return kinds.get(type(value), type(value))
    return hint


def _home(maker: Any, name: str) -> Any:
    """Where a field is annotated: the class that makes it, or one that this is a subclass of."""
    kinds = inspect.getmro(maker) if isinstance(maker, type) else ()
    return next((kind for kind in kinds if name in inspect.get_annotations(kind)), maker)


def is_written(value: object) -> TypeGuard[Value]:
    """Whether it is a value that can be written down, and not code."""
    if type(value) in (tuple, list):
        return all(map(is_written, typing.cast(list[object], value)))
    return value is None or isinstance(value, bool | int | float | str)


def fits(value: Value, hint: Any) -> bool:
    """Whether a value is of a type; also where the type says more than can be told."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in inside)
    if origin is typing.Literal:
        return value in inside
    if isinstance(value, bool) or value is None:
        return hint in (Any, object, type(value), None)
    if hint is float or hint is int:
        return isinstance(value, hint) or (hint is float and isinstance(value, int))
    if origin is tuple and isinstance(value, tuple):
        each = inside[:1] * len(value) if inside[1:] == (...,) else inside
        return len(each) == len(value) and all(map(fits, value, each))
    kind = origin or hint
    return (
        kind is Any
        or isinstance(kind, typing.TypeVar)
        or (isinstance(kind, type) and isinstance(value, kind))
    )


def _takes(hint: Any, kind: object) -> bool:
    """Whether a type is another one, or a union that has it."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_takes(each, kind) for each in typing.get_args(hint))
    return (typing.get_origin(hint) or hint) is kind


def _in_words(hint: Any) -> tuple[str, str]:
    """How a type is called, with an example of one."""
    for each in (hint, *typing.get_args(hint)):
        if typing.get_origin(each) is typing.Literal:
            choices = [repr(choice) for choice in typing.get_args(each)]
            return " or ".join(choices), choices[0]
    known = (words for kind, words in WORDS.items() if _takes(hint, kind))
    return next(known, ("another value", "none"))
