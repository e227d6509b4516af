"""What the file of an iteration names: its recipe; and the target that it is judged by."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import starmap
from typing import TYPE_CHECKING, Any, Literal, dataclass_transform

from mnist_exp.common.values import as_text, name_of, parts_of, settings_of

if TYPE_CHECKING:  # who reads the notebook need not wait for torch
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from mnist_exp.augment import Augment
    from mnist_exp.preprocess import Preprocess
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


@dataclass_transform(kw_only_default=True, frozen_default=True)
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: torch's and torchvision's own classes, with their arguments in
    `functools.partial`, their objects, and functions. docs/recipe.md has an example of each field.
    """

    network: Callable[[], nn.Module]
    """The class of the network, or a function that makes one."""
    optimizer: Callable[..., Optimizer]
    """Is called with the network's parameters, or with its `parameter_groups`. Its step is given a
    closure where it takes one, as LBFGS asks for."""
    batch_size: int
    epochs: int
    loss: Callable[..., Tensor] | None = None
    """Of the network's output, float32 (N, 10), and labels, int64 (N,), or float32 (N, 10) where an
    augmentation mixes digits; with a `teacher`, of its output besides. Cross-entropy if left out.
    """
    parameter_groups: Callable[[nn.Module], Iterable[Any]] | None = None
    """What of the network the optimizer trains, and how, as torch's parameter groups."""
    schedule: Callable[..., LRScheduler] | None = None
    """Is stepped once an epoch; ReduceLROnPlateau is given the loss on the validation digits."""
    batch_schedule: Callable[..., LRScheduler] | None = None
    """Is stepped at each step of the optimizer. Either schedule is told how often it will be
    stepped where it takes `total_steps`, as OneCycleLR does, and the recipe does not set it."""
    augment: Augment | Sequence[Augment] | None = None
    """Changes the training images, not the evaluated ones, one part behind the other."""
    preprocess: Preprocess | Sequence[Preprocess] | None = None
    """Changes all images, behind `augment`, also their size and number of channels."""
    averaging: ExponentialAverage | None = None
    """The averaged network is then the one that is evaluated, judged and kept."""
    views: Views | None = None
    """Are taken of each evaluated image, before `preprocess`; the network's probabilities for them
    are averaged. The train accuracy is that of one view."""
    gradient_clip_norm: float | None = None
    """The largest norm of all gradients together; larger ones are shrunk to it."""
    accumulate_batches: int = 1
    """How many batches make one step of the optimizer: it follows their mean over all digits."""
    autocast: Literal["bfloat16"] | None = None
    """Training computes in this dtype where torch.autocast does. Evaluation does not."""
    teacher: int | str | None = None
    """An iteration whose trained network the loss is given the output of, or the id of its run."""
    metrics: Mapping[str, Callable[[Tensor, Tensor], float | Tensor]] = field(default_factory=dict)
    """By name, what is recorded of each epoch besides: a number, of the classifier's output for the
    evaluation digits, float32 (N, 10), and their labels, int64 (N,)."""

    def __init_subclass__(cls) -> None:
        """A subclass may have fields of its own, as in `weight: float = 0.5`."""
        dataclass(frozen=True, kw_only=True)(cls)
        del cls.__setattr__, cls.__delattr__  # else it could not be called a dataclass once more

    def __post_init__(self) -> None:
        for name, (is_right, needed) in _RULES.items():
            value = getattr(self, name)
            if not is_right(value):
                raise ValueError(f"{name} must be {needed}, not {_in_words(value)}")

    def step(
        self, network: nn.Module, images: Tensor, labels: Tensor, teacher_output: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The loss of a batch, of which a step follows the gradient, and the network's output for
        it, float32 (N, 10), of which the train accuracy is counted.

        What no field can say, a subclass says here. `images` are augmented, preprocessed and
        normalised, float32 (N, C, H, W); `labels` are int64 (N,), or float32 (N, 10) where an
        augmentation mixes digits; `teacher_output` is None without a `teacher`. The network is in
        training mode. Gradients are set to zero before, and calculated behind it.
        """
        from torch.nn import functional

        output = network(images).float()  # a network may compute in fewer bits
        loss = self.loss or functional.cross_entropy
        given = [output, labels] if teacher_output is None else [output, labels, teacher_output]
        # Copies, since a loss may change what it is given, of which the train accuracy is counted.
        return loss(*(tensor.clone() for tensor in given)), output

    def hyperparameters(self) -> dict[str, object]:
        """Everything the recipe sets, flat, under the names that the tracking store shows.

        The optimizer's `lr` is `learning_rate`; every other argument keeps its name behind that of
        its owner (`optimizer.momentum`, `schedule.step_size`, `augment.degrees`). Of several parts
        of an owner, the class stands between (`augment.RandomErasing.p`). What the recipe leaves
        out is "none", so that runs with and without it share a column. A field that a subclass adds
        is an argument of its step.
        """
        flat: dict[str, object] = {}
        for name in VALUES:
            flat[name] = "none" if (value := getattr(self, name)) is None else value
        for name in ("network", "parameter_groups"):
            flat[name] = name_of(getattr(self, name))
        for name in OWNERS:
            parts = parts_of(getattr(self, name))
            flat[name] = ", ".join(map(name_of, parts)) or "none"
            for part in parts:
                owner = name if len(parts) == 1 else f"{name}.{type(part).__name__}"
                for setting, value in settings_of(part).items():
                    key = f"{owner}.{setting}"  # two parts of a class share it
                    flat[key] = f"{as_text(flat[key])}, {as_text(value)}" if key in flat else value
        flat["learning_rate"] = flat.pop("optimizer.lr", "default")
        if self.loss is None:
            flat["loss"] = "cross_entropy"
        flat["metrics"] = ", ".join(starmap(_named, self.metrics.items())) or "none"
        flat["step"] = "none" if type(self).step is Recipe.step else name_of(type(self).step)
        for name in (own.name for own in fields(self) if own.name not in _RULES):
            flat[f"step.{name}"] = getattr(self, name)
        return flat


VALUES = (
    "batch_size", "epochs", "accumulate_batches", "gradient_clip_norm", "autocast", "teacher",
)  # fmt: skip
"""The fields that are numbers or words."""
OWNERS = (
    "optimizer", "schedule", "batch_schedule", "loss", "augment", "preprocess", "averaging",
    "views",
)  # fmt: skip
"""The fields whose parts have settings of their own."""


def _named(name: str, part: object) -> str:
    """A part by its name, which is said once where it has no other."""
    called = name_of(part)
    return called if called.partition(" ")[0] == name else f"{name} {called}"


def _in_words(value: object) -> str:
    """What is in place of something else, in a line."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)[:80]
    return f"an object of class {type(value).__name__}"


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _made(value: object) -> bool:
    """Whether it can be called, and is no class that was to be called before."""
    return callable(value) and not isinstance(value, type)


def _optional(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_right(value)


def _makes(value: object) -> bool:
    """Whether it is a class or a function, not what one of them made."""
    return (callable(value) and not hasattr(value, "forward")) or isinstance(value, type)


def _are_made(value: object) -> bool:
    return all(map(_made, parts_of(value)))


def _are_metrics(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        re.fullmatch(r"[A-Za-z]\w*", str(name)) and name not in ("accuracy", "loss", "errors")
        and _made(metric)
        for name, metric in value.items()
    )  # fmt: skip


_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "network": (_makes, "a class, or a function that makes a network, as in network=Network"),
    "optimizer": (_makes, "a class with its arguments, as in optimizer=partial(SGD, lr=0.01)"),
    "batch_size": (_whole, "a whole number of at least 1, as in batch_size=128"),
    "epochs": (_whole, "a whole number of at least 1, as in epochs=15"),
    "loss": (
        _optional(_made),
        "a function of output and labels, as in loss=nn.CrossEntropyLoss(label_smoothing=0.1)",
    ),
    "parameter_groups": (
        _optional(_makes),
        "a function of the network, as in parameter_groups=lambda network: [{'params': ...}]",
    ),
    "schedule": (
        _optional(_makes),
        "a class with its arguments, as in schedule=partial(StepLR, step_size=6)",
    ),
    "batch_schedule": (
        _optional(_makes),
        "a class with its arguments, as in batch_schedule=partial(OneCycleLR, max_lr=0.1)",
    ),
    "augment": (
        _are_made,
        "an object, a function, or several, as in augment=[RandomRotation(degrees=7)]",
    ),
    "preprocess": (_are_made, "an object, a function, or several, as in preprocess=v2.Pad(2)"),
    "averaging": (
        lambda value: value is None or isinstance(value, ExponentialAverage),
        "an average, as in averaging=ExponentialAverage(decay=0.99)",
    ),
    "views": (_optional(_made), "an object, as in views=Rotations(degrees=(-8, 0, 8))"),
    "gradient_clip_norm": (
        _optional(lambda value: type(value) in (int, float) and 0 < value < float("inf")),
        "a number above 0, as in gradient_clip_norm=1.0",
    ),
    "accumulate_batches": (_whole, "a whole number of at least 1, as in accumulate_batches=4"),
    "autocast": (
        _optional(lambda value: value == "bfloat16"), "left out, or autocast='bfloat16'",
    ),
    "teacher": (
        _optional(
            lambda value: _whole(value)
            or (isinstance(value, str) and re.fullmatch("[0-9a-f]{4,32}", value) is not None)
        ),
        "the number of an iteration, or the id of a run in quotes, as in teacher=14",
    ),
    "metrics": (
        _are_metrics,
        "functions of output and labels by names (not accuracy), as in metrics={'top_2': top_2}",
    ),
}  # fmt: skip
"""By field, whether a value is right, and what is needed."""


def example_of(name: str) -> str:
    """What a field is given in a file, as an example: "as in epochs=15". Empty without one."""
    _, needed = _RULES.get(name, (None, ""))
    return needed[needed.index("as in ") :] if "as in " in needed else ""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The bar: `test_accuracy` (a fraction) in every one of the `last_epochs`, within `max_epochs`,
    with fewer than `parameters_below` trainable parameters."""

    test_accuracy: float
    last_epochs: int
    max_epochs: int
    parameters_below: int
