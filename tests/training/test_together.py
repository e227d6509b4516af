"""Seeds that are trained as one: each as if it were trained alone."""

import math
import pickle
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from mnist_exp.augment import RandomRotation
from mnist_exp.data import Digits
from mnist_exp.recipe import ExponentialAverage, Recipe
from mnist_exp.training import determinism
from mnist_exp.training.apart import BY_ELEMENT, ApartError
from mnist_exp.training.loop import NonFiniteLossError, Training
from mnist_exp.training.together import Together

SEEDS = (3, 1, 8)
CPU = torch.device("cpu")


class Network(nn.Module):
    """In float64, so that what differs is no rounding."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 5, stride=3, bias=False)  # whose gradient would be noise
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


class Scaled(Network):
    """With a weight of no dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x)


class Counted(Network):
    """With a whole number of which there is no average, and which its evaluation depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return super().forward(x) * (1 + self.seen / 100)


def mixing(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if torch.rand((), generator=generator) < 0.5:
        return images, labels
    weights = F.one_hot(labels, 10).float()
    return (images + images.flip(0)) / 2, (weights + weights.flip(0)) / 2


RECIPES: dict[str, dict[str, Any]] = {
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
    "a number of its own, clipped": {
        "network": lambda: Scaled(), "gradient_clip_norm": 0.5,
        "optimizer": partial(AdamW, lr=0.01),
    },
    "digits mixed now and then": {"augment": mixing},
    "a counter that is evaluated": {
        "network": lambda: Counted(), "averaging": ExponentialAverage(decay=0.9),
    },
}  # fmt: skip


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


OPTIMIZERS = sorted(BY_ELEMENT, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_each_optimizer_goes_on_as_it_does_for_one(
    kind: Any, trainings: Callable[[Recipe], list[Training]]
) -> None:
    own = recipe(network=Scaled, optimizer=partial(kind, lr=0.01), batch_size=100)
    apart, begun, alone_again, resumed = (trainings(own) for _ in range(4))
    next(Together(begun).epochs())
    for alone in apart:
        next(alone.epochs())
    for before, after in zip(apart + begun, alone_again + resumed, strict=True):
        after.restore(pickle.loads(pickle.dumps(before.state())))
    list(Together(resumed).epochs())
    for alone, one in zip(alone_again, resumed, strict=True):
        list(alone.epochs())
        torch.testing.assert_close(_tensors(one), _tensors(alone), rtol=0, atol=1e-6)


def test_those_that_come_to_nothing_are_computed_and_change_nothing(
    trainings: Callable[[Recipe], list[Training]],
) -> None:
    every, some = (trainings(recipe(**NOISY)) for _ in range(2))
    list(Together(every).epochs())
    with torch.no_grad():
        some[1].network.out.bias[0] = math.nan
    came = list(Together(some, lost=[1]).epochs())
    assert [sorted(each) for each in came] == [[0, 2]] * 3
    for place in (0, 2):
        torch.testing.assert_close(_tensors(every[place]), _tensors(some[place]), rtol=0, atol=0)
        assert _numbers(every[place]) == _numbers(some[place])


def test_of_the_last_epoch_each_has_its_output_and_tensors_of_its_own(
    trainings: Callable[[Recipe], list[Training]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, resumed = (trainings(recipe(**NOISY)) for _ in range(2))
    list(Together(ended).epochs())
    for before, after in zip(ended, resumed, strict=True):
        after.restore(pickle.loads(pickle.dumps(before.state())))
    assert not list(Together(resumed).epochs())
    # By itself a seed may round otherwise.
    monkeypatch.setattr(Training, "_predict", lambda _: pytest.fail("evaluated alone"))
    for one, other in zip(ended, resumed, strict=True):
        torch.testing.assert_close(one.output, other.output, rtol=0, atol=0)
        for tensor in [*one.classifier.parameters(), *one.network.buffers()]:
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


class Counting(Network):
    """Keeps something, so that its seeds cannot share it."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Choosing(Network):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > 0 else 2 * x)


class ChoosingAtTheEnd(Network):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.training or self.out.bias.mean() > 0 else 2 * x)


class Drawing(Network):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * random.random())


class DrawingNumpy(Network):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * np.random.rand())  # noqa: NPY002


