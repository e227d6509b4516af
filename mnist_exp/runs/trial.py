"""A recipe is tried out before there is a run: as it will be trained, but for two steps only.

What fails there would fail in the run, perhaps after hours: it is refused in one line. What only
makes the numbers of the run less certain is found out, and the run says it from its beginning.

Each training of a trial has an execution of the iteration's file of its own, as a process that goes
on with the run would have. So nothing of a trial stays behind in what the run uses.
"""

import copy
import dataclasses
import inspect
import itertools
from collections.abc import Callable, Iterator, ValuesView
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mnist_exp.data import Digits
from mnist_exp.notebook import loading
from mnist_exp.notebook.entries import Entry
from mnist_exp.recipe import PIXELS, Recipe
from mnist_exp.runs import checkpoint
from mnist_exp.runs.blame import blamed_on, refuse
from mnist_exp.runs.memory import remembered
from mnist_exp.training import classifier, seeding
from mnist_exp.training.classifier import Classifier
from mnist_exp.training.loop import NonFiniteLossError, Training, build
from mnist_exp.views import Views

STEPS = 2
SOME = 8
"""Digits that a trial evaluates."""

NOT_REPEATED = (
    "the same seed gives other numbers each time: something draws random numbers that the seed "
    "does not set, as numpy.random.default_rng() does"
)
NOT_RESUMED = (
    "it cannot be resumed exactly: something that decides its numbers is kept where no checkpoint "
    "looks, such as a global variable or an object that is no module"
)
UNSTEADY = (
    "two evaluations of the same digits differ: something random stays on, as F.dropout(x) does, "
    "or each evaluation changes something"
)
TOGETHER = "its output for a digit depends on the digits that are evaluated with it"
UNREGISTERED = (
    "layers in a plain list, tuple or dictionary are not trained, not counted and not switched to "
    "evaluation: nn.ModuleList and nn.ModuleDict are for that"
)
FIXED = (
    "its kept network takes only as many digits at a time as it was traced with (2): len(x) does "
    "that, where x.shape[0] does not"
)


@dataclass(frozen=True)
class Findings:
    """What a trial found out: the `learning_rate` that the optimizer begins with; why the run
    cannot be resumed exactly, or "", and whether it can be resumed at all; and what else makes its
    numbers less certain, a sentence each."""

    learning_rate: str
    not_exact: str
    resumable: bool
    cautions: tuple[str, ...]


def recipe_from(entry: Entry, seed: int) -> Recipe:
    """The recipe of a file that is executed anew; what it draws comes from the seed."""
    seeding.seed_network(seed)
    return loading.recipe_of(entry)


def check_recipe(entry: Entry, seed: int) -> None:
    """Check what needs no digits: the parts of the recipe, its network, and a copy of that.

    Raises ExpectedError, which names the line of the file.
    """
    with blamed_on(entry):
        recipe = recipe_from(entry, seed)
        _check_parts(entry, recipe)
        network = build(recipe, seed)
        _check_copy(entry, recipe, network)
        _check_network(entry, recipe, network)


def try_out(
    entry: Entry, train: Digits, held_out: Digits, *, seed: int, device: torch.device
) -> Findings:
    """Train an iteration for two steps on the digits, the device and from the seed of a run.

    Raises ExpectedError for what would fail in the run; it names the line of the file.
    """

    def fresh() -> Training:
        recipe = recipe_from(entry, seed)
        longer = dataclasses.replace(recipe, epochs=max(recipe.epochs, STEPS))
        return Training(longer, train, held_out[:SOME], seed=seed, device=device, batches=1)

    with blamed_on(entry):
        training = fresh()
        _check_steps(entry, training)
        not_exact, resumable, cautions = _resumption(entry, training, fresh)
        if _unregistered(training.network):
            cautions.append(UNREGISTERED)
        cautions += _evaluation(entry, training.classifier, training.evaluation.images)
    return Findings(training.learning_rate, not_exact, resumable, tuple(cautions))


def _check_parts(entry: Entry, recipe: Recipe) -> None:
    for name in ("augment", "preprocess", "views"):
        part = getattr(recipe, name)
        if part and (isinstance(part, type) or not dataclasses.is_dataclass(part)):
            raise refuse(
                entry, name, f"{name}= takes a frozen dataclass whose fields are its settings, as "
                f"mnist_exp.{name} has them: see docs/writing-an-iteration.md",
            )  # fmt: skip


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
    if not all("lr" in group for group in recipe.optimizer(network.parameters()).param_groups):
        raise refuse(entry, "optimizer", "the optimizer has no lr, which is recorded of each epoch")


def _check_copy(entry: Entry, recipe: Recipe, network: nn.Module) -> None:
    """Check that a copy of the network is a network of its own."""
    try:
        copied = copy.deepcopy(network)
    except Exception as error:  # of whatever the network keeps
        why = f"a copy of the network is averaged and followed, and it cannot be copied: {error}"
        raise refuse(entry, "network", why) from error
    output = copied.eval()(classifier.example_input(recipe))
    if isinstance(output, Tensor) and output.requires_grad:
        output.sum().backward()
    if touched := [name for name, p in network.named_parameters() if p.grad is not None]:
        raise refuse(
            entry, "network", f"a copy of the network computes with {touched[0]} of its original, "
            "which a closure or a hook holds: keep layers as attributes, and call them by self",
        )  # fmt: skip


