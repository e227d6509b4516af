"""All that is settled before a run begins: what is trained, how, and from what."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mnist_exp import data
from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import loading
from mnist_exp.notebook.entries import Entry
from mnist_exp.notebook.loading import Iteration
from mnist_exp.recipe import PIXELS, Recipe, Target
from mnist_exp.runs import environment, provenance
from mnist_exp.training import classifier, receptive_field
from mnist_exp.training.receptive_field import ReceptiveField


@dataclass(frozen=True)
class Plan:
    """All that is settled before a run begins, so that a wrong request leaves no run behind."""

    entry: Entry
    """The file of the iteration, as it reads."""
    recipe: Recipe
    """What is trained: the recipe of the file, with the overrides."""
    overrides: Mapping[str, object]
    """What differs from the recipe of the file; empty where nothing does."""
    target: Target
    seed: int
    split: data.Split
    device: torch.device
    parameters: int
    """How many of the network can be trained."""
    receptive_field: ReceptiveField
    layers: str
    """The network's layers, as a table to read."""
    run_id: str | None = None
    """The run that this goes on with; None for a new one."""

    @property
    def name(self) -> str:
        """The run's name in the store."""
        return f"{self.entry.name} · seed {self.seed}"

    @property
    def overridden(self) -> str:
        """The overrides in words, as in "epochs=2"; empty where there are none."""
        return ", ".join(f"{key}={value}" for key, value in self.overrides.items())

    def settings(self) -> dict[str, object]:
        """What decides the result, as the parameters of the run."""
        return {
            "model": self.entry.number,
            **self.recipe.hyperparameters(),
            "seed": self.seed,
            "split": self.split,
            "parameters": self.parameters,
            "receptive_field": str(self.receptive_field),
            **environment.surroundings(self.device),
        }

    def tags(self) -> dict[str, str]:
        """What the run was made from, as tags of the run."""
        return {
            "code_sha256": self.entry.code_sha256,
            "training_sha256": environment.training_sha256(),
            "overrides": self.overridden or "none",
            **{f"sha256.{name}": value for name, value in data.SHA256.items()},
        }

    def identity(self) -> dict[str, str]:
        """What decides the numbers of the run, its code by file, and its overrides."""
        deciding = {
            key: str(value)
            for key, value in self.settings().items()
            if key not in ("mlflow", "mnist-exp")
        }
        by_file = {name: text for name, text in self.tags().items() if name != "code_sha256"}
        return deciding | by_file | self.entry.code_files


def settle(
    number: int, *, seed: int = 1, epochs: int | None = None, device: str = "auto",
    split: data.Split = "test", entry: Entry | None = None,
) -> Plan:  # fmt: skip
    """Settle a run of iteration `number`, as its file is now or as `entry` has it; `epochs`
    overrides its recipe.

    Raises ExpectedError for anything that cannot be run.
    """
    data.check_split(split)
    iteration = loading.iteration_of(entry) if entry else loading.load_iteration(number)
    overrides: dict[str, Any] = {}
    if epochs not in (None, iteration.recipe.epochs):
        overrides["epochs"] = epochs
    network = _try_out(iteration)
    return Plan(
        entry=iteration.entry,
        recipe=dataclasses.replace(iteration.recipe, **overrides),
        overrides=overrides,
        target=loading.load_target(),
        seed=seed,
        split=split,
        device=environment.choose_device(device),
        parameters=classifier.count_parameters(network),
        receptive_field=receptive_field.of_network(network, PIXELS),
        layers=provenance.layers(network),
    )


def _try_out(iteration: Iteration) -> nn.Module:
    """Call all that the recipe names, so that mistakes in it are found before the run; returns the
    network."""
    recipe = iteration.recipe
    images = torch.zeros(2, *PIXELS)
    try:
        network = recipe.network()
        optimizer = recipe.optimizer(network.parameters())
        if recipe.schedule:
            recipe.schedule(optimizer)
        if recipe.batch_schedule:
            recipe.batch_schedule(recipe.optimizer(network.parameters()), total_steps=100)
        augmented = recipe.augment(images, torch.Generator()) if recipe.augment else images
        views = recipe.views(images) if recipe.views else [images]
        pixels = [recipe.preprocess(x) if recipe.preprocess else x for x in (augmented, *views)]
        trained, *evaluated = map(data.normalise, pixels)
        of_training = network.eval()(trained)  # (2, 10), if all is well
        with torch.inference_mode():
            of_views = torch.stack([network(view) for view in evaluated])  # (views, 2, 10)
        shapes = tuple(of_training.shape), tuple(of_views.shape[1:])
    except Exception as error:
        # Whatever it is: in here only what the recipe names is called, so that no mistake of this
        # package is told as one of the iteration.
        raise ExpectedError(loading.where(error, iteration.path)) from error
    for shape in shapes:
        if shape != (2, 10):
            raise ExpectedError(
                f"{iteration.file}: for 2 images the network gives {shape}, not (2, 10)"
            )
    return network
