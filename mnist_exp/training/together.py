"""Several seeds of one recipe, trained as one network: each of its tensors has an axis of seeds.

One small network leaves a graphics card idle. Each seed stays a `Training` of its
own, whose weights, statistics and averages are views of the tensors that are stepped: what it
gives, keeps and resumes from is what it would be, were it trained alone. It draws its own order and
augmentation, and dropout of its own, so that it has the same distribution as a seed that is trained
alone, and not the same numbers.
"""

import copy
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from mnist_exp.common.copying import copied
from mnist_exp.common.errors import is_of_full_memory
from mnist_exp.common.randomness import (
    random_states,
    random_states_kept,
)
from mnist_exp.common.sameness import same_state
from mnist_exp.training import (
    averaging,
    beside,
    classifier,
    faster,
    seeding,
    stepping,
)
from mnist_exp.training.apart import APART, ApartError, parts_of_all, why_apart
from mnist_exp.training.averaging import Average
from mnist_exp.training.classifier import EVALUATION_BATCH, Classifier
from mnist_exp.training.determinism import deterministic, missing
from mnist_exp.training.loop import (
    EpochResult,
    NonFiniteLossError,
    Progress,
    Score,
    Tally,
    Training,
    diverged,
)
from mnist_exp.training.stacking import (
    SeedBatches,
    Stacked,
    clip_each,
    is_of_each,
    stacked_batch,
)
from mnist_exp.training.stepping import Batch

PARTS_OF_IMAGES = "augment", "preprocess"


