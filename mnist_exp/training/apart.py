"""Why the seeds of a recipe cannot be trained as one network."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mnist_exp.common.copying import hooks_of
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.sameness import same_state
from mnist_exp.common.values import as_text
from mnist_exp.training import beside
from mnist_exp.training.loop import Training

BY_ELEMENT = {
    torch.optim.Adadelta, torch.optim.Adagrad, torch.optim.Adam, torch.optim.Adamax,
    torch.optim.AdamW, torch.optim.ASGD, torch.optim.NAdam, torch.optim.RAdam,
    torch.optim.RMSprop, torch.optim.Rprop, torch.optim.SGD,
}  # fmt: skip
"""Optimizers that step each number by itself, whatever tensor it is in."""
OF_ALL = "loss", "preprocess"
"""Fields of a recipe of which the first seed's computes them all."""
APART = "its seeds cannot be trained together"


class ApartError(ExpectedError):
    """A recipe cannot be trained for several seeds as one; the text says why."""


def why_apart(trainings: Sequence[Training]) -> str:
    """Why the seeds of a recipe cannot be trained as one, or ""."""
    first, *others = trainings
    if type(first.optimizer) not in BY_ELEMENT:
        return f"{type(first.optimizer).__name__} may step each number by those beside it"
    if isinstance(first.schedule, ReduceLROnPlateau):
        return "ReduceLROnPlateau has another learning rate for each"
    if any(True for weight in first.network.parameters() for _ in hooks_of(weight)):
        return "its weights have hooks, which would be given the gradients of all"
    ours = _alike(first)
    for other in others:
        for what, theirs in _alike(other).items():
            if not same_state(ours[what], theirs):
                return f"{what} differ from seed to seed"
    return ""


def _alike(training: Training) -> dict[str, Any]:
    """What is taken from the first of several trainings for all of them."""
    network, recipe = training.network, training.recipe
    named = itertools.chain(network.named_parameters(), network.named_buffers())
    tensors = [(name, each.shape, each.dtype, each.requires_grad) for name, each in named]
    stepped = training.optimizer, training.schedule, training.batch_schedule
    return {
        "the hyperparameters of its recipe": {
            name: as_text(value) for name, value in recipe.hyperparameters().items()
        },
        "the shapes of its weights": tensors,
        "attributes of its network": beside.read_attributes(network),
        "settings of its optimizer": [
            {key: value for key, value in group.items() if key != "params"}
            for group in training.optimizer.param_groups
        ],
        "its schedules": [own.state_dict() for own in stepped[1:] if own],
        "its loss and preprocessing": parts_of_all(training),
    }


def parts_of_all(training: Training) -> dict[str, Any]:
    """The states of those parts of a recipe that compute all seeds, each with the first's."""
    parts: dict[str, Any] = training.state()["parts"]
    return {name: state for name, state in parts.items() if name.startswith(OF_ALL)}
