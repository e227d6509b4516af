"""Short trainings on real digits."""

import copy
import dataclasses
import io
import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, StepLR

from mnist_exp.common.errors import ExpectedError
from mnist_exp.data import Digits
from mnist_exp.notebook import loading
from mnist_exp.preprocess import Deslant, slant
from mnist_exp.recipe import ExponentialAverage, Recipe
from mnist_exp.runs import environment
from mnist_exp.training import classifier, determinism, loop
from mnist_exp.training.classifier import Classifier
from mnist_exp.training.loop import (
    EpochResult,
    NonFiniteLossError,
    Progress,
    Score,
    Tally,
    Training,
)
from mnist_exp.views import Rotations

CPU = torch.device("cpu")
Mnist = tuple[Digits, Digits]


def results(
    mnist: Mnist, number: int = 6, *, digits: int = 1000, seed: int = 1, draw: bool = False
) -> list[EpochResult]:
    """Two epochs of an iteration on so many digits, without their times."""
    short = dataclasses.replace(loading.load_iteration(number).recipe, epochs=2)
    training = Training(short, mnist[0][:digits], mnist[1][:500], seed=seed, device=CPU)
    found = []
    for result in training.epochs():
        found.append(timeless(result))
        if draw:
            torch.rand(3)  # somebody else draws from torch's global state between epochs
    return found


def timeless(result: EpochResult) -> EpochResult:
    return dataclasses.replace(result, seconds=0, ended=0)


def test_a_seed_gives_the_same_results_bit_for_bit(mnist: Mnist) -> None:
    first = results(mnist)
    assert results(mnist) == first
    assert results(mnist, draw=True) == first
    assert results(mnist, seed=2) != first