class Together:
    """Trainings of one recipe, which differ in their seeds, as one; they are used up by it.

    They have finished the same epochs. Those at the places `lost` are computed with the others,
    since what each draws depends on how many there are, and come to nothing. `not_deterministic`
    names an operation that has no deterministic kernel, or is "".

    Raises ApartError where a recipe cannot be trained so, and whatever says that the memory has no
    room for so many.
    """

    def __init__(self, trainings: Sequence[Training], lost: Iterable[int] = ()) -> None:
        self.trainings = list(trainings)
        self.lost = set(lost)
        first = self.trainings[0]
        self.recipe, self.device = first.recipe, first.evaluation.images.device
        self.batches = first.batches
        networks = [training.network for training in self.trainings]
        if why := why_apart(self.trainings):
            raise ApartError(f"{APART}: {why}")
        self.network = faster.as_torch_has_it(copied(networks[0]))
        self._stacked = Stacked(networks)
        self._stacked.share(networks)
        self.not_deterministic = self._try_out()
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
            self._average = Average(Stacked(averages), self.recipe.averaging)
            self._average.n_averaged.copy_(counts)
            _averages_of(self._average).share(averages)
        if first.results:
            self._gather()

    def epochs(
        self, watch: Callable[[Progress], None] | None = None
    ) -> Iterator[dict[int, EpochResult | NonFiniteLossError]]:
        """Train the epochs that are left; gives of each what it came to, by the places of the
        trainings. One whose loss is not finite comes to an error, and is left out of the next
        epochs. `watch` hears of the mean of all."""
        done = len(self.trainings[0].results)
        if done == self.recipe.epochs:
            for training, output in zip(self.trainings, self._predict(), strict=True):
                training.output = output
        for epoch in range(done + 1, self.recipe.epochs + 1):
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
                break
        self._part()

    def _train_epoch(
        self, epoch: int, watch: Callable[[Progress], None] | None
    ) -> dict[int, Score | NonFiniteLossError]:
        """Train an epoch; gives the score of each training under way, of all its batches."""
        self.network.train()
        drawing = [SeedBatches(training, epoch) for training in self.trainings]
        seeding.seed_epoch([training.seed for training in self.trainings], epoch)
        tally = Tally(self.device, len(self.trainings))
        failed: dict[int, NonFiniteLossError] = {}
        size = self.recipe.accumulate_batches
        steps = range(0, self.batches, size)
        for number, first in enumerate(steps, start=1 + (epoch - 1) * len(steps)):
            batch = min(first + size, self.batches)
            drawn = [[own.next_batch() for own in drawing] for _ in range(first, batch)]
            loss, right, digits = self._take_step([stacked_batch(each) for each in drawn])
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
        if self._average:
            averaging.take_over_rest(_averages_of(self._average), self._stacked)
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
            hard = batch.labels.argmax(dim=2) if batch.labels.dim() == 3 else batch.labels
            correct = correct + (outputs.argmax(dim=2) == hard).sum(dim=1)
        if self.recipe.gradient_clip_norm is not None:
            clip_each(list(parameters.values()), self.recipe.gradient_clip_norm)
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

    def _predict(self) -> Tensor:
        """What the classifier of each seed gives for the digits of the evaluation, (S, N, 10)."""
        stacked = _averages_of(self._average) if self._average else self._stacked
        parts = self.trainings[0].evaluation.images.split(EVALUATION_BATCH)
        with deterministic(self.device):
            outputs = [self._outputs(stacked.tensors(), images) for images in parts]
        return torch.cat(outputs, dim=1)

    @torch.no_grad()
    def _outputs(self, tensors: Sequence[dict[str, Tensor]], images: Tensor) -> Tensor:
        """What the classifier of each seed, with its part of the tensors, gives for images,
        (S, N, 10)."""
        self.network.eval()
        classify = Classifier(self.network, self.recipe.preprocess, self.recipe.views)
        named = [{f"network.{name}": tensor for name, tensor in each.items()} for each in tensors]
        each = vmap(lambda own, images: functional_call(classify, own, images), (0, None))
        outputs: Tensor = each(tuple(named), images)
        return outputs

    def _try_out(self) -> str:
        """Take a step of the first batch, and evaluate some digits, and leave nothing of it; names
        what has no deterministic kernel, or "". It takes the memory that a step will take."""
        before = copy.deepcopy(self._kept())
        try:
            with random_states_kept():
                batch, drawn = self._example(), random_states()
                without = missing(self.device, lambda: self._step_of_copies(batch))
                draws = not same_state(random_states()[1:], drawn[1:])
            keeps = not same_state(self._kept(), before)
        except Exception as error:  # of whatever its network and its step do
            if is_of_full_memory(error):
                raise
            raise ApartError(f"{APART}: {' '.join(str(error).split())[:160]}") from error
        if keeps:
            raise ApartError(f"{APART}: its network or loss keeps something between two calls")
        if draws:
            raise ApartError(f"{APART}: its network or step draws from Python's random or numpy")
        return without

    def _kept(self) -> Any:
        """What the one network that computes all seeds keeps of its own, and what is beside it."""
        return beside.read_attributes(self.network), parts_of_all(self.trainings[0])

    def _example(self) -> Batch:
        """The first batch of the first seed, for each of them."""
        first = self.trainings[0]
        fields = {name: copy.deepcopy(getattr(self.recipe, name)) for name in PARTS_OF_IMAGES}
        images, labels = classifier.network_input(
            dataclasses.replace(self.recipe, **fields), first.train[: self.recipe.batch_size],
            torch.Generator(),
        )  # fmt: skip
        taught = torch.zeros(len(images), 10, device=self.device) if first.teacher else None
        return stacked_batch([Batch(images, labels, taught)] * len(self.trainings))

    def _step_of_copies(self, batch: Batch) -> None:
        """Take a step, and evaluate, with copies of all tensors."""
        parameters, buffers = (
            {
                name: tensor.detach().clone().requires_grad_(tensor.requires_grad)
                for name, tensor in each.items()
            }
            for each in self._stacked.tensors()
        )
        self.network.train()
        self._losses(parameters, buffers, batch)[0].sum().backward()
        self._outputs((parameters, buffers), self.trainings[0].evaluation.images[:EVALUATION_BATCH])

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
                if is_of_each(key, value) else value
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
                    key: value[place] if is_of_each(key, value) else value
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

    def _part(self) -> None:
        """Give each training tensors of its own: who keeps a view keeps those of all seeds."""
        for training in self.trainings:
            networks = [training.network, *([training.average.module] if training.average else [])]
            for network in networks:
                for tensor in itertools.chain(network.parameters(), network.buffers()):
                    tensor.data = tensor.data.clone()


def _averages_of(average: Average) -> Stacked:
    """The averages of stacked tensors."""
    module: Any = average.module
    assert isinstance(module, Stacked)
    return module


def _all(scores: Sequence[Score]) -> Score:
    """That of all seeds, as far as their losses are finite."""
    fine = [score for score in scores if math.isfinite(score.loss)] or list(scores)
    correct, total = sum(x.correct for x in fine), sum(x.total for x in fine)
    return Score(correct, total, sum(x.loss for x in fine) / len(fine))
