"""What can be said of a recipe without a digit: its parts, its network, and a copy of that."""

import dataclasses
import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mnist_exp.common.copying import copied, hooks_of
from mnist_exp.common.values import name_of, parts_of
from mnist_exp.common.words import guessed
from mnist_exp.data import Digits, Split
from mnist_exp.notebook import loading
from mnist_exp.notebook.entries import Entry
from mnist_exp.recipe import PIXELS, Recipe
from mnist_exp.runs.blame import blamed_on, refuse
from mnist_exp.runs.overrides import NONE, Overrides, overridden
from mnist_exp.training import classifier, seeding, stepping, transforms
from mnist_exp.training.classifier import Classifier
from mnist_exp.training.loop import Training, build

NOT_NEEDED = {"Normalize", "ToTensor", "PILToTensor", "ToPILImage"}
"""Classes of torchvision.transforms that people write before a network elsewhere."""
STEP = "step(self, network, images, labels, teacher_output)"
UNREGISTERED = (
    "layers or weights in a plain list, a dictionary, an object or a variable outside the network "
    "are not trained, not counted and not switched to evaluation: nn.ModuleList and nn.ModuleDict "
    "are for that"
)


def recipe_from(entry: Entry, seed: int, overrides: Overrides = NONE) -> Recipe:
    """The recipe of a file that is executed anew, with the overrides; what the file draws comes
    from the seed."""
    seeding.seed_network(seed)
    return overridden(loading.recipe_of(entry), overrides)


def check_recipe(
    entry: Entry, seed: int, overrides: Overrides = NONE, split: Split = "validation"
) -> None:
    """Check the parts of a recipe, its network, and a copy of that, for a run on a split.

    Raises ExpectedError, which names the line of the file.
    """
    with blamed_on(entry):
        recipe = recipe_from(entry, seed, overrides)
        _check_methods(entry, recipe)
        _check_arguments(entry, recipe)
        if recipe.teacher == entry.number:
            what = f"teacher={recipe.teacher} is the iteration itself: another one is needed"
            raise refuse(entry, "teacher", what)
        _check_weights(entry, recipe)
        labels = _check_images(entry, recipe)
        network = build(recipe, seed)
        _check_copy(entry, recipe, network)
        _check_network(entry, recipe, network)
        _check_schedule(entry, recipe, network, split)
        _check_loss(entry, recipe, network, labels)


def _check_methods(entry: Entry, recipe: Recipe) -> None:
    """Check that a training calls what a subclass defines, which is its step."""
    kind = type(recipe)
    own = [
        name
        for base in kind.__mro__[: kind.__mro__.index(Recipe)]
        for name, value in vars(base).items()
        if isinstance(value, types.FunctionType) and not name.startswith("_")
        and name not in ("hyperparameters", *inspect.get_annotations(base))
    ]  # fmt: skip
    if own and kind.step is Recipe.step:
        raise refuse(
            entry, own[0], f"{kind.__name__} defines {', '.join(own)}, and no step, which alone is "
            f"called in training: def {STEP}",
        )  # fmt: skip
    try:
        inspect.signature(recipe.step).bind(None, None, None, None)
    except TypeError as error:
        raise refuse(entry, "step", f"step takes {STEP[4:]}: {error}") from None


def _check_arguments(entry: Entry, recipe: Recipe) -> None:
    """Check that what is given its arguments in a partial takes those."""
    for field in dataclasses.fields(recipe):
        made = getattr(recipe, field.name)
        if not isinstance(made, partial):
            continue
        try:
            signature = inspect.signature(made.func, follow_wrapped=False)
        except (TypeError, ValueError):  # of what is written in C
            continue
        try:
            signature.bind_partial(*made.args, **made.keywords)
        except TypeError as error:
            name = getattr(made.func, "__name__", name_of(made.func))
            unknown = (key for key in made.keywords if key not in signature.parameters)
            guess = "".join(guessed(key, signature.parameters) for key in unknown)
            raise refuse(
                entry, field.name, f"{field.name}: {name} {error}; {guess}it takes "
                f"{', '.join(list(signature.parameters)[:30]) or 'no arguments'}",
            ) from None  # fmt: skip