def _unregistered(network: nn.Module) -> bool:
    """Whether a module keeps others where torch does not look for them."""
    known = set(network.modules())
    plain = (value for module in known for value in vars(module).values())
    held = (value.values() if isinstance(value, dict) else value for value in plain)
    return any(
        isinstance(item, nn.Module) and item not in known
        for items in held
        if isinstance(items, list | tuple | ValuesView)
        for item in items
    )


def _check_steps(entry: Entry, training: Training) -> None:
    """Check that what is stepped asks for nothing that a training does not give."""
    for name in ("optimizer", "schedule", "batch_schedule"):
        part = getattr(training, name)
        try:
            inspect.signature(type(part).step).bind(part) if part else None
        except TypeError as error:
            raise refuse(
                entry, name, f"{name}={type(part).__name__} cannot be used here: its step() is "
                f"{error}, which a training does not give",
            ) from None  # fmt: skip


def _resumption(
    entry: Entry, training: Training, fresh: Callable[[], Training]
) -> tuple[str, bool, list[str]]:
    """Take the steps of a trial, and compare them with those of other trainings: why they are not
    resumed exactly, or "", whether they can be resumed at all, and cautions."""
    epochs = training.epochs()
    try:
        next(epochs)
        after_one = copy.deepcopy(training.state())
        next(epochs)
        repeated = fresh()
        next(repeated.epochs())
        cautions = [] if _same(after_one, repeated.state()) else [NOT_REPEATED]
        resumed = fresh()
        try:
            resumed.restore(checkpoint.unpack(checkpoint.pack(after_one)))
        except Exception as error:  # pickle and torch have no common class for what they refuse
            return f"it cannot be resumed: {' '.join(str(error).split())[:200]}", False, cautions
        next(resumed.epochs())
    except NonFiniteLossError:  # the run says where
        return "", True, []
    exact = _same(training.state(), resumed.state())
    exact &= remembered(entry, training) == remembered(entry, resumed)
    return "" if exact else NOT_RESUMED, True, cautions


def _same(one: Any, other: Any) -> bool:
    """Whether two states are the same bit for bit, but for times."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype
        return alike and torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() - {"seconds", "ended"}
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in keys)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _evaluation(entry: Entry, evaluated: Classifier, images: Tensor) -> list[str]:
    """Evaluate several digits and one, and export the network; returns cautions."""
    several, again = (classifier.predict(evaluated, images).cpu() for _ in range(2))
    try:
        alone = classifier.predict(evaluated, images[:1]).cpu()
    except Exception as error:  # of whatever the network does
        what = f"for a single digit it raises {type(error).__name__}: {error}"
        raise refuse(entry, "network", what, error) from error
    if tuple(alone.shape) != (1, 10):
        shape = tuple(alone.shape)
        raise refuse(entry, "network", f"for 1 image the network gives {shape}, not (1, 10)")
    cautions = []
    if not _same(several, again):
        cautions.append(UNSTEADY)
    elif not _close(several[:1], alone) or _mixes(evaluated, images):
        cautions.append(TOGETHER)
    return cautions + _export(entry, evaluated.cpu(), images.cpu(), compare=not cautions)


def _mixes(evaluated: Classifier, images: Tensor) -> bool:
    """Whether the output for the first of the images depends on the others."""
    pixels = classifier.prepared(images.float(), evaluated.preprocess).requires_grad_()
    first = evaluated.network(pixels)[0]
    if not first.requires_grad:
        return False
    weighted = (first * torch.arange(1.0, 11.0, device=first.device)).sum()
    gradient = torch.autograd.grad(weighted, pixels)[0]
    return bool(gradient.isfinite().all() and gradient[1:].any())


def _export(entry: Entry, evaluated: Classifier, images: Tensor, *, compare: bool) -> list[str]:
    """Export the classifier, which is how it is kept, and `compare` what that gives with what it
    gives itself; returns cautions."""
    views, preprocess = evaluated.views, evaluated.preprocess
    # It takes its time, and the package's own parts can be exported. Of views, one will do.
    views = _FirstView(views) if views and not _is_ours(views) else None
    preprocess = None if _is_ours(preprocess) else preprocess
    evaluated = Classifier(evaluated.network, preprocess, views)
    try:
        kept = classifier.exported(evaluated, images[:2])
    except Exception as error:  # torch has no common class for what it cannot trace
        reason = str(error).strip().partition("\n")[0][:200]
        what = f"torch.export cannot trace the network, which is how it is kept: {reason}"
        raise refuse(entry, "network", what, error) from error
    try:
        outputs = torch.cat([kept(images[:1]), kept(images[1:])])
    except Exception:  # of the checks that torch.export has written into it
        return [FIXED]
    if compare and not _close(outputs, classifier.predict(evaluated, images)):
        raise refuse(entry, "network", "the exported network gives other outputs than the network")
    return []


def _is_ours(part: object) -> bool:
    return type(part).__module__.startswith("mnist_exp.")


@dataclass(frozen=True)
class _FirstView:
    """The first of other views."""

    views: Views

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        return itertools.islice(self.views(images), 1)


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether outputs are the same but for rounding, which may be that of bfloat16."""
    tolerance = 0.02 * float(other.nan_to_num().abs().max())
    return torch.allclose(one, other, rtol=0, atol=tolerance, equal_nan=True)
