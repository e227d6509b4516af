"""What can be said of a recipe without a digit: its parts, its network, and a copy of that."""

import copy
import dataclasses
import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mnist_exp.notebook import loading
from mnist_exp.notebook.entries import Entry
from mnist_exp.recipe import PIXELS, Recipe
from mnist_exp.runs.blame import blamed_on, refuse
from mnist_exp.runs.overrides import NONE, Overrides, overridden
from mnist_exp.training import classifier, seeding
from mnist_exp.training.classifier import Classifier
from mnist_exp.training.loop import Training, build

UNREGISTERED = (
    "layers or weights in a plain list, a dictionary or a global variable are not trained, not "
    "counted and not switched to evaluation: nn.ModuleList and nn.ModuleDict are for that"
)


def recipe_from(entry: Entry, seed: int, overrides: Overrides = NONE) -> Recipe:
    """The recipe of a file that is executed anew, with the overrides; what the file draws comes
    from the seed."""
    seeding.seed_network(seed)
    return overridden(loading.recipe_of(entry), overrides)


def check_recipe(entry: Entry, seed: int, overrides: Overrides = NONE) -> None:
    """Check the parts of a recipe, its network, and a copy of that.

    Raises ExpectedError, which names the line of the file.
    """
    with blamed_on(entry):
        recipe = recipe_from(entry, seed, overrides)
        _check_parts(entry, recipe)
        network = build(recipe, seed)
        _check_copy(entry, recipe, network)
        _check_network(entry, recipe, network)


def _check_parts(entry: Entry, recipe: Recipe) -> None:
    """Check what is done to images, on two black ones."""
    for name in ("augment", "preprocess", "views"):
        part = getattr(recipe, name)
        if part is None:
            continue
        if isinstance(part, type) or not dataclasses.is_dataclass(part):
            raise refuse(
                entry, name, f"{name}= takes a frozen dataclass whose fields are its settings, as "
                f"mnist_exp.{name} has them: see docs/writing-an-iteration.md",
            )  # fmt: skip
        images = torch.zeros(2, *PIXELS)
        if name == "augment":
            made = [recipe.augment(images, torch.Generator())] if recipe.augment else []
        elif name == "views":
            made = list(recipe.views(images)) if recipe.views else []
        else:
            made = [recipe.preprocess(images)] if recipe.preprocess else []
        if not made:
            raise refuse(entry, name, f"{name} makes nothing of 2 images")
        for one in made:
            if not isinstance(one, Tensor) or one.dim() != 4 or len(one) != len(images):
                what = tuple(one.shape) if isinstance(one, Tensor) else one
                raise refuse(entry, name, f"of 2 images {name} makes {what}, not 2 images")


def _check_network(entry: Entry, recipe: Recipe, network: nn.Module) -> None:
    """Check what comes out of the network, and what its optimizer has."""
    output = network.eval()(classifier.example_input(recipe))
    if not isinstance(output, Tensor):
        raise refuse(entry, "network", f"the network gives a {type(output).__name__}, no tensor")
    images = torch.zeros(2, *PIXELS, dtype=torch.uint8)
    of_views = classifier.predict(Classifier(network, recipe.preprocess, recipe.views), images)
    for shape in (tuple(output.shape), tuple(of_views.shape)):
        if shape != (2, 10):
            raise refuse(entry, "network", f"for 2 images the network gives {shape}, not (2, 10)")
    optimizer = recipe.optimizer(network.parameters())
    if not isinstance(optimizer, torch.optim.Optimizer):
        made = type(optimizer).__name__
        raise refuse(entry, "optimizer", f"optimizer= makes a {made}, no optimizer of torch's")
    if not all("lr" in group for group in optimizer.param_groups):
        raise refuse(entry, "optimizer", "the optimizer has no lr, which is recorded of each epoch")


def _check_copy(entry: Entry, recipe: Recipe, network: nn.Module) -> None:
    """Check that a copy of the network is a network of its own."""
    try:
        copied = copy.deepcopy(network)
    except Exception as error:  # of whatever the network keeps
        why = f"a copy of the network is averaged and followed, and it cannot be copied: {error}"
        raise refuse(entry, "network", why) from error
    originals = set(network.modules())
    held = (item for module in copied.modules() for item in _held_by_functions(vars(module)))
    output = copied.eval()(classifier.example_input(recipe))
    if isinstance(output, Tensor) and output.requires_grad:
        output.sum().backward()
    touched = any(p.grad is not None for p in network.parameters())
    if touched or not originals.isdisjoint(held):
        raise refuse(
            entry, "network", "a copy of the network computes with layers of its original, which a "
            "lambda or a hook holds: make it a method, which finds them by self",
        )  # fmt: skip


def _held_by_functions(value: Any, *, inside: bool = False) -> Iterator[nn.Module]:
    """The modules that functions among attributes take from around them, which no copy replaces."""
    if isinstance(value, types.FunctionType):
        cells = [cell for cell in value.__closure__ or () if cell != types.CellType()]
        for cell in cells:
            yield from _held_by_functions(cell.cell_contents, inside=True)
    elif isinstance(value, nn.Module):
        if inside:
            yield value
    elif isinstance(value, partial):
        for item in (value.func, *value.args, *value.keywords.values()):
            yield from _held_by_functions(item, inside=inside)
    elif isinstance(value, list | tuple | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _held_by_functions(item, inside=inside)


def has_unregistered(network: nn.Module) -> bool:
    """Whether there are layers or weights where torch does not look for them."""
    known = {*network.modules(), *network.parameters()}
    places = [vars(module) for module in network.modules()]
    places += [getattr(type(x).forward, "__globals__", {}) for x in network.modules()]
    return any(item not in known for place in places for item in _layers_in(place.values()))


def _layers_in(values: Iterable[Any]) -> Iterator[nn.Module | nn.Parameter]:
    """The layers and weights among values, and within lists, tuples and dictionaries there."""
    for value in values:
        if isinstance(value, nn.Module | nn.Parameter):
            yield value
        elif isinstance(value, list | tuple):
            yield from _layers_in(value)
        elif isinstance(value, dict):
            yield from _layers_in(value.values())


def check_steps(entry: Entry, training: Training) -> None:
    """Check that what is stepped asks for nothing that a training does not give."""
    for name in ("optimizer", "schedule", "batch_schedule"):
        part = getattr(training, name)
        if getattr(training.recipe, name) is None:
            continue
        if not hasattr(part, "step"):
            raise refuse(entry, name, f"{name}= makes a {type(part).__name__}, which has no step()")
        try:
            inspect.signature(type(part).step).bind(part)
        except TypeError as error:
            raise refuse(
                entry, name, f"{name}={type(part).__name__} cannot be used here: its step() is "
                f"{error}, which a training does not give",
            ) from None  # fmt: skip
