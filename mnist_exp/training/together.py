"""Several seeds of one recipe, trained as one network: each of its tensors has an axis of seeds.

A GPU is as quick with a hundred small networks as with one. Each seed stays a `Training` of its
own, whose weights, statistics and averages are views of the tensors that are stepped: what it
gives, keeps and resumes from is what it would be, were it trained alone. It draws its own order and
augmentation, and dropout of its own, so that it has the same distribution as a seed that is trained
alone, and not the same numbers.
"""

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.randomness import (
    RandomStates,
    put_back,
    random_states,
    random_states_kept,
)
from mnist_exp.common.values import parts_of
from mnist_exp.training import (
    averaging,
    beside,
    classifier,
    faster,
    seeding,
    stepping,
    transforms,
)
from mnist_exp.training.classifier import EVALUATION_BATCH, Classifier
from mnist_exp.training.determinism import deterministic
from mnist_exp.training.loop import (
    EpochResult,
    NonFiniteLossError,
    Progress,
    Score,
    Tally,
    Training,
    diverged,
)
from mnist_exp.training.stepping import Batch

BY_ELEMENT = {
    torch.optim.Adadelta, torch.optim.Adagrad, torch.optim.Adam, torch.optim.Adamax,
    torch.optim.AdamW, torch.optim.ASGD, torch.optim.NAdam, torch.optim.RAdam,
    torch.optim.RMSprop, torch.optim.Rprop, torch.optim.SGD,
}  # fmt: skip
"""Optimizers that step each number by itself, whatever tensor it is in."""
APART = "its seeds cannot be trained together"


class ApartError(ExpectedError):
    """A recipe cannot be trained for several seeds as one; the text says why."""


class _Stacked(nn.Module):
    """The tensors of several networks, those of a name in one: (S, ...) for S networks."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        # No name of a module's own has a dot. A class may be another for each seed, if a file was
        # executed anew.
        for name, first in networks[0].named_parameters():
            stacked = torch.stack([own.get_parameter(name).detach() for own in networks])
            self.register_parameter(
                name.replace(".", "/"), nn.Parameter(stacked, first.requires_grad)
            )
        for name, _ in networks[0].named_buffers():
            stacked = torch.stack([own.get_buffer(name) for own in networks])
            self.register_buffer(name.replace(".", "/"), stacked)

    def share(self, networks: Sequence[nn.Module]) -> None:
        """Let the networks have views of these tensors for their own, with what is in them."""
        for place, network in enumerate(networks):
            pairs = zip(
                itertools.chain(self.parameters(), self.buffers()),
                itertools.chain(network.parameters(), network.buffers()),
                strict=True,
            )
            for stacked, tensor in pairs:
                tensor.data = stacked.data[place]

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters and buffers by the names that the networks have for them."""
        named: Any = (self.named_parameters(), self.named_buffers())
        parameters, buffers = (
            {name.replace("/", "."): tensor for name, tensor in each} for each in named
        )
        return parameters, buffers


