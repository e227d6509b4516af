"""All that is settled before a run begins: what is trained, how, and from what."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from mnist_exp import data
from mnist_exp.common.copying import copied
from mnist_exp.common.values import as_text
from mnist_exp.data import Digits, splits
from mnist_exp.notebook import entries, loading
from mnist_exp.notebook.entries import Entry
from mnist_exp.recipe import Recipe, Target
from mnist_exp.runs import check, effects, engines, environment, provenance, trial
from mnist_exp.runs import overrides as overriding
from mnist_exp.runs.blame import blamed_on
from mnist_exp.runs.engines import ChosenEngine
from mnist_exp.runs.overrides import NONE, Overrides
from mnist_exp.runs.teacher import Teacher, find_teacher
from mnist_exp.runs.trial import Findings
from mnist_exp.tracking import names
from mnist_exp.training import classifier, loop, receptive_field
from mnist_exp.training.receptive_field import ReceptiveField


@dataclass(frozen=True)
class Plan:
    """All that is settled before a run begins, so that a wrong request leaves no run behind."""

    entry: Entry
    """The file of the iteration, as it reads."""
    recipe: Recipe
    """What is trained: the recipe of the file, with the overrides."""
    overrides: Overrides
    """What differs from the recipe of the file; empty where nothing does."""
    target: Target
    seed: int
    split: data.Split
    fold: data.Fold | None
    """What of the training digits is held out; None on the test split."""
    device: torch.device
    engine: ChosenEngine
    train: Digits = field(repr=False)
    held_out: Digits = field(repr=False)
    """The digits to train on and those to evaluate on."""
    network: nn.Module = field(repr=False)
    """The one network of the run, untrained; what the plan says of it is of a copy."""
    teacher: Teacher | None
    """Whose output the loss is given, where the recipe names one."""
    findings: Findings
    """What came of trying the recipe out."""
    parameters: int
    """How many of the network can be trained."""
    receptive_field: ReceptiveField
    layers: str
    """The network's layers, as a table to read."""
    run_id: str | None = None
    """The run that this goes on with; None for a new one."""
    seeds_together: str = ""
    """The seeds that are trained as one with this, in short; "" for one that is trained alone."""

    @property
    def name(self) -> str:
        """The run's name in the store."""
        return f"{self.entry.name} · seed {self.seed}"

    @property
    def overridden(self) -> str:
        """The overrides in words, as in "epochs=2"; empty where there are none."""
        return overriding.as_words(self.overrides)

    def settings(self) -> dict[str, object]:
        """What decides the result, as the parameters of the run."""
        return {
            "model": self.entry.number,
            **{key: as_text(value) for key, value in self.recipe.hyperparameters().items()},
            "learning_rate": self.findings.learning_rate,
            "seed": self.seed,
            "split": self.split,
            **({names.FOLD: self.fold} if self.fold else {}),
            "parameters": self.parameters,
            "input_shape": "x".join(map(str, classifier.example_input(self.recipe).shape[1:])),
            "receptive_field": str(self.receptive_field),
            **environment.surroundings(self.device),
            **self.engine.settings(),
            **({"seeds_together": self.seeds_together} if self.seeds_together else {}),
        }

    def of_seed(self, seed: int) -> "Plan":
        """The same of another seed."""
        recipe = check.recipe_from(self.entry, seed, self.overrides)
        network, _, _ = _built(self.entry, recipe, seed)
        return replace(self, seed=seed, recipe=recipe, network=network)

    def tags(self) -> dict[str, str]:
        """What the run was made from, as tags of the run."""
        return {
            "code_sha256": self.entry.code_sha256,
            "training_sha256": environment.training_sha256(),
            "overrides": self.overridden or "none",
            "train_accuracy_of": str(self.findings.train_accuracy_of),
            **(
                {"teacher_run": self.teacher.run_id, "teacher_sha256": self.teacher.sha256}
                if self.teacher
                else {}
            ),
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
    number: int, *, seed: int = 1, epochs: int | None = None, overrides: Overrides = NONE,
    device: str = "auto", split: data.Split = "test", fold: str | int | None = None,
    entry: Entry | None = None, teacher: str | None = None, engine: str = "auto",
) -> Plan:  # fmt: skip
    """Settle a run of iteration `number`, as its file is now or as `entry` has it, with the
    `overrides` of its recipe; that of its `epochs` may be given by itself. `teacher` is the run
    whose network a recipe with a teacher learns from, if that is settled. `engine` is auto,
    compiled or torch.

    Raises ExpectedError for anything that cannot be run.
    """
    held = splits.one_fold(split, fold)
    entry = entry or entries.read_entry(number)
    wanted = {**overrides} if epochs is None else {**overrides, "epochs": epochs}
    overrides = overriding.differing(check.recipe_from(entry, seed), wanted)
    computed_by, on = engines.choose_engine(engine, device)
    recipe, taught_by = check_request(entry, seed, overrides, split, held, teacher)
    train, held_out = data.load(split, held)
    with overriding.named(overrides):
        findings = trial.try_out(
            entry, train, held_out, seed=seed, device=on, teacher=taught_by, overrides=overrides,
            engine=computed_by.name,
        )  # fmt: skip
    network, example, layers = _built(entry, recipe, seed)
    return Plan(
        entry=entry, recipe=recipe, overrides=overrides, target=loading.load_target(), seed=seed,
        split=split, fold=held, device=on, engine=computed_by, train=train, held_out=held_out,
        network=network, teacher=taught_by, findings=findings,
        parameters=classifier.count_parameters(network), layers=layers,
        receptive_field=receptive_field.of_network(network, example.shape[1:]),
    )  # fmt: skip


def check_request(
    entry: Entry, seed: int, overrides: Overrides, split: data.Split, fold: data.Fold | None,
    teacher: str | None = None,
) -> tuple[Recipe, Teacher | None]:  # fmt: skip
    """Check what can be said of a run before digits are fetched; returns its recipe and its
    teacher. Raises ExpectedError."""
    with overriding.named(overrides):
        check.check_recipe(entry, seed, overrides, split)
        effects.check_effects(entry, seed, overrides)
        recipe = check.recipe_from(entry, seed, overrides)
        return recipe, find_teacher(teacher or recipe.teacher, split, fold)


def _built(entry: Entry, recipe: Recipe, seed: int) -> tuple[nn.Module, Tensor, str]:
    """The network of a run, an input of it, and its layers as a table to read."""
    with blamed_on(entry):
        network = loop.build(recipe, seed)
        example = classifier.example_input(recipe)
        return network, example, provenance.layers(copied(network), example)
