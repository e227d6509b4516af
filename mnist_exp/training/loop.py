"""Train a recipe: epoch after epoch, with no input or output of its own."""

import copy
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.randomness import put_back, random_states
from mnist_exp.common.values import parts_of
from mnist_exp.data import Digits
from mnist_exp.recipe import Recipe
from mnist_exp.training import (
    averaging,
    beside,
    classifier,
    faster,
    seeding,
    stepping,
    torch_internals,
    transforms,
)
from mnist_exp.training.classifier import Classifier
from mnist_exp.training.computing import Computing, Engine
from mnist_exp.training.determinism import deterministic
from mnist_exp.training.stepping import Batch


@dataclass(frozen=True)
class Score:
    """How digits were classified: `correct` of `total`, at a mean `loss`, which is a cross-entropy
    in nats unless a recipe has another."""

    correct: int
    total: int
    loss: float

    @property
    def accuracy(self) -> float:
        """The share of digits that are classified rightly, a fraction."""
        return self.correct / self.total

    @property
    def errors(self) -> int:
        """How many digits are classified wrongly."""
        return self.total - self.correct


@dataclass(frozen=True)
class EpochResult:
    """What one epoch came to; epochs are counted from 1.

    `train` is scored in training: with augmentation and dropout, each batch before its step, by the
    recipe's loss. `evaluation` is scored after the epoch, by the classifier, without them, by
    cross-entropy. `learning_rate` is the one with which the epoch began, `seconds` is what it took
    with its evaluation, and `ended` is the time at its end, in seconds since 1970. `metrics` are
    the recipe's own.
    """

    epoch: int
    train: Score
    evaluation: Score
    learning_rate: float
    seconds: float
    ended: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """Where an epoch stands after `batch` of `batches`; `train` is the score of those so far."""

    epoch: int
    batch: int
    batches: int
    train: Score


class Tally:
    """Counts what batches come to, where they are computed: only `score` waits for the device, so
    that it is asked after `every` so many batches."""

    def __init__(self, device: torch.device, seeds: int | None = None) -> None:
        """With `seeds`, of so many at once."""
        shape = () if seeds is None else (seeds,)
        exact = torch.float32 if device.type == "mps" else torch.float64  # it has no other
        self.losses = torch.zeros(shape, dtype=exact, device=device)
        self.correct = torch.zeros(shape, dtype=torch.int64, device=device)
        self.total = 0
        self.every = 1 if device.type == "cpu" else 50

    def add(self, loss: Tensor, correct: Tensor, digits: int) -> None:
        self.losses += loss.to(self.losses.dtype) * digits  # a mean over digits, not batches: the
        self.correct += correct  # last is smaller
        self.total += digits

    def score(self) -> Score:
        return self.scores()[0]

    def scores(self) -> list[Score]:
        """Of each seed."""
        rows = zip(self.correct.view(-1).tolist(), self.losses.view(-1).tolist(), strict=True)
        return [Score(correct, self.total, loss / self.total) for correct, loss in rows]


class TrainDigits(StrEnum):
    """Which digits a train accuracy is of."""

    PLAIN = "digits as they are"
    AUGMENTED = "augmented digits"
    MIXED = "mixed digits, each counted as the one with the greatest share"


class NonFiniteLossError(ExpectedError):
    """A loss became infinite or not a number."""


def build(recipe: Recipe, seed: int) -> nn.Module:
    """The recipe's network, made from the seed, on the CPU; lazy layers have their shapes. Of what
    torch.compile makes, it is the network within."""
    seeding.seed_network(seed)
    network = torch_internals.unwrapped(recipe.network())
    if any(map(is_lazy, itertools.chain(network.parameters(), network.buffers()))):
        with torch.no_grad():
            network.eval()(classifier.example_input(recipe))
    return network


