"""What a training steps: the optimizer of a recipe and its schedules, over one batch or several."""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mnist_exp.common.errors import ExpectedError
from mnist_exp.recipe import Recipe
from mnist_exp.training.transforms import classes

MOST_STEPS = 100_000


@dataclass(frozen=True)
class Batch:
    """What `Recipe.step` is given of a batch."""

    images: Tensor
    labels: Tensor
    teacher_output: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)


def optimizer_of(recipe: Recipe, network: nn.Module) -> Optimizer:
    """The optimizer of a network. Nothing that steps it changes the recipe's own objects."""
    parameter_groups = recipe.parameter_groups or nn.Module.parameters
    weights = parameter_groups(network)  # in a line of its own, which is what an error names
    optimizer = recipe.optimizer(weights)
    for group in getattr(optimizer, "param_groups", ()):
        if isinstance(group.get("lr"), Tensor):  # the recipe's own, which a schedule would change
            group["lr"] = group["lr"].clone()
    return optimizer


def schedule_of(
    schedule: Callable[..., LRScheduler] | None, optimizer: Optimizer, total_steps: int
) -> LRScheduler | None:
    """A schedule of an optimizer, if there is one; it will be stepped so often."""
    return schedule(optimizer, **asked_by(schedule, total_steps)) if schedule else None


def asked_by(stepped: Callable[..., LRScheduler], total_steps: int) -> dict[str, int]:
    """What a schedule is told: how often it will be stepped, if it asks for `total_steps` and the
    recipe has not given it."""
    given = stepped.keywords if isinstance(stepped, partial) else {}
    parameters = inspect.signature(stepped).parameters
    takes_all = any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    takes = takes_all or "total_steps" in parameters
    if given.keys() & {"total_steps", "steps_per_epoch"} or not takes:
        return {}
    return {"total_steps": total_steps}


def learning_rates(recipe: Recipe, network: nn.Module, steps: int) -> Iterator[tuple[int, Any]]:
    """The learning rates of a training of so many `steps` an epoch, as its schedules set them,
    without a step of the optimizer; each with its epoch. Beyond a hundred thousand steps, which
    take a second or two, there are those of the epochs alone."""
    optimizer = optimizer_of(recipe, network)
    schedule = schedule_of(recipe.schedule, optimizer, recipe.epochs)
    batch_schedule = schedule_of(recipe.batch_schedule, optimizer, recipe.epochs * steps)
    few = recipe.epochs * steps <= MOST_STEPS
    with warnings.catch_warnings(action="ignore"):  # that the optimizer was to be stepped before
        for epoch in range(1, recipe.epochs + 1):
            if few and batch_schedule:
                for _ in range(steps):
                    yield epoch, optimizer.param_groups[0]["lr"]
                    batch_schedule.step()
            yield epoch, optimizer.param_groups[0]["lr"]
            if schedule and not isinstance(schedule, ReduceLROnPlateau):
                schedule.step()


def learning_rate_of(optimizer: Optimizer) -> str:
    """What the optimizer begins with, as in "0.01"; "0.01 0.1" where its groups differ."""
    rates = [group["lr"] for group in optimizer.param_groups]
    plain = [rate.item() if isinstance(rate, Tensor) else rate for rate in rates]
    return " ".join(dict.fromkeys(map(str, plain)))


Direct = Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]
"""What gives the cross-entropy of images with their labels, and how many the network classifies
rightly, and weights their gradients; or None, and has done nothing."""


def take_step(
    recipe: Recipe, network: nn.Module, optimizer: Optimizer, batches: Sequence[Batch],
    direct: Direct = lambda *_: None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Take one step over batches; returns their loss, a mean over all digits, and how many digits
    were classified rightly before the step. Of a mixed digit, that is its greatest share. Both stay
    on the device, as scalars: to read one is to wait for it.

    Where the loss is the plain one of a single batch, `direct` is asked for it first."""
    is_plain = _is_plain(recipe, batches)
    total = sum(map(len, batches))
    before: list[tuple[Tensor, Tensor]] = []

    def closure() -> Any:
        """The loss with its gradient; an optimizer may ask for it several times."""
        optimizer.zero_grad()
        losses, correct = [], []
        for batch in batches:
            found = direct(batch.images, batch.labels) if is_plain else None
            loss, right = found or _back(recipe, network, batch, len(batch) / total)
            losses.append(loss)
            correct.append(right)
        if isinstance(optimizer, torch.optim.LBFGS):  # takes a gradient for a row of numbers, which
            for weight in network.parameters():  # it is not in channels_last
                weight.grad = None if weight.grad is None else weight.grad.contiguous()
        if recipe.gradient_clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clip_norm)
        loss = _total(losses)
        before.append((loss, _total(correct)))
        return loss

    if takes_closure(optimizer):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()
    if not before:
        raise ExpectedError(f"{type(optimizer).__name__}.step(closure) does not call the closure")
    return before[0]


def _is_plain(recipe: Recipe, batches: Sequence[Batch]) -> bool:
    """Whether the loss is the cross-entropy of one batch."""
    return (
        len(batches) == 1 and type(recipe).step is Recipe.step and recipe.loss is None
        and batches[0].teacher_output is None
    )  # fmt: skip


def _back(recipe: Recipe, network: nn.Module, batch: Batch, share: float) -> tuple[Tensor, Tensor]:
    """A share of the loss of a batch, of which all weights get the gradient, and how many digits
    are classified rightly."""
    with autocast(recipe, batch.images.device):
        loss, output = recipe.step(network, batch.images, batch.labels, batch.teacher_output)
    loss = loss if share == 1 else loss * share
    loss.backward()
    return loss.detach(), (output.argmax(dim=1) == classes(batch.labels)).sum()


def _total(values: list[Tensor]) -> Tensor:
    return (values[0] if len(values) == 1 else torch.stack(values)).sum()


def takes_closure(optimizer: Optimizer) -> bool:
    """Whether its step may evaluate the loss itself, as all of torch's own may."""
    return _binds_closure(type(optimizer).step)


@cache  # it is asked for each step
def _binds_closure(step: Callable[..., Any]) -> bool:
    try:
        inspect.signature(step).bind("self", None)
    except TypeError:
        return False
    return True


def autocast(recipe: Recipe, device: torch.device) -> Any:
    """A block in which a recipe's steps are computed."""
    if recipe.autocast is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, recipe.autocast))