class Together:
    """Trainings of one recipe, which differ in their seeds, as one; they are used up by it.

    They have finished the same epochs. Raises ApartError where a recipe cannot be trained so.
    """

    def __init__(self, trainings: Sequence[Training]) -> None:
        self.trainings = list(trainings)
        first = self.trainings[0]
        self.recipe, self.device = first.recipe, first.evaluation.images.device
        self.batches = first.batches
        networks = [training.network for training in self.trainings]
        if why := _why_apart(first):
            raise ApartError(f"{APART}: {why}")
        self.network = faster.as_torch_has_it(copy.deepcopy(networks[0]))
        self._stacked = _Stacked(networks)
        self._stacked.share(networks)
        self._try_out()
        self.optimizer = self._make_optimizer()
        self.schedule = stepping.schedule_of(
            self.recipe.schedule, self.optimizer, self.recipe.epochs
        )
        self.batch_schedule = stepping.schedule_of(
            self.recipe.batch_schedule, self.optimizer, first.total_steps
        )
        self._average = None
        if self.recipe.averaging:
            self._average_every = self.recipe.averaging.every
            averages = [t.average.module for t in self.trainings if t.average]
            counts = first.average.n_averaged.clone() if first.average else torch.tensor(0)
            self._average = averaging.average_of(_Stacked(averages), self.recipe.averaging)
            self._average.n_averaged.copy_(counts)
            _averages_of(self._average).share(averages)
        if first.results:
            self._gather()
        self.lost: set[int] = set()

    def epochs(
        self, watch: Callable[[Progress], None] | None = None
    ) -> Iterator[dict[int, EpochResult | NonFiniteLossError]]:
        """Train the epochs that are left; gives of each what it came to, by the places of the
        trainings. One whose loss is not finite comes to an error, and is left out of the next
        epochs. `watch` hears of the mean of all."""
        for epoch in range(len(self.trainings[0].results) + 1, self.recipe.epochs + 1):
            start = time.perf_counter()
            learning_rate = float(self.optimizer.param_groups[0]["lr"])
            with deterministic(self.device):
                scores = self._train_epoch(epoch, watch)
                outputs = self._predict()
            if self.schedule:
                self.schedule.step()
            self._hand_out()
            came: dict[int, EpochResult | NonFiniteLossError] = {}
            share = 1 / len(scores)
            for place, train in scores.items():
                training, output = self.trainings[place], outputs[place]
                try:
                    if isinstance(train, NonFiniteLossError):
                        raise train
                    came[place] = training.finish(epoch, train, output, learning_rate, start, share)
                except NonFiniteLossError as error:
                    came[place] = error
                    self.lost.add(place)
            yield came
            if len(self.lost) == len(self.trainings):
                return

    def _train_epoch(
        self, epoch: int, watch: Callable[[Progress], None] | None
    ) -> dict[int, Score | NonFiniteLossError]:
        """Train an epoch; gives the score of each training under way, of all its batches."""
        self.network.train()
        drawing = [_Drawing(training, epoch) for training in self.trainings]
        seeding.seed_epoch([training.seed for training in self.trainings], epoch)
        tally = Tally(self.device, len(self.trainings))
        failed: dict[int, NonFiniteLossError] = {}
        size = self.recipe.accumulate_batches
        steps = range(0, self.batches, size)
        for number, first in enumerate(steps, start=1 + (epoch - 1) * len(steps)):
            batch = min(first + size, self.batches)
            drawn = [[own.next_batch() for own in drawing] for _ in range(first, batch)]
            loss, right, digits = self._take_step([_stacked_batch(each) for each in drawn])
            tally.add(loss, right, digits)
            if self.batch_schedule:
                self.batch_schedule.step()
            if self._average and number % self._average_every == 0:
                self._average.update_parameters(self._stacked)
            if number % tally.every == 0 or batch == self.batches:
                for place, score in enumerate(tally.scores()):
                    if not math.isfinite(score.loss) and place not in self.lost:
                        failed.setdefault(place, diverged(score.loss, epoch, batch, self.batches))
                if watch:
                    watch(Progress(epoch, batch, self.batches, _all(tally.scores())))
        scores = dict(enumerate(tally.scores()))
        return {
            place: failed.get(place) or score
            for place, score in scores.items() if place not in self.lost
        }  # fmt: skip

    def _take_step(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor, int]:
        """Take a step over batches of each seed, with an axis of seeds in front: the losses, (S,),
        how many digits were classified rightly, (S,), and how many there were."""
        self.optimizer.zero_grad()
        total = sum(batch.images.shape[1] for batch in batches)
        loss: Any = 0.0
        correct: Any = 0
        parameters, buffers = self._stacked.tensors()
        for batch in batches:
            losses, outputs = self._losses(parameters, buffers, batch)
            part = losses * (batch.images.shape[1] / total)
            part.sum().backward()
            loss = loss + part.detach()
            hard = batch.labels if batch.labels.dim() == 2 else batch.labels.argmax(dim=2)
            correct = correct + (outputs.argmax(dim=2) == hard).sum(dim=1)
        if self.recipe.gradient_clip_norm is not None:
            _clip_each(list(parameters.values()), self.recipe.gradient_clip_norm)
        self.optimizer.step()
        return loss, correct, total

    def _losses(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """The loss of each seed, (S,), and what its network gives, (S, N, 10)."""
        taught = batch.teacher_output

        def one(own: Any, kept: Any, images: Tensor, labels: Tensor, told: Tensor | None) -> Any:
            network: Any = partial(functional_call, self.network, (own, kept))
            return self.recipe.step(network, images, labels, told)

        each = vmap(one, (0, 0, 0, 0, None if taught is None else 0), randomness="different")
        with stepping.autocast(self.recipe, self.device):
            losses, outputs = each(parameters, buffers, batch.images, batch.labels, taught)
        return losses, outputs

    @torch.no_grad()
    def _predict(self) -> Tensor:
        """What the classifier of each seed gives for the digits of the evaluation, (S, N, 10)."""
        self.network.eval()
        recipe = self.recipe
        classify = Classifier(self.network, recipe.preprocess, recipe.views)
        stacked = _averages_of(self._average) if self._average else self._stacked
        named = [
            {f"network.{name}": tensor for name, tensor in each.items()}
            for each in stacked.tensors()
        ]
        each = vmap(lambda own, images: functional_call(classify, own, images), (0, None))
        parts = self.trainings[0].evaluation.images.split(EVALUATION_BATCH)
        return torch.cat([each(tuple(named), images) for images in parts], dim=1)

    def _try_out(self) -> None:
        """Take the step of two black images, and evaluate them, and leave nothing of it."""
        before = repr(beside.read_attributes(self.network))
        parameters, buffers = (
            {name: tensor.detach().clone().requires_grad_(tensor.requires_grad)
             for name, tensor in each.items()}
            for each in self._stacked.tensors()
        )  # fmt: skip
        count, device = len(self.trainings), self.device
        image = classifier.example_input(self.recipe).to(device)
        taught = torch.zeros(count, 2, 10, device=device) if self.trainings[0].teacher else None
        labels = torch.zeros(count, 2, dtype=torch.int64, device=device)
        batch = Batch(image.expand(count, *image.shape), labels, taught)
        try:
            with random_states_kept():
                self.network.train()
                self._losses(parameters, buffers, batch)[0].sum().backward()
        except Exception as error:  # of whatever its network and its step do
            raise ApartError(f"{APART}: {' '.join(str(error).split())[:160]}") from error
        if repr(beside.read_attributes(self.network)) != before:
            raise ApartError(f"{APART}: its network keeps something from one call to the next")

    def _make_optimizer(self) -> Any:
        """The recipe's optimizer, of the stacked tensors."""
        network = self.trainings[0].network
        parameters, _ = self._stacked.tensors()
        names = {id(own): name for name, own in network.named_parameters()}
        own = stepping.optimizer_of(self.recipe, network)
        groups = [
            {**group, "params": [parameters[names[id(each)]] for each in group["params"]]}
            for group in own.param_groups
        ]
        return self.recipe.optimizer(groups)

    def _gather(self) -> None:
        """Take over the states of what the trainings have stepped so far."""
        first, *_ = states = [training.optimizer.state_dict() for training in self.trainings]
        together = {
            number: {
                key: torch.stack([state["state"][number][key] for state in states])
                if _is_of_each(value) else value
                for key, value in own.items()
            }
            for number, own in first["state"].items()
        }  # fmt: skip
        self.optimizer.load_state_dict(first | {"state": together})
        for name in ("schedule", "batch_schedule"):
            if stepped := getattr(self, name):
                stepped.load_state_dict(getattr(self.trainings[0], name).state_dict())

    def _hand_out(self) -> None:
        """Give each training its part of what was stepped for all; tensors it shares anyway."""
        state = self.optimizer.state_dict()
        for place, training in enumerate(self.trainings):
            own = {
                number: {
                    key: value[place] if _is_of_each(value) else value
                    for key, value in kept.items()
                }
                for number, kept in state["state"].items()
            }
            training.optimizer.load_state_dict(state | {"state": own})
            for name in ("schedule", "batch_schedule"):
                if stepped := getattr(self, name):
                    getattr(training, name).load_state_dict(stepped.state_dict())
            if training.average and self._average:
                training.average.n_averaged.copy_(self._average.n_averaged)
                averaging.take_over_rest(training.average.module, training.network)


def _averages_of(average: AveragedModel) -> _Stacked:
    """The averages of stacked tensors."""
    module: Any = average.module
    assert isinstance(module, _Stacked)
    return module


class _Drawing:
    """The batches of one training in an epoch, drawn as it would draw them alone."""

    def __init__(self, training: Training, epoch: int) -> None:
        self.training = training
        self.generator = seeding.seed_epoch(training.seed, epoch)
        self.digits = training.train.batches(training.recipe.batch_size, self.generator)
        # What takes no generator draws from the global states, of which each seed has its own.
        self.states: RandomStates | None = None
        if any(map(transforms.draws_globally, parts_of(training.recipe.augment))):
            self.states = random_states()

    def next_batch(self) -> Batch:
        if self.states is None:
            return self.training.prepare(next(self.digits), self.generator)
        with random_states_kept():
            put_back(self.states)
            batch = self.training.prepare(next(self.digits), self.generator)
            self.states = random_states()
        return batch


def _stacked_batch(batches: Sequence[Batch]) -> Batch:
    taught = [batch.teacher_output for batch in batches if batch.teacher_output is not None]
    return Batch(
        torch.stack([batch.images for batch in batches]),
        torch.stack([batch.labels for batch in batches]),
        torch.stack(taught) if taught else None,
    )


def _all(scores: Sequence[Score]) -> Score:
    """That of all seeds, as far as their losses are finite."""
    fine = [score for score in scores if math.isfinite(score.loss)] or list(scores)
    correct, total = sum(x.correct for x in fine), sum(x.total for x in fine)
    return Score(correct, total, sum(x.loss for x in fine) / len(fine))


def _is_of_each(value: Any) -> bool:
    """Whether a state of an optimizer is of the numbers of a tensor, and no counter of steps."""
    return isinstance(value, Tensor) and value.dim() > 0


def _clip_each(parameters: Sequence[Tensor], most: float) -> None:
    """Shrink the gradients of each seed to a norm of at most so much, as torch's clip_grad_norm_
    does for one."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([each.flatten(1).norm(dim=1) for each in gradients]).norm(dim=0)  # (S,)
    factors = (most / (norms + 1e-6)).clamp(max=1.0)
    for each in gradients:
        each.mul_(factors.view(-1, *[1] * (each.dim() - 1)))


def _why_apart(training: Training) -> str:
    """Why the seeds of a recipe cannot be trained as one, or ""."""
    if type(training.optimizer) not in BY_ELEMENT:
        return f"{type(training.optimizer).__name__} may step each number by those beside it"
    if isinstance(training.schedule, ReduceLROnPlateau):
        return "ReduceLROnPlateau has another learning rate for each"
    loss = training.recipe.loss
    if isinstance(loss, nn.Module) and any(loss.parameters()):
        return "its loss has weights"
    return ""
