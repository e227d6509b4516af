"""What a recipe says of itself, and refuses."""

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torchvision.transforms import v2

from mnist_exp.augment import RandomRotation
from mnist_exp.preprocess import Deslant
from mnist_exp.recipe import ExponentialAverage, Recipe
from mnist_exp.runs.overrides import overridden, read
from mnist_exp.views import Rotations


def test_hyperparameters_have_readable_names() -> None:
    made = Recipe(
        network=nn.Identity,
        batch_size=32,
        epochs=3,
        optimizer=partial(SGD, lr=0.02, momentum=0.9),
        schedule=partial(StepLR, step_size=6, gamma=0.1),
        augment=RandomRotation(degrees=7),
        preprocess=Deslant(),
        averaging=ExponentialAverage(decay=0.99, every=5),
        views=Rotations(degrees=(-8, 8)),
    )
    assert made.hyperparameters() == {
        "network": "Identity",
        "batch_size": 32,
        "epochs": 3,
        "optimizer": "SGD",
        "learning_rate": 0.02,
        "optimizer.momentum": 0.9,
        "schedule": "StepLR",
        "schedule.step_size": 6,
        "schedule.gamma": 0.1,
        "augment": "RandomRotation",
        "augment.degrees": 7,
        "preprocess": "Deslant",
        "batch_schedule": "none",
        "averaging": "ExponentialAverage",
        "averaging.decay": 0.99,
        "averaging.every": 5,
        "views": "Rotations",
        "views.degrees": (-8, 8),
        "loss": "cross_entropy",
        "parameter_groups": "none",
        "gradient_clip_norm": "none",
        "accumulate_batches": 1,
        "autocast": "none",
        "teacher": "none",
        "metrics": "none",
        "step": "none",
    }


def smooth(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output, labels, label_smoothing=0.1)


class Own(Recipe):
    def step(
        self, network: nn.Module, images: Tensor, labels: Tensor, teacher_output: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return super().step(network, images, labels, teacher_output)


class WithOwn(Recipe):
    weight: float = 0.5


def test_a_subclass_has_fields_of_its_own() -> None:
    def own(**fields: Any) -> WithOwn:
        return WithOwn(network=nn.Identity, batch_size=1, epochs=1, optimizer=SGD, **fields)

    assert (own().weight, own(weight=2.0).weight) == (0.5, 2.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'wait'"):
        own(wait=2.0)


def test_what_people_try_has_readable_names() -> None:
    made = Own(
        network=nn.Identity,
        batch_size=32,
        epochs=3,
        optimizer=SGD,
        loss=nn.CrossEntropyLoss(label_smoothing=0.1),
        augment=[RandomRotation(degrees=7), v2.Compose([v2.RandomErasing(p=0.25)]), torch.flip],
        preprocess=v2.Pad(2),
        gradient_clip_norm=1.5,
        accumulate_batches=2,
        autocast="bfloat16",
        teacher=14,
        metrics={"smooth": smooth, "other": smooth},
        parameter_groups=nn.Module.parameters,
    )
    own = made.hyperparameters()
    expected = {
        "loss": "CrossEntropyLoss",
        "loss.label_smoothing": 0.1,
        "augment": "RandomRotation, RandomErasing, flip",
        "augment.RandomRotation.degrees": 7,
        "augment.RandomErasing.p": 0.25,
        "preprocess": "Pad",
        "preprocess.padding": 2,
        "gradient_clip_norm": 1.5,
        "accumulate_batches": 2,
        "autocast": "bfloat16",
        "teacher": 14,
    }
    assert {name: own[name] for name in expected} == expected
    assert re.fullmatch(r"(smooth [0-9a-f]{8}), other \1", str(own["metrics"]))
    assert re.fullmatch("step [0-9a-f]{8}", str(own["step"]))
    assert re.fullmatch("parameters [0-9a-f]{8}", str(own["parameter_groups"]))


def test_parts_of_one_class_share_the_names_of_their_settings() -> None:
    turned = [RandomRotation(degrees=3), v2.Pad(1), RandomRotation(degrees=7)]
    made = Recipe(network=nn.Identity, batch_size=1, epochs=1, optimizer=SGD, augment=turned)
    assert made.hyperparameters()["augment.RandomRotation.degrees"] == "3, 7"


@dataclass(frozen=True, kw_only=True)
class Weighted(Recipe):
    """A recipe with a field of its own."""

    weight: float | None


def test_what_a_subclass_adds_is_an_argument_of_its_step() -> None:
    made = Weighted(network=nn.Identity, batch_size=1, epochs=1, optimizer=SGD, weight=0.5)
    assert made.hyperparameters()["step.weight"] == 0.5
    plain = Recipe(network=nn.Identity, batch_size=1, epochs=1, optimizer=SGD)
    assert [name for name in plain.hyperparameters() if name.startswith("step.")] == []
    assert overridden(made, read("step.weight=0.25")).hyperparameters()["step.weight"] == 0.25


def test_a_function_is_named_with_its_code() -> None:
    def recipe(**fields: Any) -> Recipe:
        return Recipe(network=nn.Identity, batch_size=1, epochs=1, optimizer=SGD, **fields)

    as_function = recipe(loss=smooth).hyperparameters()["loss"]
    as_partial = recipe(loss=partial(F.cross_entropy, label_smoothing=0.1)).hyperparameters()
    assert re.fullmatch("smooth [0-9a-f]{8}", str(as_function))
    assert as_partial["loss.label_smoothing"] == 0.1


def test_what_a_recipe_leaves_out_is_recorded_as_none() -> None:
    made = Recipe(network=nn.Identity, batch_size=1, epochs=1, optimizer=partial(SGD, lr=1))
    assert made.hyperparameters()["schedule"] == "none"
    assert made.hyperparameters()["augment"] == "none"


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": -1}, {"epochs": 1.5}])
def test_an_impossible_recipe_is_refused(wrong: dict[str, float]) -> None:
    right = {"network": nn.Identity, "batch_size": 1, "epochs": 1, "optimizer": SGD}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**(right | wrong))
