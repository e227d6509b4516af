"""Train a recipe: epoch after epoch, with no input or output of its own."""

import dataclasses
import inspect
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mnist_exp.common.errors import ExpectedError
from mnist_exp.data import Digits
from mnist_exp.recipe import ExponentialAverage, Recipe
from mnist_exp.training import beside, classifier, faster, seeding
from mnist_exp.training.classifier import Classifier


@dataclass(frozen=True)
class Score:
    """How digits were classified: `correct` of `total`, at a mean cross-entropy of `loss` nats."""

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

    `train` is scored in training: with augmentation and dropout, each batch before its step.
    `evaluation` is scored after the epoch, by the classifier, without them. `learning_rate` is the
    one with which the epoch began, `seconds` is what it took with its evaluation, and `ended` is
    the time at its end, in seconds since 1970.
    """

    epoch: int
    train: Score
    evaluation: Score
    learning_rate: float
    seconds: float
    ended: float


@dataclass(frozen=True)
class Progress:
    """Where an epoch stands after `batch` of `batches`; `train` is the score of those so far."""

    epoch: int
    batch: int
    batches: int
    train: Score


class NonFiniteLossError(ExpectedError):
    """A loss became infinite or not a number."""


def build(recipe: Recipe, seed: int) -> nn.Module:
    """The recipe's network, made from the seed, on the CPU; lazy layers have their shapes."""
    seeding.seed_network(seed)
    network = recipe.network()
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
    finished epochs. With `batches`, an epoch ends after so many.
    """

    def __init__(
        self, recipe: Recipe, train: Digits, evaluation: Digits, *, seed: int, device: torch.device,
        network: nn.Module | None = None, batches: int | None = None,
    ) -> None:  # fmt: skip
        faster.keep_memory()
        torch.backends.cudnn.deterministic = True  # on a GPU: the same seed, the same results
        self.recipe = recipe
        self.seed = seed
        self.train = train.to(device)
        self.evaluation = evaluation.to(device)
        self.batches = math.ceil(len(train) / recipe.batch_size)  # the last one may be smaller
        total_steps = recipe.epochs * self.batches
        self.batches = min(self.batches, batches or self.batches)
        network = build(recipe, seed) if network is None else network
        self.network = faster.speed_up(network, device, classifier.example_input(recipe))
        self.optimizer = recipe.optimizer(self.network.parameters())
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # the recipe's own, which a schedule would change
                group["lr"] = group["lr"].clone()
        self.learning_rate = _learning_rate(self.optimizer)
        self.schedule = recipe.schedule(self.optimizer) if recipe.schedule else None
        self.batch_schedule = None
        if recipe.batch_schedule:
            takes = _takes_total_steps(recipe.batch_schedule)
            asked = {"total_steps": total_steps} if takes else {}
            self.batch_schedule = recipe.batch_schedule(self.optimizer, **asked)
        self.average = _average(self.network, recipe.averaging) if recipe.averaging else None
        self.results: list[EpochResult] = []
        self._output: Tensor | None = None

    @property
    def classifier(self) -> "Classifier":
        """What is evaluated and kept. Where the recipe averages, it has the averaged network."""
        network = self.average.module if self.average else self.network
        return Classifier(network, self.recipe.preprocess, self.recipe.views)

    @property
    def output(self) -> Tensor:
        """The classifier's output for the evaluation digits after the last epoch, float32
        (N, 10)."""
        if self._output is None:  # that epoch was trained before an interrupt
            self._output = classifier.predict(self.classifier, self.evaluation.images)
        return self._output

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
        """Train the epochs that are left; `watch` hears of each batch.

        Raises NonFiniteLossError as soon as the loss of a batch or of an evaluation is not finite.
        """
        for epoch in range(len(self.results) + 1, self.recipe.epochs + 1):
            start = time.perf_counter()
            learning_rate = float(self.optimizer.param_groups[0]["lr"])
            train = self._train_epoch(epoch, watch)
            self._output = classifier.predict(self.classifier, self.evaluation.images)
            evaluation = score(self._output, self.evaluation)
            if not math.isfinite(evaluation.loss):
                raise NonFiniteLossError(f"the evaluation of epoch {epoch} gave {evaluation.loss}")
            if self.schedule:
                self.schedule.step()
            seconds = time.perf_counter() - start
            result = EpochResult(epoch, train, evaluation, learning_rate, seconds, time.time())
            self.results.append(result)
            yield result

    def _train_epoch(self, epoch: int, watch: Callable[[Progress], None] | None) -> Score:
        """Train one epoch; the score is that of all its batches, each before its step."""
        self.network.train()
        generator = seeding.seed_epoch(self.seed, epoch)
        loss_sum, correct, total = 0.0, 0, 0
        shuffled = self.train.batches(self.recipe.batch_size, generator)
        for number, batch in enumerate(itertools.islice(shuffled, self.batches), start=1):
            pixels = classifier.network_input(self.recipe, batch.images, generator)
            output = self.network(pixels).float()  # (N, 10); a network may compute in fewer bits
            loss = F.cross_entropy(output, batch.labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.batch_schedule:
                self.batch_schedule.step()
            step = (epoch - 1) * self.batches + number
            if self.average and self.recipe.averaging and step % self.recipe.averaging.every == 0:
                self.average.update_parameters(self.network)

            value = loss.item()
            if not math.isfinite(value):
                raise NonFiniteLossError(
                    f"the loss became {value} in epoch {epoch}, batch {number} of {self.batches}; "
                    "a lower learning rate may help"
                )
            loss_sum += value * len(batch)  # a mean over digits, not batches: the last is smaller
            correct += int((output.argmax(dim=1) == batch.labels).sum())
            total += len(batch)
            if watch:
                so_far = Score(correct, total, loss_sum / total)
                watch(Progress(epoch, number, self.batches, so_far))
        if self.average:
            _take_over_rest(self.average.module, self.network)
        return Score(correct, total, loss_sum / total)


def _learning_rate(optimizer: Optimizer) -> str:
    """What the optimizer begins with, as in "0.01"; "0.01 0.1" where its groups differ."""
    rates = [group["lr"] for group in optimizer.param_groups]
    plain = [rate.item() if isinstance(rate, Tensor) else rate for rate in rates]
    return " ".join(dict.fromkeys(map(str, plain)))


def _takes_total_steps(batch_schedule: Callable[..., LRScheduler]) -> bool:
    """Whether a schedule asks for the number of all steps, which it has not been given."""
    given = batch_schedule.keywords if isinstance(batch_schedule, partial) else {}
    if given.keys() & {"total_steps", "steps_per_epoch"}:
        return False
    parameters = inspect.signature(batch_schedule).parameters
    takes_all = any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return takes_all or "total_steps" in parameters


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


def _average(network: nn.Module, averaging: ExponentialAverage) -> AveragedModel:
    """The average of the network over the steps, as `ExponentialAverage` describes it."""

    def update(averages: Any, values: Any, count: Tensor | int) -> None:
        if not _has_average(averages[0]):  # they are all of one dtype
            return
        # `count` is how often it was averaged: early on, the average follows the network closely.
        decay = min(averaging.decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(decay)(averages, values, count)

    # The buffers are the statistics of batch normalisation, which belong to the weights.
    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)


def _has_average(tensor: Tensor) -> bool:
    """Whether it is a quantity; an index or a counter is none."""
    return tensor.is_floating_point() or tensor.is_complex()


def _take_over_rest(average: nn.Module, network: nn.Module) -> None:
    """Give the average what its network has now of all that is not averaged."""
    pairs = zip(
        itertools.chain(average.parameters(), average.buffers()),
        itertools.chain(network.parameters(), network.buffers()),
        strict=True,
    )
    with torch.no_grad():
        for own, now in pairs:
            if not _has_average(own):
                own.copy_(now)
    beside.give(average, beside.read_attributes(network))


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
