"""What a recipe says of itself, and refuses."""

from functools import partial

import pytest
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from mnist_exp.augment import RandomRotation
from mnist_exp.preprocess import Deslant
from mnist_exp.recipe import ExponentialAverage, Recipe
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
    }


def test_what_a_recipe_leaves_out_is_recorded_as_none() -> None:
    made = Recipe(network=nn.Identity, batch_size=1, epochs=1, optimizer=partial(SGD, lr=1))
    assert made.hyperparameters()["schedule"] == "none"
    assert made.hyperparameters()["augment"] == "none"


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": -1}, {"epochs": 1.5}])
def test_an_impossible_recipe_is_refused(wrong: dict[str, float]) -> None:
    right = {"network": nn.Identity, "batch_size": 1, "epochs": 1, "optimizer": SGD}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**(right | wrong))
