"""Train a recipe: epoch after epoch, with no input or output of its own."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mnist_exp.common.errors import ExpectedError
from mnist_exp.data import Digits
from mnist_exp.recipe import PIXELS, ExponentialAverage, Recipe
from mnist_exp.training import classifier, faster
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


class Training:
    """A recipe in training on `train`, evaluated on `evaluation` after each epoch.

    `seed` fixes the weights, the order of the digits, augmentation and dropout: the same seed,
    machine and thread count give the same results bit for bit. Each epoch draws from its seed and
    its number alone, whatever else draws between epochs; torch's global random state is seeded for
    that, since dropout draws from it. `results` are those of the finished epochs.
    """

    def __init__(
        self, recipe: Recipe, train: Digits, evaluation: Digits, *, seed: int, device: torch.device
    ) -> None:
        faster.keep_memory()
        torch.backends.cudnn.deterministic = True  # on a GPU: the same seed, the same results
        self.recipe = recipe
        self.seed = seed
        self.train = train.to(device)
        self.evaluation = evaluation.to(device)
        torch.manual_seed(seed)  # of the weights, which are the first that is drawn
        self.network = faster.speed_up(recipe.network(), device, torch.zeros(2, *PIXELS))
        self.optimizer = recipe.optimizer(self.network.parameters())
        self.schedule = recipe.schedule(self.optimizer) if recipe.schedule else None
        self.batch_schedule = None
        if recipe.batch_schedule:
            total_steps = recipe.epochs * self._batches()
            self.batch_schedule = recipe.batch_schedule(self.optimizer, total_steps=total_steps)
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
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule else {},
            "batch_schedule": self.batch_schedule.state_dict() if self.batch_schedule else {},
            "average": self.average.state_dict() if self.average else {},
            "results": [dataclasses.asdict(result) for result in self.results],
        }
        plain: dict[str, Any] = _plain(state)
        return plain

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state` of the same recipe and seed: the epochs that follow are bit for bit
        those that would have followed there."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for part in ("schedule", "batch_schedule", "average"):
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
            learning_rate = self.optimizer.param_groups[0]["lr"]
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

    def _batches(self) -> int:
        """How many batches an epoch has; the last one may be smaller."""
        return math.ceil(len(self.train) / self.recipe.batch_size)

    def _train_epoch(self, epoch: int, watch: Callable[[Progress], None] | None) -> Score:
        """Train one epoch; the score is that of all its batches, each before its step."""
        self.network.train()
        # Mixed, so that the draws of one seed or epoch say nothing of those of the next. Dropout
        # draws from torch's global state; the order and the augmentation have a generator.
        dropout_seed, order_seed = np.random.SeedSequence((self.seed, epoch)).generate_state(2)
        torch.manual_seed(int(dropout_seed))
        generator = torch.Generator().manual_seed(int(order_seed))
        batches = self._batches()
        loss_sum, correct, total = 0.0, 0, 0
        shuffled = self.train.batches(self.recipe.batch_size, generator)
        for number, batch in enumerate(shuffled, start=1):
            pixels = classifier.network_input(self.recipe, batch.images, generator)
            output = self.network(pixels)  # float32 (N, 10)
            loss = F.cross_entropy(output, batch.labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.batch_schedule:
                self.batch_schedule.step()
            step = (epoch - 1) * batches + number
            if self.average and self.recipe.averaging and step % self.recipe.averaging.every == 0:
                self.average.update_parameters(self.network)

            value = loss.item()
            if not math.isfinite(value):
                raise NonFiniteLossError(
                    f"the loss became {value} in epoch {epoch}, batch {number} of {batches}; "
                    "a lower learning rate may help"
                )
            loss_sum += value * len(batch)  # a mean over digits, not batches: the last is smaller
            correct += int((output.argmax(dim=1) == batch.labels).sum())
            total += len(batch)
            if watch:
                so_far = Score(correct, total, loss_sum / total)
                watch(Progress(epoch, number, batches, so_far))
        return Score(correct, total, loss_sum / total)


def _average(network: nn.Module, averaging: ExponentialAverage) -> AveragedModel:
    """The average of the network over the steps, as `ExponentialAverage` describes it."""

    def update(averages: Any, values: Any, count: Tensor | int) -> None:
        # `count` is how often it was averaged: early on, the average follows the network closely.
        decay = min(averaging.decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(decay)(averages, values, count)

    # The buffers are the statistics of batch normalisation, which belong to the weights.
    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)


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
