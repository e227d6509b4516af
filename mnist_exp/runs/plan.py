"""All that is settled before a run begins: what is trained, how, and from what."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from mnist_exp import ExpectedError, data
from mnist_exp.notebook import loading
from mnist_exp.notebook.loading import Iteration
from mnist_exp.recipe import PIXELS, Recipe, Target
from mnist_exp.runs import environment
from mnist_exp.training import classifier
from mnist_exp.training.classifier import Classifier
from mnist_exp.training.receptive_field import (
    ReceptiveFieldError,
    output_field,
    receptive_field_table,
)


@dataclass(frozen=True)
class Plan:
    """All that is settled before a run begins, so that a wrong request leaves no run behind."""

    iteration: Iteration
    target: Target
    recipe: Recipe
    overrides: str
    seed: int
    split: data.Split
    device: torch.device
    parameters: int
    receptive_field: str
    table: pd.DataFrame | None
    """The receptive-field table; None where the network cannot be followed, and `receptive_field`
    says why."""
    run_id: str = ""
    """The run that this goes on with; empty for a new one."""

    @property
    def name(self) -> str:
        """The run's name in the store."""
        return f"{self.iteration.name} · seed {self.seed}"

    def settings(self) -> dict[str, object]:
        """What decides the result, as the parameters of the run."""
        return {
            "model": self.iteration.number,
            **self.recipe.hyperparameters(),
            "seed": self.seed,
            "split": self.split,
            "parameters": self.parameters,
            "receptive_field": self.receptive_field,
            **environment.settings(self.device),
        }

    def tags(self) -> dict[str, str]:
        """What the run was made from, as tags of the run."""
        return {
            "code_sha256": self.iteration.code_sha256,
            "training_sha256": environment.training_sha256(),
            "overrides": self.overrides,
            **{f"sha256.{name}": value for name, value in data.SHA256.items()},
        }

    def identity(self) -> dict[str, str]:
        """What decides the numbers of the run, and its overrides."""
        deciding = {
            key: str(value)
            for key, value in self.settings().items()
            if key not in ("mlflow", "mnist-exp")
        }
        return deciding | self.tags()


def settle(
    number: int, *, seed: int = 1, epochs: int | None = None, device: str = "auto",
    split: data.Split = "test",
) -> Plan:  # fmt: skip
    """Settle a run of iteration `number`; `epochs` overrides its recipe.

    Raises ExpectedError for anything that cannot be run.
    """
    data.check_split(split)
    iteration = loading.load_iteration(number)
    changed: dict[str, Any] = (
        {} if epochs in (None, iteration.recipe.epochs) else {"epochs": epochs}
    )
    network = _try_out(iteration)
    try:
        table = receptive_field_table(network, PIXELS)
        height, width = (axis.size for axis in output_field(network, PIXELS))
        receptive_field = f"{height}" if height == width else f"{height}x{width}"
    except ReceptiveFieldError as error:
        table, receptive_field = None, f"unknown: {error}"
    return Plan(
        iteration=iteration,
        target=loading.load_target(),
        recipe=dataclasses.replace(iteration.recipe, **changed),
        overrides=", ".join(f"{key}={value}" for key, value in changed.items()) or "none",
        seed=seed,
        split=split,
        device=environment.choose_device(device),
        parameters=classifier.count_parameters(network),
        receptive_field=receptive_field,
        table=table,
    )


def _try_out(iteration: Iteration) -> nn.Module:
    """The network, once its recipe has been put together: mistakes are found before the run."""
    recipe = iteration.recipe
    try:
        network = recipe.network()
        optimizer = recipe.optimizer(network.parameters())
        if recipe.schedule:
            recipe.schedule(optimizer)
        if recipe.batch_schedule:
            recipe.batch_schedule(recipe.optimizer(network.parameters()), total_steps=100)
        images = torch.zeros(2, *PIXELS, dtype=torch.uint8)
        trained = network.eval()(classifier.network_input(recipe, images, torch.Generator()))
        whole = Classifier(network, recipe.preprocess, recipe.views)
        shapes = [tuple(output.shape) for output in (trained, classifier.predict(whole, images))]
    except Exception as error:
        raise ExpectedError(loading.where(error, iteration.path)) from error
    for shape in shapes:
        if shape != (2, 10):
            raise ExpectedError(
                f"{iteration.file}: for 2 images the network gives {shape}, not (2, 10)"
            )
    return network