class Drawn(Network):
    """Another for each seed."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = random.random()


class Wide(Network):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(int(torch.randint(1, 100, ())), 1)


class Hooked(Network):
    def __init__(self) -> None:
        super().__init__()
        self.out.weight.register_hook(torch.sign)


def own_groups(weights: nn.Module) -> list[dict[str, Any]]:
    return [{"params": weights.parameters(), "weight_decay": float(torch.rand(()))}]


class Remembering(nn.CrossEntropyLoss):
    def forward(self, output: Tensor, labels: Tensor) -> Tensor:
        self.last = 3
        return super().forward(output, labels)


APART: dict[str, dict[str, Any]] = {
    "LBFGS may step": {"optimizer": partial(LBFGS, lr=0.1)},
    "ReduceLROnPlateau has another": {"schedule": ReduceLROnPlateau},
    "network or loss keeps something": {"network": Counting},
    "data-dependent control flow": {"network": Choosing},
    "vmap.*data-dependent control": {"network": ChoosingAtTheEnd},
    "draws from Python's random or numpy": {"network": Drawing},
    "or step draws from Python's random": {"network": DrawingNumpy},
    "attributes of its network differ": {"network": Drawn},
    "the shapes of its weights differ": {"network": Wide},
    "its weights have hooks": {"network": Hooked},
    "settings of its optimizer differ": {"parameter_groups": own_groups},
}


@pytest.mark.parametrize("why", APART)
def test_what_cannot_be_trained_together_says_why(
    why: str, trainings: Callable[[Recipe], list[Training]]
) -> None:
    with pytest.raises(ApartError, match=f"its seeds cannot be trained together: .*{why}"):
        Together(trainings(recipe(**APART[why])))


def test_recipes_that_differ_are_not_trained_together(digits: tuple[Digits, Digits]) -> None:
    rates = (0.05, 0.06)
    own = [recipe(optimizer=partial(SGD, lr=rate)) for rate in rates]
    with pytest.raises(ApartError, match="the hyperparameters of its recipe differ"):
        Together([Training(each, *digits, seed=1, device=CPU) for each in own])


def test_what_a_loss_keeps_is_not_of_all(digits: tuple[Digits, Digits]) -> None:
    plain = {"network": Network, "optimizer": partial(SGD, lr=0.05), "batch_size": 20, "epochs": 1}
    own = Recipe(**plain, loss=Remembering())
    with pytest.raises(ApartError, match="network or loss keeps something"):
        Together([Training(own, *digits, seed=seed, device=CPU) for seed in SEEDS])
    weighted = Recipe(**plain, loss=nn.CrossEntropyLoss(weight=torch.ones(10)))
    assert Together([Training(weighted, *digits, seed=seed, device=CPU) for seed in SEEDS])


class Greedy(Network):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0 * torch.empty(2**46).sum())


def test_a_full_memory_is_none_of_its_reasons(
    trainings: Callable[[Recipe], list[Training]],
) -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        Together(trainings(recipe(network=Greedy)))


def test_what_has_no_deterministic_kernel_is_found_out_for_all(
    trainings: Callable[[Recipe], list[Training]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(determinism, "ASKED", {"cpu"})
    assert Together(trainings(recipe(network=Putting))).not_deterministic == "put_"
    assert Together(trainings(recipe())).not_deterministic == ""


class Putting(Network):
    def forward(self, x: Tensor) -> Tensor:
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
        return super().forward(x)


@pytest.mark.slow
def test_accuracies_have_the_distribution_of_seeds_that_are_trained_alone(
    mnist: tuple[Digits, Digits],
) -> None:
    """With dropout, whose masks are others than those of a seed that is trained alone."""
    own = recipe(network=partial(Network, 0.3), batch_size=50, epochs=4)

    def accuracies(seeds: range, *, as_one: bool) -> list[float]:
        train, test = mnist[0][:1000], mnist[1][:1000]
        made = [Training(own, train, test, seed=seed, device=CPU) for seed in seeds]
        for each in [Together(made)] if as_one else made:
            list(each.epochs())
        return [training.results[-1].evaluation.accuracy for training in made]

    together, alone = accuracies(range(30), as_one=True), accuracies(range(100, 130), as_one=False)
    low, high = stats.ttest_ind(together, alone, equal_var=False).confidence_interval(0.999)
    assert low < 0 < high
    assert high - low < 0.03
    assert stats.levene(together, alone).pvalue > 0.001