def _check_weights(entry: Entry, recipe: Recipe) -> None:
    """Check that nothing beside the network has weights to train."""
    for field in dataclasses.fields(recipe):
        for part in parts_of(getattr(recipe, field.name)):
            weights = part.parameters() if isinstance(part, nn.Module) else ()
            if any(weight.requires_grad for weight in weights):
                what = f"the weights of {field.name} are not trained: make them part of the network"
                raise refuse(entry, field.name, what)


def _check_images(entry: Entry, recipe: Recipe) -> Tensor:
    """Check what is done to images, on two black ones; returns what the augmentation makes of their
    labels."""
    for part in parts_of((recipe.augment, recipe.preprocess)):
        if transforms.is_torchvision(part) and type(part).__name__ in NOT_NEEDED:
            raise refuse(
                entry, "augment" if part in parts_of(recipe.augment) else "preprocess",
                f"{type(part).__name__} is not needed: images are tensors, and are normalised "
                "behind augment and preprocess",
            )  # fmt: skip
        name = type(part).__name__
        if name in transforms.MIXING and getattr(part, "num_classes", 10) is None:
            what = f"augment: num_classes must be passed, as in v2.{name}(num_classes=10)"
            raise refuse(entry, "augment", what)
    black, labels = torch.zeros(2, *PIXELS), torch.tensor([0, 1])
    images, labels = transforms.augmented(recipe.augment, black, labels, torch.Generator())
    # What is given labels, too, may make more images of them.
    more = any(map(transforms.mixes, parts_of(recipe.augment))) and isinstance(images, Tensor)
    count = len(images) if more and images.dim() and len(images) else 2
    _check_made(entry, "augment", images, count)
    is_right = isinstance(labels, Tensor) and (
        tuple(labels.shape) == ((count, 10) if labels.is_floating_point() else (count,))
    )
    if not is_right:
        made = f"{_said(labels)}, not int64 ({count},) or float32 ({count}, 10)"
        raise refuse(entry, "augment", f"of 2 labels augment makes {made}")
    _check_made(entry, "preprocess", transforms.preprocessed(recipe.preprocess, images), count)
    if recipe.views:
        views = list(recipe.views(black))
        if not views:
            raise refuse(entry, "views", "views makes nothing of 2 images")
        for view in views:
            _check_made(entry, "views", view)
    return labels


def _check_made(entry: Entry, field: str, made: object, count: int = 2) -> None:
    if not isinstance(made, Tensor) or made.dim() != 4 or len(made) != count:
        what = f"of {count} images {field} makes {_said(made)}, not {count} images"
        raise refuse(entry, field, what)


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
    labels = torch.arange(100) % 10  # some metrics need a digit of each class
    for name in recipe.metrics:
        measured = recipe.metrics[name](of_views[:1].repeat(100, 1), labels.clone())
        if not isinstance(measured, Real | Tensor) or torch.as_tensor(measured).numel() != 1:
            what = f"metric {name} must give a number, not {_said(measured)}"
            raise refuse(entry, "metrics", what)
    optimizer = stepping.optimizer_of(recipe, network)
    if not isinstance(optimizer, torch.optim.Optimizer):
        made = type(optimizer).__name__
        raise refuse(entry, "optimizer", f"optimizer= makes a {made}, no optimizer of torch's")
    if not all("lr" in group for group in optimizer.param_groups):
        raise refuse(entry, "optimizer", "the optimizer has no lr, which is recorded of each epoch")


def _check_schedule(entry: Entry, recipe: Recipe, network: nn.Module, split: Split) -> None:
    """Check that the schedule does not look at the test set, and at nothing but the loss."""
    if recipe.schedule is None:
        return
    asked = stepping.asked_by(recipe.schedule, recipe.epochs)
    made = recipe.schedule(stepping.optimizer_of(recipe, network), **asked)
    if not isinstance(made, ReduceLROnPlateau):
        return
    if split == "test":
        raise refuse(
            entry, "schedule", "ReduceLROnPlateau looks at the evaluation loss, and would so "
            "choose on the test set: SPLIT=validation trains with it, and another schedule, "
            "such as CosineAnnealingLR, on both splits",
        )  # fmt: skip
    if made.mode != "min":
        what = "ReduceLROnPlateau is given the evaluation loss, so its mode must be 'min'"
        raise refuse(entry, "schedule", what)