class Training:
    """A recipe in training on `train`, evaluated on `evaluation` after each epoch.

    `network` is what `build` gave for the recipe and the seed; it is trained itself, not a copy.
    `seed` fixes the weights, the order of the digits, augmentation and dropout: the same seed,
    machine and thread count give the same results bit for bit. Each epoch draws from its seed and
    its number alone, whatever else draws between epochs; the global random states of torch, numpy
    and Python are seeded for that, since a network may draw from them. `results` are those of the
    finished epochs. `teacher` takes uint8 images (N, 1, 28, 28) and gives float32 (N, 10), on the
    CPU; it is not changed. With `batches`, an epoch ends after so many. `engine` computes the
    steps; what it leaves to torch is named by `through_torch`.
    """

    def __init__(
        self, recipe: Recipe, train: Digits, evaluation: Digits, *, seed: int, device: torch.device,
        network: nn.Module | None = None, teacher: nn.Module | None = None,
        batches: int | None = None, engine: Engine = "torch",
    ) -> None:  # fmt: skip
        faster.keep_memory()
        self.recipe = _with_own_loss(recipe, device)
        self.seed = seed
        self.train = train.to(device)
        self.evaluation = evaluation.to(device)
        self.teacher = teacher
        self.batches = math.ceil(len(train) / recipe.batch_size)  # the last one may be smaller
        self.total_steps = recipe.epochs * math.ceil(self.batches / recipe.accumulate_batches)
        self.batches = min(self.batches, batches or self.batches)
        network = build(recipe, seed) if network is None else network
        self.computing = Computing(recipe, network, engine)
        self._engine_stepped = False
        if not self.computing.trained:
            network = faster.speed_up(network, device, classifier.example_input(recipe))
        self.network = network
        self.optimizer = stepping.optimizer_of(recipe, self.network)
        self.learning_rate = stepping.learning_rate_of(self.optimizer)
        self.schedule = stepping.schedule_of(recipe.schedule, self.optimizer, recipe.epochs)
        self.batch_schedule = stepping.schedule_of(
            recipe.batch_schedule, self.optimizer, self.total_steps
        )
        self.average = None
        if recipe.averaging:
            self.average = averaging.Average(self.network, recipe.averaging)
            self.computing.evaluate(self.average.module)
        self.results: list[EpochResult] = []
        self._output: Tensor | None = None
        # What RandomApply holds may mix no digit for many batches; a function shows it by doing so.
        self._mixes = any(
            transforms.is_torchvision(part) and transforms.mixes(part)
            for part in parts_of(recipe.augment)
        )

    @property
    def classifier(self) -> "Classifier":
        """What is evaluated and kept. Where the recipe averages, it has the averaged network."""
        network = self.average.module if self.average else self.network
        return Classifier(network, self.recipe.preprocess, self.recipe.views)

    @property
    def train_accuracy_of(self) -> TrainDigits:
        """Which digits the train accuracy is of, as far as batches have shown it."""
        if self._mixes:
            return TrainDigits.MIXED
        return TrainDigits.AUGMENTED if parts_of(self.recipe.augment) else TrainDigits.PLAIN

    @property
    def through_torch(self) -> tuple[str, ...]:
        """What the compiled engine leaves to torch, as far as batches have shown it."""
        return self.computing.through_torch

    @property
    def output(self) -> Tensor:
        """The classifier's output for the evaluation digits after the last epoch, float32
        (N, 10)."""
        if self._output is None:  # that epoch was trained before an interrupt
            self._output = self._predict()
        return self._output

    @output.setter
    def output(self, output: Tensor) -> None:
        self._output = output

    def _predict(self) -> Tensor:
        with self._deterministic(), self.computing.standing_in(self.computing.evaluated):
            return classifier.predict(self.classifier, self.evaluation.images)

    def _deterministic(self) -> AbstractContextManager[None]:
        return deterministic(self.evaluation.images.device)

    def state(self) -> dict[str, Any]:
        """All that the coming epochs depend on, and the results so far: tensors, numbers, texts,
        and lists and dictionaries of them.

        There is no random state in it, since each epoch draws from its seed and its number alone.
        """
        state = {
            "network": _whole_state(self.network),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule else {},
            "batch_schedule": self.batch_schedule.state_dict() if self.batch_schedule else {},
            "average": _whole_state(self.average) if self.average else {},
            "parts": {name: _whole_state(part) for name, part in _modules(self.recipe).items()},
            "results": [dataclasses.asdict(result) for result in self.results],
        }
        plain: dict[str, Any] = _plain(state)
        return plain

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state` of the same recipe and seed: the epochs that follow are bit for bit
        those that would have followed there."""
        _restore(self.network, state["network"])
        if self.average:
            _restore(self.average, state["average"])
        for name, module in _modules(self.recipe).items():
            _restore(module, state["parts"][name])
        for part in ("optimizer", "schedule", "batch_schedule"):
            if stepped := getattr(self, part):
                stepped.load_state_dict(state[part])
        self.results = [
            EpochResult(
                **result | {part: Score(**result[part]) for part in ("train", "evaluation")}
            )
            for result in state["results"]
        ]

    def epochs(self, watch: Callable[[Progress], None] | None = None) -> Iterator[EpochResult]:
        """Train the epochs that are left; `watch` hears of each batch, and of every fiftieth and
        the last where the losses are on another device.

        Raises NonFiniteLossError where the loss of a batch or of an evaluation is not finite, as
        soon as it is read: after that batch, or the next that `watch` hears of.
        """
        for epoch in range(len(self.results) + 1, self.recipe.epochs + 1):
            start = time.perf_counter()
            learning_rate = float(self.optimizer.param_groups[0]["lr"])
            with self._deterministic():
                train = self._train_epoch(epoch, watch)
            output = self._predict()
            result = self.finish(epoch, train, output, learning_rate, start)
            if isinstance(self.schedule, ReduceLROnPlateau):
                self.schedule.step(result.evaluation.loss)
            elif self.schedule:
                self.schedule.step()
            yield result

    def finish(
        self, epoch: int, train: Score, output: Tensor, learning_rate: float, start: float,
        share: float = 1.0,
    ) -> EpochResult:  # fmt: skip
        """What an epoch came to, of the classifier's output behind it, float32 (N, 10); it began at
        `start`, by `time.perf_counter`, and takes a `share` of the time since then.

        Raises NonFiniteLossError."""
        evaluation = score(output, self.evaluation)
        if not math.isfinite(evaluation.loss):
            raise NonFiniteLossError(f"the evaluation of epoch {epoch} gave {evaluation.loss}")
        metrics = {  # of copies, since a metric may change what it is given
            name: float(self.recipe.metrics[name](output.clone(), self.evaluation.labels.clone()))
            for name in self.recipe.metrics
        }
        seconds = share * (time.perf_counter() - start)
        result = EpochResult(epoch, train, evaluation, learning_rate, seconds, time.time(), metrics)
        self.output = output
        self.results.append(result)
        return result

    def _train_epoch(self, epoch: int, watch: Callable[[Progress], None] | None) -> Score:
        """Train one epoch; the score is that of all its batches, each before its step."""
        self.network.train()
        generator = seeding.seed_epoch(self.seed, epoch)
        tally = Tally(self.evaluation.images.device)
        shuffled = self.train.batches(self.recipe.batch_size, generator)
        shuffled = itertools.islice(shuffled, self.batches)
        steps = range(0, self.batches, self.recipe.accumulate_batches)
        for number, first in enumerate(steps, start=1 + (epoch - 1) * len(steps)):
            digits_of_step = itertools.islice(shuffled, self.recipe.accumulate_batches)
            with self.computing.standing_in():
                batches = [self.prepare(digits, generator) for digits in digits_of_step]
            loss, right = self._take_step(batches)
            if self.batch_schedule:
                self.batch_schedule.step()
            if self.average and self.recipe.averaging and number % self.recipe.averaging.every == 0:
                self.average.update_parameters(self.network)

            batch, count = first + len(batches), sum(map(len, batches))
            tally.add(loss, right, count)
            if number % tally.every == 0 or batch == self.batches:
                so_far = tally.score()
                if not math.isfinite(so_far.loss):
                    raise diverged(so_far.loss, epoch, batch, self.batches)
                if watch:
                    watch(Progress(epoch, batch, self.batches, so_far))
        if self.average:
            averaging.take_over_rest(self.average.module, self.network)
        return tally.score()

    def _take_step(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """Take a step. The first one shows whether the engine can take it: what it cannot, such as
        gradients of gradients, torch does, from where the step began."""
        if not self.computing.trained or self._engine_stepped:
            return self._taken(batches)
        before, states = copy.deepcopy(self.state()), random_states()
        try:
            taken = self._taken(batches)
        except Exception as error:  # of whatever a recipe does; if it is its own, it comes again
            reason = " ".join(str(error).split())[:120]
            self.computing.leave_to_torch(f"its step: {reason}")
            self.restore(before)
            put_back(states)
            return self._taken(batches)  # by torch's own layers: faster ones refuse the same
        self._engine_stepped = True
        return taken

    def _taken(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        with self.computing.standing_in(self.computing.trained):
            return stepping.take_step(
                self.recipe, self.network, self.optimizer, batches, self.computing.cross_entropy
            )

    def prepare(self, digits: Digits, generator: torch.Generator) -> Batch:
        """Digits as the network sees them in training: augmented, preprocessed, normalised."""
        recipe = self.recipe
        images, labels = transforms.augmented(
            recipe.augment, digits.images.float(), digits.labels, generator
        )
        self._mixes |= labels.dim() == 2
        taught = None
        if self.teacher:  # it sees the same images, in the whole grey values that it takes, and
            with torch.no_grad():  # where it was exported: on the CPU
                seen = images.round().clamp(0, 255).to(torch.uint8).cpu()
                taught = self.teacher(seen).to(images.device)
        return Batch(classifier.prepared(images, recipe.preprocess), labels, taught)


def diverged(loss: float, epoch: int, batch: int, batches: int) -> NonFiniteLossError:
    """What a training whose loss is not finite comes to."""
    return NonFiniteLossError(
        f"the loss became {loss} in epoch {epoch}, batch {batch} of {batches}; a lower learning "
        "rate may help"
    )


def _with_own_loss(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with a loss on the device, if that is a module: the recipe's own is not moved."""
    if not isinstance(recipe.loss, nn.Module):
        return recipe
    return dataclasses.replace(recipe, loss=copy.deepcopy(recipe.loss).to(device))


def _modules(recipe: Recipe) -> dict[str, nn.Module]:
    """The parts of a recipe that may have a state, by a name of each."""
    parts = {"loss": recipe.loss, **{f"metrics.{key}": x for key, x in recipe.metrics.items()}}
    for name in ("augment", "preprocess"):
        named = enumerate(parts_of(getattr(recipe, name)))
        parts |= {f"{name}.{number}": part for number, part in named}
    return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}


def _whole_state(network: nn.Module) -> dict[str, Any]:
    """The state of a network, with what its modules keep beside their state dict."""
    return {
        "persistent": network.state_dict(),
        "buffers": beside.read_buffers(network),
        "attributes": beside.read_attributes(network),
    }


def _restore(network: nn.Module, state: dict[str, Any]) -> None:
    network.load_state_dict(state["persistent"])
    beside.give(network, state["buffers"])
    beside.give(network, state["attributes"])


def _plain(value: Any) -> Any:
    """The same value with Python's numbers for numpy's, which a schedule may have calculated: a
    checkpoint holds no others."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def score(output: Tensor, digits: Digits) -> Score:
    """Score classifier output, float32 (N, 10): logits or logarithms of probabilities."""
    correct = int((output.argmax(dim=1) == digits.labels).sum())
    return Score(correct, len(digits), F.cross_entropy(output, digits.labels).item())
