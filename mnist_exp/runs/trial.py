"""A recipe is tried out before there is a run: as it will be trained, but for two steps only.

What fails there would fail in the run, perhaps after hours: it is refused in one line. What only
makes the numbers of the run less certain is found out, and the run says it from its beginning.

Each training of a trial has an execution of the iteration's file of its own, as a process that goes
on with the run would have. So nothing of a trial stays behind in what the run uses.
"""

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_exp.common.sameness import same_state
from mnist_exp.common.values import parts_of
from mnist_exp.data import Digits
from mnist_exp.notebook.entries import Entry
from mnist_exp.recipe import Recipe
from mnist_exp.runs import check, checkpoint
from mnist_exp.runs.blame import blamed_on, refuse
from mnist_exp.runs.check import recipe_from
from mnist_exp.runs.memory import is_shared, remembered
from mnist_exp.runs.overrides import NONE, Overrides
from mnist_exp.runs.teacher import Teacher
from mnist_exp.training import classifier, stepping
from mnist_exp.training.classifier import Classifier
from mnist_exp.training.computing import Engine
from mnist_exp.training.determinism import ASKED, missing
from mnist_exp.training.loop import NonFiniteLossError, TrainDigits, Training, build
from mnist_exp.views import Views

STEPS = 2
EVALUATED, SOME = 128, 8
"""Digits that are evaluated after a step, and those that are looked at one by one."""

NOT_REPEATED = (
    "the same seed gives other numbers each time: something draws random numbers that the seed "
    "does not set, as numpy.random.default_rng() does, or computes in no fixed order"
)
NOT_AVERAGED = (
    "what is evaluated is an average of the network, which does not take over what the network "
    "changes in objects of its own"
)
NOT_RESUMED = (
    "it cannot be resumed or reproduced exactly: something that decides its numbers is kept where "
    "no checkpoint looks, such as a global variable or an object that is no module"
)
UNSTEADY = (
    "two evaluations of the same digits differ: something random stays on, as F.dropout(x) does, "
    "or each evaluation changes something"
)
TOGETHER = "its output for a digit depends on the digits that are evaluated with it"
FAINT = (
    "augment or preprocess makes pixels of 0..1 of those of 0..255 that it is given, which are "
    "normalised as if they were 0..255: only torchvision's transforms are given 0..1"
)
NOT_DETERMINISTIC = (
    "the same seed gives other numbers each time, and so does a resumed run: torch has no "
    "deterministic {} for this device"
)
NO_LOGARITHMS = (
    "the loss takes logarithms of probabilities, as log_softmax(1) gives, and the network "
    "gives others: the loss falls without end as all outputs rise"
)
TWICE = (
    "the network gives probabilities, of which the loss takes the softmax once more: without its "
    "own it learns faster"
)
FIXED = (
    "its kept network takes only as many digits at a time as it was traced with (2): len(x) does "
    "that, where x.shape[0] does not"
)


@dataclass(frozen=True)
class Findings:
    """What a trial found out: the `learning_rate` that the optimizer begins with; why the run
    cannot be resumed exactly, or "", and whether it can be resumed at all; what else makes its
    numbers less certain, a sentence each; and what its engine leaves to torch, by name."""

    learning_rate: str
    not_exact: str
    resumable: bool
    cautions: tuple[str, ...]
    train_accuracy_of: TrainDigits
    through_torch: tuple[str, ...] = ()


