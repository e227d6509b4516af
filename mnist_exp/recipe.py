"""What the file of an iteration names: its recipe; and the target that it is judged by."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mnist_exp.common.values import as_text

if TYPE_CHECKING:  # who reads the notebook need not wait for torch
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from mnist_exp.augment import Augmentation
    from mnist_exp.preprocess import Preprocessing
    from mnist_exp.views import Views

PIXELS = (1, 28, 28)
"""The shape of one MNIST image: channels, height, width."""


@dataclass(frozen=True, kw_only=True)
class ExponentialAverage:
    """Weights and batch-norm statistics averaged over the steps: after each `every` steps the
    average keeps `decay` of itself and takes the rest from the network.

    At first it is the network; after n times it keeps (1 + n) / (10 + n) of itself where that is
    less, as TensorFlow's moving average does: it would be the first weights for epochs otherwise.
    """

    decay: float
    every: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.decay <= 1 and isinstance(self.every, int) and self.every >= 1):
            raise ValueError(f"decay must be in 0..1 and every a whole number from 1: {self}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. Torch's own classes, with their arguments in `functools.partial`.

    `schedule` is stepped once an epoch. `batch_schedule` is stepped once a batch; where it takes
    the number of all steps as `total_steps`, as OneCycleLR does, and the recipe does not set it, it
    is called with that. `augment` changes the training images, not the evaluated ones; then
    `preprocess` changes both. `views` are taken of each evaluated image, before `preprocess`, and
    the network's probabilities for them are averaged. With `averaging`, the averaged network is the
    one that is evaluated, judged and kept.
    The train accuracy is that of the network in training, of one view.
    """

    network: Callable[[], nn.Module]
    optimizer: Callable[..., Optimizer]
    batch_size: int
    epochs: int
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    batch_schedule: Callable[..., LRScheduler] | None = None
    augment: Augmentation | None = None
    preprocess: Preprocessing | None = None
    averaging: ExponentialAverage | None = None
    views: Views | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")

    def hyperparameters(self) -> dict[str, object]:
        """Everything the recipe sets, flat, under the names that the tracking store shows.

        The optimizer's `lr` is `learning_rate`; every other argument keeps its name behind that of
        its owner (`optimizer.momentum`, `schedule.step_size`, `augment.degrees`). What the recipe
        leaves out is "none", so that runs with and without it share a column.
        """
        flat: dict[str, object] = {
            "network": _name(self.network),
            "batch_size": self.batch_size,
            "epochs": self.epochs,
        }
        for owner in ("optimizer", "schedule", "batch_schedule"):
            part = getattr(self, owner)
            flat[owner] = _name(part) if part else "none"
            flat |= {f"{owner}.{key}": value for key, value in _arguments(part).items()}
        flat["learning_rate"] = flat.pop("optimizer.lr", "default")
        for owner in ("augment", "preprocess", "averaging", "views"):
            part = getattr(self, owner)
            flat[owner] = type(part).__name__ if part else "none"
            fields = dataclasses.asdict(part) if part else {}
            flat |= {f"{owner}.{key}": value for key, value in fields.items()}
        return flat


def _name(part: object) -> str:
    return as_text(part.func if isinstance(part, partial) else part)


def _arguments(part: object) -> dict[str, object]:
    if not isinstance(part, partial):
        return {}
    bound = inspect.signature(part.func).bind_partial(None, *part.args, **part.keywords)
    # The first is the weights, or the optimizer, that training fills in.
    return dict(list(bound.arguments.items())[1:])


@dataclass(frozen=True, kw_only=True)
class Target:
    """The bar: `test_accuracy` (a fraction) in every one of the `last_epochs`, within `max_epochs`,
    with fewer than `parameters_below` trainable parameters."""

    test_accuracy: float
    last_epochs: int
    max_epochs: int
    parameters_below: int