@pytest.mark.parametrize("number", [6, pytest.param(21, marks=pytest.mark.slow)])
def test_nothing_is_read_from_another_device_but_once_in_fifty_batches(
    mnist: Mnist, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor of the meta device has no numbers: whoever asks for one fails."""
    asked: list[int] = []

    def scores(tally: Tally) -> list[Score]:
        asked.append(tally.total)
        return [Score(0, 1, 0.0)]

    monkeypatch.setattr(Tally, "scores", scores)
    own = loading.load_iteration(number).recipe
    digits = mnist[0][: 53 * own.batch_size], mnist[1][:10]
    training = Training(own, *digits, seed=1, device=torch.device("meta"))
    training._train_epoch(1, None)
    assert asked == [own.batch_size * batches for batches in (50, 53, 53)]


def test_what_was_evaluated_before_an_interrupt_is_evaluated_as_deterministically(
    mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(determinism, "ASKED", {"cpu"})
    said: list[bool] = []

    class Saying(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            said.append(torch.are_deterministic_algorithms_enabled())
            return super().forward(x.flatten(1))

    own = Recipe(
        network=partial(Saying, 784, 10), optimizer=partial(SGD, lr=0.1), batch_size=50, epochs=1
    )
    training = Training(own, mnist[0][:100], mnist[1][:10], seed=1, device=CPU)
    said.clear()
    list(training.epochs())
    training._output = None
    assert training.output.shape == (10, 10)
    assert said == [True] * 4


HALVED = partial(StepLR, step_size=1, gamma=0.5)
ONE_CYCLE = partial(OneCycleLR, max_lr=0.05, pct_start=0.2)
RESTORED: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (3, {}),
    "dropout, augmentation, schedule": (6, {"schedule": HALVED}),
    "average, schedule of batches": (
        3, {"batch_schedule": ONE_CYCLE, "averaging": ExponentialAverage(decay=0.8, every=2)},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("number", "changed"), RESTORED.values(), ids=list(RESTORED))
def test_a_restored_training_goes_on_bit_for_bit(
    mnist: Mnist, number: int, changed: dict[str, Any]
) -> None:
    own = dataclasses.replace(loading.load_iteration(number).recipe, epochs=3, **changed)

    def begin(seed: int = 1) -> Training:
        return Training(own, mnist[0][:600], mnist[1][:500], seed=seed, device=CPU)

    whole = begin()
    expected = [timeless(result) for result in whole.epochs()]
    for epochs in (0, 1, 2, 3):
        first = begin()
        for result in first.epochs():
            if result.epoch == max(epochs, 1):
                break
        state = copy.deepcopy(first.state() if epochs else begin().state())
        torch.rand(5)
        again = begin()
        again.restore(state)
        assert len(again.results) == epochs
        assert len(list(again.epochs())) == 3 - epochs
        assert [timeless(result) for result in again.results] == expected
        for part in ("network", "classifier"):
            weights = getattr(again, part).state_dict()
            for name, expected_weights in getattr(whole, part).state_dict().items():
                assert torch.equal(expected_weights, weights[name]), name
        assert torch.equal(again.output, whole.output)


def test_a_state_holds_numbers_of_python_only(mnist: Mnist) -> None:
    own = dataclasses.replace(
        loading.load_iteration(2).recipe,
        epochs=2,
        schedule=partial(LambdaLR, lr_lambda=lambda epoch: np.cos(epoch / 10)),
    )
    training = Training(own, mnist[0][:200], mnist[1][:100], seed=1, device=CPU)
    list(training.epochs())
    file = io.BytesIO()
    torch.save(training.state(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["schedule"]["last_epoch"] == 2


def test_every_digit_is_trained_on_and_scored(mnist: Mnist) -> None:
    seen: list[Progress] = []
    odd = dataclasses.replace(loading.load_iteration(2).recipe, batch_size=300, epochs=1)
    training = Training(odd, mnist[0][:1001], mnist[1][:1234], seed=1, device=CPU)
    (result,) = training.epochs(seen.append)
    assert result.train.total == 1001
    assert result.evaluation.total == 1234
    assert [progress.batch for progress in seen] == [1, 2, 3, 4]
    assert seen[-1].train == result.train
    assert all(progress.batches == 4 for progress in seen)


def test_it_learns(mnist: Mnist) -> None:
    first, last = results(mnist, number=3, digits=6000)
    assert last.evaluation.accuracy > 0.7
    assert last.evaluation.accuracy > first.evaluation.accuracy
    assert last.train.loss < first.train.loss


def test_the_schedule_is_stepped_once_an_epoch(mnist: Mnist) -> None:
    stepped = dataclasses.replace(
        loading.load_iteration(2).recipe, epochs=5, schedule=partial(StepLR, step_size=2, gamma=0.1)
    )
    training = Training(stepped, mnist[0][:200], mnist[1][:100], seed=1, device=CPU)
    rates = [result.learning_rate for result in training.epochs()]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])


def test_a_schedule_of_batches_has_a_step_for_each(mnist: Mnist) -> None:
    own = dataclasses.replace(
        loading.load_iteration(2).recipe, batch_size=100, epochs=4, batch_schedule=ONE_CYCLE
    )
    training = Training(own, mnist[0][:450], mnist[1][:100], seed=1, device=CPU)
    rates = [training.optimizer.param_groups[0]["lr"]]
    results = list(
        training.epochs(lambda _: rates.append(training.optimizer.param_groups[0]["lr"]))
    )
    assert len(rates) == 21  # the last one is not used
    assert rates[0] == pytest.approx(0.05 / 25)
    assert rates[3] == pytest.approx(0.05)  # a fifth of the steps rises
    assert rates[19] == pytest.approx(0.05 / 25 / 1e4)
    assert [result.learning_rate for result in results] == rates[:20:5]


def test_the_average_is_what_is_evaluated(mnist: Mnist) -> None:
    """Against the formula, on the weights after every second of ten steps."""
    averaging = ExponentialAverage(decay=0.28, every=2)
    own = dataclasses.replace(
        loading.load_iteration(3).recipe, batch_size=50, epochs=1, averaging=averaging
    )
    training = Training(own, mnist[0][:500], mnist[1][:500], seed=1, device=CPU)
    seen: list[dict[str, Tensor]] = []
    (result,) = training.epochs(lambda _: seen.append(copy.deepcopy(training.network.state_dict())))
    average = training.classifier.network.state_dict()
    for name in ("conv1.weight", "norm2.bias", "norm2.running_var"):
        expected = seen[1][name]
        for step, decay in ((3, 2 / 11), (5, 3 / 12), (7, 0.28), (9, 0.28)):
            expected = decay * expected + (1 - decay) * seen[step][name]
        assert torch.allclose(average[name], expected, atol=1e-6), name
        assert not torch.allclose(average[name], seen[-1][name], atol=1e-6)
    output = classifier.predict(training.classifier, mnist[1].images[:500])
    assert loop.score(output, mnist[1][:500]) == result.evaluation
    assert torch.equal(training.output, output)


def test_a_score_counts(mnist: Mnist) -> None:
    class First(nn.Module):
        """Says 7, the first digit of the test set, whatever it sees."""

        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(10))
            self.bias.data[7] = 5

        def forward(self, x: Tensor) -> Tensor:
            return self.bias.expand(len(x), 10)

    test = mnist[1]
    score = loop.score(classifier.predict(Classifier(First()), test.images), test)
    assert score.total == 10_000
    assert score.correct == 1_028  # sevens in the test set, LeCun et al. (1998)
    assert score.errors == 8_972
    assert score.accuracy == 0.1028


def test_evaluation_draws_nothing_and_leaves_the_network_as_it_is(mnist: Mnist) -> None:
    network = loading.load_iteration(6).recipe.network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first, again = (
        classifier.predict(Classifier(network), mnist[1].images[:100]) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_non_finite_loss_ends_training(mnist: Mnist) -> None:
    wild = dataclasses.replace(loading.load_iteration(2).recipe, optimizer=partial(SGD, lr=1e20))
    training = Training(wild, mnist[0][:2000], mnist[1][:100], seed=1, device=CPU)
    with pytest.raises(NonFiniteLossError, match=r"became (nan|inf) in epoch 1, batch \d+ of 16"):
        list(training.epochs())


def test_a_non_finite_evaluation_ends_training(mnist: Mnist) -> None:
    wild = dataclasses.replace(loading.load_iteration(2).recipe, optimizer=partial(SGD, lr=1e30))
    training = Training(wild, mnist[0][:100], mnist[1][:100], seed=1, device=CPU)  # a single step
    with pytest.raises(NonFiniteLossError, match=r"the evaluation of epoch 1 gave (nan|inf)"):
        list(training.epochs())


def test_the_classifier_takes_pixels(mnist: Mnist) -> None:
    images = mnist[1].images[:10]
    network = loading.load_iteration(3).recipe.network().eval()
    with torch.no_grad():
        expected = network((images.float() / 255 - 0.1307) / 0.3081)
        assert torch.equal(Classifier(network)(images), expected)
        upright = Deslant()(images.float())
        expected = network((upright / 255 - 0.1307) / 0.3081)
        assert torch.equal(Classifier(network, Deslant())(images), expected)


@pytest.mark.parametrize("views", [None, Rotations((-8, 8))])
def test_an_exported_classifier_takes_any_number_of_images(
    views: Rotations | None, mnist: Mnist
) -> None:
    classifier = Classifier(loading.load_iteration(3).recipe.network(), Deslant(), views).eval()
    images = mnist[1].images
    any_number = [{0: torch.export.Dim.DYNAMIC}]
    exported = torch.export.export(classifier, (images[:2],), dynamic_shapes=any_number).module()
    for n in (1, 5, 300):
        assert torch.allclose(exported(images[:n]), classifier(images[:n]), atol=1e-4)


def test_the_network_sees_augmented_normalised_digits(mnist: Mnist) -> None:
    some = mnist[0][:64]
    (plain, _), (rotated, labels) = (
        classifier.network_input(
            loading.load_iteration(n).recipe, some, torch.Generator().manual_seed(1)
        )
        for n in (4, 5)
    )
    assert torch.equal(labels, some.labels)
    assert plain.mean().item() == pytest.approx(0, abs=0.05)
    assert not torch.equal(plain, rotated)
    assert rotated.min() == plain.min()  # what comes in from outside is background


def test_preprocessing_comes_after_augmentation_and_in_evaluation(mnist: Mnist) -> None:
    own = dataclasses.replace(loading.load_iteration(5).recipe, epochs=1, preprocess=Deslant())
    seen, _ = classifier.network_input(own, mnist[0][:64], torch.Generator().manual_seed(1))
    assert slant(seen - seen.min()).abs().mean() < 0.01
    training = Training(own, mnist[0][:200], mnist[1][:500], seed=1, device=CPU)
    (result,) = training.epochs()
    output = classifier.predict(Classifier(training.network, Deslant()), mnist[1].images[:500])
    assert loop.score(output, mnist[1][:500]) == result.evaluation


def test_an_evaluated_image_is_seen_from_each_view(mnist: Mnist) -> None:
    views = Rotations((-20, 0, 20))
    own = dataclasses.replace(
        loading.load_iteration(3).recipe, epochs=1, preprocess=Deslant(), views=views
    )
    train, test = mnist[0][:2000], mnist[1][:500]
    training, plain = (
        Training(recipe, train, test, seed=1, device=CPU)
        for recipe in (own, dataclasses.replace(own, views=None))
    )
    (result,), (without,) = training.epochs(), plain.epochs()
    assert result.train == without.train
    alone = Classifier(training.network, Deslant())
    probabilities = [
        classifier.predict(alone, view).softmax(1) for view in views(test.images.float())
    ]
    mean = torch.stack(probabilities).mean(dim=0)
    assert torch.allclose(training.output.exp(), mean, atol=1e-5)
    assert loop.score(mean.log(), test).correct == result.evaluation.correct
    assert not torch.allclose(training.output.softmax(1), plain.output.softmax(1), atol=1e-3)


def test_devices() -> None:
    assert environment.choose_device("cpu").type == "cpu"
    assert environment.choose_device("auto").type in ("cuda", "mps", "cpu")
    with pytest.raises(ExpectedError, match=r"DEVICE=gpu: this machine has .*cpu"):
        environment.choose_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ExpectedError, match="DEVICE=cuda"):
            environment.choose_device("cuda")


def test_a_recipe_of_ones_own(mnist: Mnist) -> None:
    own = Recipe(
        network=lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
        batch_size=50,
        epochs=2,
        optimizer=partial(torch.optim.Adam, lr=1e-3),
    )
    training = Training(own, mnist[0][:3000], mnist[1][:1000], seed=1, device=CPU)
    *_, last = training.epochs()
    assert last.evaluation.accuracy > 0.75


class Counting(nn.Module):
    """Its dropout grows with the steps, which it counts beside its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.full = nn.Linear(784, 10)
        self.steps = 0
        self.register_buffer("order", torch.arange(10).flip(0))
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            self.seen += 1
            x = F.dropout(x, min(0.02 * self.steps + 0.01 * float(self.seen), 0.5))
            if random.random() < 0.3 or np.random.rand() < 0.3:  # noqa: NPY002
                x = x * 0
        output: Tensor = self.full(x.flatten(1))[:, self.order]
        return output


COUNTING = Recipe(
    network=Counting, optimizer=partial(SGD, lr=0.1), batch_size=50, epochs=3,
    averaging=ExponentialAverage(decay=0.9, every=3),
)  # fmt: skip


def test_what_a_network_counts_and_draws_goes_on_after_a_resume(mnist: Mnist) -> None:
    def begin() -> Training:
        return Training(COUNTING, mnist[0][:200], mnist[1][:100], seed=1, device=CPU)

    whole, first, again = begin(), begin(), begin()
    expected = [timeless(result) for result in whole.epochs()]
    next(first.epochs())
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    random.random()
    again.restore(torch.load(file, weights_only=True))
    list(again.epochs())
    assert [timeless(result) for result in again.results] == expected
    assert again.network.steps == whole.network.steps == 12


def test_an_average_takes_over_what_has_no_average(mnist: Mnist) -> None:
    training = Training(COUNTING, mnist[0][:200], mnist[1][:100], seed=1, device=CPU)
    list(training.epochs())
    averaged = training.classifier.network
    assert averaged is not training.network
    assert averaged.order.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert averaged.steps == 12
    assert not torch.equal(averaged.full.weight, training.network.full.weight)
    assert 0 < averaged.seen < 12  # a quantity, which is averaged


def test_a_learning_rate_may_be_a_tensor(mnist: Mnist) -> None:
    rate = torch.tensor(0.5)
    own = dataclasses.replace(COUNTING, optimizer=partial(SGD, lr=rate), schedule=HALVED)
    training = Training(own, mnist[0][:100], mnist[1][:100], seed=1, device=CPU)
    assert [result.learning_rate for result in training.epochs()] == [0.5, 0.25, 0.125]
    assert training.learning_rate == "0.5"
    assert rate == 0.5


def test_a_schedule_has_the_number_of_steps_unless_the_recipe_gives_it(mnist: Mnist) -> None:
    def peak(schedule: Any) -> float:
        own = dataclasses.replace(COUNTING, batch_schedule=schedule)
        training = Training(own, mnist[0][:200], mnist[1][:100], seed=1, device=CPU)
        rates: list[float] = []
        list(training.epochs(lambda _: rates.append(training.optimizer.param_groups[0]["lr"])))
        return rates.index(max(rates)) + 1

    assert peak(partial(OneCycleLR, max_lr=1, pct_start=0.5)) == 5  # half of 12 steps, from 0
    assert peak(partial(OneCycleLR, max_lr=1, pct_start=0.5, total_steps=24)) == 11
    assert peak(partial(OneCycleLR, max_lr=1, pct_start=0.5, epochs=3, steps_per_epoch=6)) == 8


def test_a_network_may_compute_in_fewer_bits(mnist: Mnist) -> None:
    class Short(Counting):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    own = dataclasses.replace(COUNTING, network=Short, epochs=1)
    training = Training(own, mnist[0][:200], mnist[1][:100], seed=1, device=CPU)
    (result,) = training.epochs()
    assert training.output.dtype == torch.float32
    assert result.evaluation.loss > 0