def try_out(
    entry: Entry, train: Digits, held_out: Digits, *, seed: int, device: torch.device,
    teacher: Teacher | None = None, overrides: Overrides = NONE, engine: Engine = "torch",
) -> Findings:  # fmt: skip
    """Train an iteration for two steps on the digits, the device and from the seed of a run, with
    its engine.

    Raises ExpectedError for what would fail in the run; it names the line of the file.
    """

    def fresh() -> Training:
        recipe = recipe_from(entry, seed, overrides)
        longer = dataclasses.replace(recipe, epochs=max(recipe.epochs, STEPS))
        return Training(
            longer, train, held_out[:EVALUATED], seed=seed, device=device,
            teacher=teacher.network if teacher else None,
            batches=min(recipe.accumulate_batches, 2),  # of one step, which may take all digits
            engine=engine,
        )  # fmt: skip

    with blamed_on(entry):
        training = fresh()
        check.check_steps(entry, training)
        _check_schedules(entry, recipe_from(entry, seed, overrides), seed, len(train))
        not_exact, resumable, cautions = _resumption(entry, training, fresh)
        if device.type in ASKED and (name := missing(device, lambda: next(fresh().epochs()))):
            not_exact = not_exact or NOT_DETERMINISTIC.format(name)
        seen, _ = classifier.network_input(training.recipe, train[:SOME], torch.Generator())
        if check.has_unregistered(training.network, seen.to(device)):
            cautions.append(check.UNREGISTERED)
        if check.makes_faint(training.recipe, train[:SOME]):
            cautions.append(FAINT)
        if untrained := check.untrained(training):
            cautions.append(f"no parameter group has {untrained:,} of its weights: they stay as is")
        cautions += _scale(training, train[:SOME])
        cautions += _evaluation(entry, training.classifier, training.evaluation.images[:SOME])
    return Findings(
        training.learning_rate, not_exact, resumable, tuple(cautions), training.train_accuracy_of,
        training.through_torch,
    )  # fmt: skip


def _check_schedules(entry: Entry, recipe: Recipe, seed: int, digits: int) -> None:
    """Step the schedules as often as the run will: one may have an end, or an index."""
    if recipe.schedule is None and recipe.batch_schedule is None:
        return
    steps = math.ceil(math.ceil(digits / recipe.batch_size) / recipe.accumulate_batches)
    for epoch, rate in stepping.learning_rates(recipe, build(recipe, seed), steps):
        if isinstance(rate, complex) or not math.isfinite(rate):
            field = "schedule" if recipe.schedule else "batch_schedule"
            raise refuse(entry, field, f"the learning rate becomes {rate} in epoch {epoch}")


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
        cautions = [] if same_state(after_one, repeated.state()) else [NOT_REPEATED]
        if training.average and not is_shared(entry, training.network, training.average.module):
            cautions.append(NOT_AVERAGED)
        resumed = fresh()
        try:
            resumed.restore(checkpoint.unpack(checkpoint.pack(after_one)))
            next(resumed.epochs())
        except NonFiniteLossError:
            raise
        except Exception as error:  # pickle and torch have no common class for what they refuse
            return f"it cannot be resumed: {' '.join(str(error).split())[:200]}", False, cautions
    except NonFiniteLossError:  # the run says where
        return "", True, []
    exact = same_state(training.state(), resumed.state())
    exact &= remembered(entry, training) == remembered(entry, resumed)
    return "" if exact else NOT_RESUMED, True, cautions


def _scale(training: Training, digits: Digits) -> list[str]:
    """A caution where the loss takes what the network gives for something else: what it says of the
    output tells, and of one that is the same but for 1,000 more in each number."""
    recipe = training.recipe
    if recipe.teacher or type(recipe).step is not Recipe.step:
        return []
    seen, labels = classifier.network_input(recipe, digits, torch.Generator())
    device = training.evaluation.images.device
    loss = recipe.loss or F.cross_entropy
    with torch.no_grad():
        output = training.network.eval()(seen.to(device)).float()
        now, raised = (loss(output + more, labels.to(device)).item() for more in (0, 1000))
    if raised < now - 10 and bool((output.logsumexp(1).abs() > 0.01).any()):
        return [NO_LOGARITHMS]
    sums_to_one = bool((output >= 0).all()) and _close(output.sum(1), output.new_ones(len(output)))
    return [TWICE] if sums_to_one and math.isclose(now, raised, abs_tol=0.01) else []


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
    if not same_state(several, again):
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
    (gradient,) = torch.autograd.grad(weighted, pixels, allow_unused=True)
    if gradient is None:
        return False
    return bool(gradient.isfinite().all() and gradient[1:].any())


def _export(entry: Entry, evaluated: Classifier, images: Tensor, *, compare: bool) -> list[str]:
    """Export the classifier, which is how it is kept, and `compare` what that gives with what it
    gives itself; returns cautions."""
    views, preprocess = evaluated.views, evaluated.preprocess
    # It takes its time, and the package's own parts can be exported. Of views, one will do.
    views = _FirstView(views) if views and not _is_ours(views) else None
    preprocess = None if all(map(_is_ours, parts_of(preprocess))) else preprocess
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
