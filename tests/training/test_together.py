"""Seeds that are trained as one: each as if it were trained alone."""

import math
import pickle
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from mnist_exp.augment import RandomRotation
from mnist_exp.data import Digits
from mnist_exp.recipe import ExponentialAverage, Recipe
from mnist_exp.training.loop import NonFiniteLossError, Training
from mnist_exp.training.together import ApartError, Together

SEEDS = (3, 1, 8)
CPU = torch.device("cpu")


class Network(nn.Module):
    """In float64, so that what differs is no rounding."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 5, stride=3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(4 * 8 * 8, 10)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.relu(self.norm(self.conv(x.double()))))
        return self.out(x.flatten(1))


class Exact(Recipe):
    """Whose step rounds nothing to float32."""

    def step(
        self, network: nn.Module, images: Tensor, labels: Tensor, _: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        output = network(images)
        return F.cross_entropy(output, labels), output


def recipe(**fields: Any) -> Recipe:
    plain = {"network": Network, "optimizer": partial(SGD, lr=0.05), "batch_size": 20, "epochs": 2}
    return Exact(**(plain | fields))


@pytest.fixture
def digits(mnist: tuple[Digits, Digits]) -> tuple[Digits, Digits]:
    return mnist[0][:500], mnist[1][:300]


@pytest.fixture
def trainings(digits: tuple[Digits, Digits]) -> Callable[[Recipe], list[Training]]:
    return lambda own: [Training(own, *digits, seed=seed, device=CPU) for seed in SEEDS]


def halves(weights: nn.Module) -> list[dict[str, Any]]:
    """Two groups, of which one is trained more slowly."""
    parts: Any = dict(weights.named_children())
    return [
        {"params": [*parts["conv"].parameters(), *parts["norm"].parameters()], "lr": 0.01},
        {"params": parts["out"].parameters()},
    ]


RECIPES = {
    "plain": {},
    "one cycle, momentum, an average": {
        "optimizer": partial(SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
        "batch_schedule": partial(OneCycleLR, max_lr=0.1),
        "averaging": ExponentialAverage(decay=0.9, every=2),
        "augment": RandomRotation(degrees=7),
    },
    "adam, clipped, accumulated": {
        "optimizer": partial(AdamW, lr=0.01),
        "schedule": partial(StepLR, step_size=1, gamma=0.3),
        "gradient_clip_norm": 0.5,
        "accumulate_batches": 2,
    },
    "groups": {"parameter_groups": halves, "optimizer": partial(SGD, lr=0.05, momentum=0.5)},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_seed_has_the_numbers_of_one_that_is_trained_alone(
    name: str, trainings: Callable[[Recipe], list[Training]]
) -> None:
    own = recipe(**RECIPES[name])  # 50 batches in two epochs
    apart, together = trainings(own), trainings(own)
    came = list(Together(together).epochs())
    assert [sorted(each) for each in came] == [[0, 1, 2]] * 2
    for alone, one in zip(apart, together, strict=True):
        assert list(alone.epochs())
        for theirs, ours in zip(alone.results, one.results, strict=True):
            assert ours.train.loss == pytest.approx(theirs.train.loss, abs=1e-6)
            assert ours.evaluation.loss == pytest.approx(theirs.evaluation.loss, abs=1e-6)
            assert ours.train.correct == theirs.train.correct
            assert ours.learning_rate == theirs.learning_rate
        torch.testing.assert_close(_tensors(one), _tensors(alone), rtol=0, atol=1e-6)
        torch.testing.assert_close(one.output, alone.output, rtol=0, atol=1e-6)


def _tensors(training: Training) -> Any:
    state = training.state()
    return (
        state["network"]["persistent"], state["average"].get("persistent", {}),
        state["optimizer"]["state"],
    )  # fmt: skip


def crooked(images: Tensor) -> Tensor:
    """Draws from the global states, which each seed has for itself."""
    return images * torch.rand(len(images), 1, 1, 1) * random.random()


def test_what_is_drawn_from_global_states_is_that_of_each_seed(
    trainings: Callable[[Recipe], list[Training]],
) -> None:
    own = recipe(augment=crooked, epochs=1)
    apart, together = trainings(own), trainings(own)
    list(Together(together).epochs())
    for alone, one in zip(apart, together, strict=True):
        list(alone.epochs())
        torch.testing.assert_close(_tensors(one), _tensors(alone), rtol=0, atol=1e-6)


NOISY = {
    **RECIPES["one cycle, momentum, an average"], "epochs": 3, "network": partial(Network, 0.3),
    "schedule": partial(StepLR, step_size=1),
}  # fmt: skip


def test_the_same_seeds_go_on_bit_for_bit(
    trainings: Callable[[Recipe], list[Training]],
) -> None:
    through, ended, resumed = (trainings(recipe(**NOISY)) for _ in range(3))
    list(Together(through).epochs())
    next(Together(ended).epochs())
    for before, after in zip(ended, resumed, strict=True):
        after.restore(pickle.loads(pickle.dumps(before.state())))
    list(Together(resumed).epochs())
    for one, other in zip(through, resumed, strict=True):
        assert one.results[1:] != other.results[1:]  # of which the seconds differ
        assert _numbers(one) == _numbers(other)
        torch.testing.assert_close(_tensors(one), _tensors(other), rtol=0, atol=0)


def _numbers(training: Training) -> list[Any]:
    return [(r.train, r.evaluation, r.learning_rate) for r in training.results]


def test_each_draws_dropout_of_its_own(digits: tuple[Digits, Digits]) -> None:
    own = recipe(network=partial(Network, 0.5), epochs=1)
    twins = [Training(own, *digits, seed=1, device=CPU) for _ in range(2)]
    list(Together(twins).epochs())
    assert twins[0].results[0].train.loss != twins[1].results[0].train.loss


def test_a_seed_goes_on_alone_from_what_it_keeps(
    trainings: Callable[[Recipe], list[Training]],
) -> None:
    own = recipe(**NOISY)
    ended, (alone, *_) = trainings(own), trainings(own)
    next(Together(ended).epochs())
    alone.restore(pickle.loads(pickle.dumps(ended[0].state())))
    assert [result.epoch for result in alone.epochs()] == [2, 3]
    assert alone.results[-1].evaluation.loss < ended[0].results[0].evaluation.loss


def test_a_loss_that_is_not_finite_ends_its_seed_alone(
    trainings: Callable[[Recipe], list[Training]],
) -> None:
    own = trainings(recipe(epochs=3))
    with torch.no_grad():
        own[1].network.out.bias[0] = math.inf
    came = list(Together(own).epochs())
    assert [sorted(each) for each in came] == [[0, 1, 2], [0, 2], [0, 2]]
    assert isinstance(came[0][1], NonFiniteLossError)
    assert str(came[0][1]).startswith("the loss became nan in epoch 1, batch 1 of 25; ")
    assert own[1].results == []
    assert [len(own[place].results) for place in (0, 2)] == [3, 3]


class Counting(Network):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Choosing(Network):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > 0 else 2 * x)


APART = {
    "LBFGS may step": {"optimizer": partial(LBFGS, lr=0.1)},
    "ReduceLROnPlateau has another": {"schedule": ReduceLROnPlateau},
    "its network keeps something": {"network": Counting},
    "data-dependent control flow": {"network": Choosing},
}


@pytest.mark.parametrize("why", APART)
def test_what_cannot_be_trained_together_says_why(
    why: str, trainings: Callable[[Recipe], list[Training]]
) -> None:
    with pytest.raises(ApartError, match=f"its seeds cannot be trained together: .*{why}"):
        Together(trainings(recipe(**APART[why])))