def _check_loss(entry: Entry, recipe: Recipe, network: nn.Module, labels: Tensor) -> None:
    """Check what a step makes of black images, with the labels that the augmentation gives them."""
    if recipe.teacher and recipe.loss is None and type(recipe).step is Recipe.step:
        what = "with a teacher, a loss is needed that takes (output, labels, teacher_output)"
        raise refuse(entry, "teacher", what)
    count = len(labels)
    taught = None if recipe.teacher is None else torch.zeros(count, 10)
    images = classifier.example_input(recipe)[:1].repeat(count, 1, 1, 1)
    made = recipe.step(network.train(), images, labels, taught)
    if not isinstance(made, tuple) or len(made) != 2:
        raise refuse(entry, "step", f"step must give loss and output, not {_said(made)}")
    loss, output = made
    if not isinstance(loss, Tensor) or loss.dim():
        what = f"the loss of a batch must be a tensor of one number, not {_said(loss)}"
        raise refuse(entry, "loss", what)
    if not loss.requires_grad:
        what = "the loss of a batch does not require grad, as behind detach, argmax or no_grad"
        raise refuse(entry, "loss", what)
    if not isinstance(output, Tensor) or tuple(output.shape) != (count, 10):
        shapes = f"({count}, 10), not {_said(output)}"
        what = f"the output of a step for {count} images must be {shapes}"
        raise refuse(entry, "step", what)


def _said(value: object) -> str:
    if not isinstance(value, Tensor):
        return "None" if value is None else type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _check_copy(entry: Entry, recipe: Recipe, network: nn.Module) -> None:
    """Check that a copy of the network is a network of its own."""
    try:
        own = copied(network)
    except Exception as error:  # of whatever the network keeps
        why = f"a copy of the network is averaged and followed, and it cannot be copied: {error}"
        raise refuse(entry, "network", why) from error
    originals = set(network.modules())
    functions = [*map(vars, own.modules()), *map(list, map(hooks_of, own.parameters()))]
    held = (item for each in functions for item in _held_by_functions(each))
    output = own.eval()(classifier.example_input(recipe))
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


def has_unregistered(network: nn.Module, images: Tensor) -> bool:
    """Whether there are layers or weights where torch does not look for them. What the network
    gives in training for a few `images`, as it sees them, tells of weights wherever they are."""
    known = {*network.modules(), *network.parameters()}
    places = [vars(module) for module in network.modules()]
    places += [getattr(type(x).forward, "__globals__", {}) for x in network.modules()]
    named = any(item not in known for place in places for item in _layers_in(place.values()))
    return named or not known.issuperset(_weights_behind(network.train()(images)))


def _weights_behind(output: Tensor) -> Iterator[Tensor]:
    """The weights of which torch would calculate the gradient of an output."""
    seen: set[Any] = set()
    coming: list[Any] = [output.grad_fn]
    while coming:
        node = coming.pop()
        if node is not None and node not in seen:
            seen.add(node)
            coming += [before for before, _ in node.next_functions]
            if type(node).__name__ == "AccumulateGrad":
                yield node.variable


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
    takes_closure = stepping.takes_closure(training.optimizer)
    given: dict[str, tuple[Any, ...]] = {"optimizer": (None,) if takes_closure else ()}
    if isinstance(training.schedule, ReduceLROnPlateau):
        given["schedule"] = (0.0,)
    for name in ("optimizer", "schedule", "batch_schedule"):
        part = getattr(training, name)
        if getattr(training.recipe, name) is None:
            continue
        if not hasattr(part, "step"):
            raise refuse(entry, name, f"{name}= makes a {type(part).__name__}, which has no step()")
        try:
            inspect.signature(type(part).step).bind(part, *given.get(name, ()))
        except TypeError as error:
            raise refuse(
                entry, name, f"{name}={type(part).__name__} cannot be used here: its step() is "
                f"{error}, which a training does not give",
            ) from None  # fmt: skip


def makes_faint(recipe: Recipe, digits: Digits) -> bool:
    """Whether pixels of 0..1 are made of digits that have pixels of 0..255."""
    images = digits.images.float()
    made, _ = transforms.augmented(recipe.augment, images, digits.labels, torch.Generator())
    prepared = transforms.preprocessed(recipe.preprocess, made)
    return bool(prepared.max() <= 1 < images.max())


def untrained(training: Training) -> int:
    """How many weights of the network no group of the optimizer has."""
    given = {id(weight) for group in training.optimizer.param_groups for weight in group["params"]}
    weights = training.network.parameters()
    return sum(w.numel() for w in weights if w.requires_grad and id(w) not in given)
