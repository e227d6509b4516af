"""Steps of an optimizer, with answers worked out by hand."""

import copy
import dataclasses
import io
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from mnist_exp.common.errors import ExpectedError
from mnist_exp.data import Digits
from mnist_exp.notebook import loading
from mnist_exp.recipe import Recipe
from mnist_exp.training.loop import EpochResult, Training
from mnist_exp.training.stepping import (
    Batch,
    asked_by,
    learning_rate_of,
    optimizer_of,
    take_step,
    takes_closure,
)

CPU = torch.device("cpu")
Mnist = tuple[Digits, Digits]


def recipe(number: int = 2, **changes: Any) -> Recipe:
    return dataclasses.replace(loading.load_iteration(number).recipe, epochs=1, **changes)


def trained(mnist: Mnist, digits: int, **changes: Any) -> Training:
    training = Training(recipe(**changes), mnist[0][:digits], mnist[1][:100], seed=1, device=CPU)
    list(training.epochs())
    return training


def timeless(results: list[EpochResult]) -> list[EpochResult]:
    return [dataclasses.replace(result, seconds=0, ended=0) for result in results]


class Scaled(nn.Module):
    """Ten pixels, each times a weight of its own, which begins at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) * self.weight


def step(network: nn.Module, *batches: Batch, **fields: Any) -> tuple[float, int]:
    """A step of SGD at a learning rate of 1."""
    own = Recipe(network=Scaled, batch_size=1, epochs=1, optimizer=partial(SGD, lr=1.0), **fields)
    return take_step(own, network, optimizer_of(own, network), batches)


def image(**pixels: float) -> Tensor:
    """One image of ten pixels, (1, 1, 1, 10): pixel p3 is that of digit 3."""
    made = torch.zeros(1, 1, 1, 10)
    for name, value in pixels.items():
        made[..., int(name[1:])] = value
    return made


def test_several_batches_make_the_step_of_one_that_is_as_large(mnist: Mnist) -> None:
    # 64 and 36 digits; in halves, 32 and 32, then 32 and 4: the last batch counts for less.
    whole = trained(mnist, 100, batch_size=64)
    halves = trained(mnist, 100, batch_size=32, accumulate_batches=2)
    (one,), (other,) = whole.results, halves.results
    assert other.train.correct == one.train.correct
    assert other.train.loss == pytest.approx(one.train.loss, rel=1e-6)
    for expected, weights in zip(
        whole.network.parameters(), halves.network.parameters(), strict=True
    ):
        torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-7)


def test_accumulating_more_batches_than_there_are_makes_one_step_an_epoch(mnist: Mnist) -> None:
    whole = trained(mnist, 100, batch_size=100)
    many = trained(
        mnist, 100, batch_size=25, accumulate_batches=1000,
        batch_schedule=partial(StepLR, step_size=1, gamma=0.5),
    )  # fmt: skip
    assert many.batch_schedule.last_epoch == 1
    for expected, weights in zip(
        whole.network.parameters(), many.network.parameters(), strict=True
    ):
        torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-7)


def test_a_schedule_of_batches_that_are_accumulated_is_told_of_the_steps(mnist: Mnist) -> None:
    own = recipe(
        batch_size=10, accumulate_batches=4, batch_schedule=partial(OneCycleLR, max_lr=0.1)
    )
    own = dataclasses.replace(own, epochs=3)
    training = Training(own, mnist[0][:95], mnist[1][:10], seed=1, device=CPU)
    assert training.batch_schedule.total_steps == 3 * 3  # of 10 batches: 4, 4 and 2


@pytest.mark.parametrize(("largest", "expected"), [(1.0, (0.6, 0.8)), (10.0, (3.0, 4.0))])
def test_a_gradient_is_shrunk_to_the_norm_and_not_enlarged(
    largest: float, expected: tuple[float, float]
) -> None:
    network = Scaled()
    # Of 3 w0 + 4 w1, the gradient is (3, 4), whose norm is 5.
    step(
        network, Batch(image(p0=3.0, p1=4.0), torch.tensor([0]), None),
        loss=lambda output, _: output.sum(), gradient_clip_norm=largest,
    )  # fmt: skip
    torch.testing.assert_close((1 - network.weight)[:2], torch.tensor(expected))


def test_a_mixed_digit_is_right_where_its_greatest_share_is() -> None:
    labels = torch.zeros(3, 10)
    labels[0, 3], labels[0, 5] = 0.7, 0.3  # taken for a 3: right
    labels[1, 1], labels[1, 2] = 0.4, 0.6  # taken for a 1: wrong
    labels[2, 9] = 1.0  # taken for a 9: right
    images = torch.cat([image(p3=2.0), image(p1=2.0), image(p9=2.0)])
    loss, correct = step(Scaled(), Batch(images, labels, None))
    assert correct == 2
    # Of a pixel of 2 and nine of 0, the logarithms of the probabilities are 2 - c and -c.
    c = torch.tensor([2.0] + [0.0] * 9).logsumexp(dim=0).item()
    assert loss == pytest.approx(((c - 0.7 * 2) + (c - 0.4 * 2) + (c - 2)) / 3, rel=1e-6)


def test_the_loss_of_a_step_is_a_mean_over_all_digits() -> None:
    batches = [
        Batch(torch.cat([image(p0=1.0)] * 3), torch.tensor([0, 0, 1]), None),
        Batch(image(p0=5.0), torch.tensor([0]), None),
    ]
    loss, correct = step(Scaled(), *batches, loss=lambda output, _: output[:, 0].mean())
    assert (loss, correct) == (pytest.approx((3 * 1 + 5) / 4), 3)


def test_a_teachers_output_reaches_the_loss() -> None:
    taught = torch.full((1, 10), 7.0)
    loss, _ = step(
        Scaled(), Batch(image(p0=5.0), torch.tensor([0]), taught),
        loss=lambda output, _, teacher_output: (teacher_output - output).mean(),
    )  # fmt: skip
    assert loss == pytest.approx(7 - 0.5)


def test_a_step_of_ones_own_says_what_the_loss_and_the_output_are() -> None:
    class Doubled(Recipe):
        def step(
            self, network: nn.Module, images: Tensor, labels: Tensor, teacher_output: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            loss, output = super().step(network, images, labels, teacher_output)
            return 2 * loss, -output

    own = Doubled(network=Scaled, batch_size=1, epochs=1, optimizer=partial(SGD, lr=1.0))
    network, batch = Scaled(), Batch(image(p0=1.0), torch.tensor([0]), None)
    plain, right = step(Scaled(), batch)
    doubled, negated = take_step(own, network, optimizer_of(own, network), [batch])
    assert (doubled, right, negated) == (2 * plain, 1, 0)


@pytest.mark.parametrize(
    ("patience", "rates"), [(0, [0.8, 0.8, 0.4, 0.2]), (1, [0.8, 0.8, 0.8, 0.4])]
)
def test_the_learning_rate_falls_when_the_evaluation_loss_stalls(
    mnist: Mnist, patience: int, rates: list[float]
) -> None:
    stalled = recipe(
        optimizer=partial(SGD, lr=0.8), loss=lambda output, _: 0 * output.sum(),
        schedule=partial(ReduceLROnPlateau, factor=0.5, patience=patience),
    )  # fmt: skip
    stalled = dataclasses.replace(stalled, epochs=4)
    training = Training(stalled, mnist[0][:64], mnist[1][:50], seed=1, device=CPU)
    assert [result.learning_rate for result in training.epochs()] == pytest.approx(rates)
    assert len({result.evaluation.loss for result in training.results}) == 1


def warm_up_and_fall(optimizer: torch.optim.Optimizer) -> SequentialLR:
    parts = [LinearLR(optimizer, 0.1, total_iters=2), CosineAnnealingLR(optimizer, 4)]
    return SequentialLR(optimizer, parts, milestones=[2])


def chained(optimizer: torch.optim.Optimizer) -> ChainedScheduler:
    return ChainedScheduler([LinearLR(optimizer, 0.5, total_iters=2), StepLR(optimizer, 1, 0.1)])


STEPPED: dict[str, dict[str, Any]] = {
    "LBFGS": {"optimizer": partial(LBFGS, lr=0.3, max_iter=4)},
    "LBFGS, clipped, accumulated": {
        "optimizer": partial(LBFGS, lr=0.3, max_iter=3), "batch_size": 50,
        "accumulate_batches": 2, "gradient_clip_norm": 5.0,
    },
    "ReduceLROnPlateau": {"schedule": partial(ReduceLROnPlateau, patience=0, threshold=0.5)},
    "SequentialLR": {"schedule": warm_up_and_fall},
    "SequentialLR of batches": {"batch_schedule": warm_up_and_fall},
    "ChainedScheduler": {"schedule": chained},
    "autocast": {"autocast": "bfloat16"},
    "groups": {
        "optimizer": Adam,
        "parameter_groups": lambda network: [
            {"params": [p for p in network.parameters() if p.dim() > 1], "lr": 0.01},
            {"params": [p for p in network.parameters() if p.dim() == 1], "lr": 0.1},
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("changes", STEPPED.values(), ids=list(STEPPED))
def test_what_is_stepped_goes_on_bit_for_bit(mnist: Mnist, changes: dict[str, Any]) -> None:
    own = recipe(**{"number": 3, "batch_size": 100} | changes)
    own = dataclasses.replace(own, epochs=4)

    def begin() -> Training:
        return Training(own, mnist[0][:200], mnist[1][:100], seed=1, device=CPU)

    whole, first, resumed = begin(), begin(), begin()
    list(whole.epochs())
    for _ in zip(range(2), first.epochs(), strict=False):
        pass
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    resumed.restore(torch.load(file, weights_only=True))
    list(resumed.epochs())
    assert timeless(resumed.results) == timeless(whole.results)
    assert torch.equal(resumed.output, whole.output)
    assert whole.results[-1].train.loss < whole.results[0].train.loss


def test_a_closure_lowers_the_loss_more_often_than_once_a_step(mnist: Mnist) -> None:
    calls: list[int] = []

    def counted(output: Tensor, labels: Tensor) -> Tensor:
        calls.append(len(labels))
        return nn.functional.cross_entropy(output, labels)

    training = trained(
        mnist, 100, batch_size=100, loss=counted, optimizer=partial(LBFGS, max_iter=3)
    )
    assert calls == [100] * 3
    assert training.results[0].train.total == 100  # of which each counts once


def test_evaluation_computes_in_float32_where_training_does_not(mnist: Mnist) -> None:
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    class Watched(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(1, 10, 28), nn.Flatten())

        def forward(self, images: Tensor) -> Tensor:
            output = super().forward(images)
            seen[self.training].add(output.dtype)
            return output

    trained(mnist, 50, network=Watched, autocast="bfloat16")
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}
    assert all(p.dtype == torch.float32 for p in Watched().parameters())


def test_who_takes_a_closure() -> None:
    class Plain(SGD):
        def step(self) -> None:  # type: ignore[override]
            super().step()

    weights = [torch.ones(2, requires_grad=True)]
    assert takes_closure(SGD(weights))
    assert takes_closure(LBFGS(weights))
    assert not takes_closure(Plain(weights))


def test_an_optimizer_without_a_closure_trains_all_the_same() -> None:
    class Plain(SGD):
        def step(self) -> None:  # type: ignore[override]
            super().step()

    network, other = Scaled(), Scaled()
    batch = Batch(image(p0=1.0), torch.tensor([0]), None)
    own = Recipe(network=Scaled, batch_size=1, epochs=1, optimizer=partial(Plain, lr=1.0))
    assert take_step(own, network, optimizer_of(own, network), [batch]) == step(other, batch)
    assert torch.equal(network.weight, other.weight)
    assert not torch.equal(network.weight, Scaled().weight)


def test_a_closure_that_nobody_calls_is_refused_in_a_line() -> None:
    class Lazy(SGD):
        def step(self, closure: Any = None) -> None:
            pass

    own = Recipe(network=Scaled, batch_size=1, epochs=1, optimizer=partial(Lazy, lr=1.0))
    batch = Batch(image(), torch.tensor([0]), None)
    with pytest.raises(ExpectedError, match=r"Lazy\.step\(closure\) does not call the closure"):
        take_step(own, Scaled(), optimizer_of(own, Scaled()), [batch])


@pytest.mark.parametrize(
    ("schedule", "asked"),
    [
        (OneCycleLR, {"total_steps": 12}),
        (partial(OneCycleLR, max_lr=1), {"total_steps": 12}),
        (partial(OneCycleLR, max_lr=1, total_steps=5), {}),
        (partial(OneCycleLR, max_lr=1, epochs=2, steps_per_epoch=3), {}),
        (partial(StepLR, step_size=1), {}),
        (lambda optimizer, total_steps: (optimizer, total_steps), {"total_steps": 12}),
        (lambda optimizer, **settings: (optimizer, settings), {"total_steps": 12}),
        (warm_up_and_fall, {}),
    ],
)
def test_only_who_asks_is_told_of_the_steps(schedule: Any, asked: dict[str, int]) -> None:
    assert asked_by(schedule, 12) == asked


def test_the_learning_rates_of_groups() -> None:
    one, other = (torch.ones(1, requires_grad=True) for _ in range(2))
    assert learning_rate_of(SGD([one, other], lr=0.1)) == "0.1"
    assert learning_rate_of(SGD([one, other], lr=torch.tensor(0.5))) == "0.5"
    assert learning_rate_of(SGD([{"params": [one], "lr": 0.2}, {"params": [other]}], lr=1)) == (
        "0.2 1"
    )


def test_a_recipes_own_loss_is_not_changed_by_a_training(mnist: Mnist) -> None:
    class Counting(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, output: Tensor, labels: Tensor) -> Tensor:
            self.calls += 1
            return nn.functional.cross_entropy(output, labels)

    counting = Counting()
    training = trained(mnist, 100, batch_size=50, loss=counting)
    assert counting.calls == 0
    assert training.state()["parts"]["loss"]["persistent"]["calls"] == 2
    assert copy.deepcopy(training.recipe.loss).calls == 2
