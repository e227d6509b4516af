"""Trainings whose steps the engine computes."""

import copy
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import LBFGS, SGD

from mnist_exp.data import Digits
from mnist_exp.notebook import loading
from mnist_exp.recipe import ExponentialAverage, Recipe
from mnist_exp.training.computing import Engine
from mnist_exp.training.loop import NonFiniteLossError, Training

CPU = torch.device("cpu")
Mnist = tuple[Digits, Digits]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def recipe(number: int = 6, **changes: Any) -> Recipe:
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 50} | changes
    return dataclasses.replace(loading.load_iteration(number).recipe, **settings)


def training(mnist: Mnist, own: Recipe, engine: Engine = "compiled", digits: int = 130) -> Training:
    return Training(own, mnist[0][:digits], mnist[1][:70], seed=3, device=CPU, engine=engine)


def assert_same_bits(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds", "ended"}:
            assert_same_bits(one[key], other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_same_bits(a, b)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


# ---- The same bits ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [6, 14])
def test_on_any_number_of_threads_the_same_bits(mnist: Mnist, number: int) -> None:
    states = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        own = training(mnist, recipe(number))
        list(own.epochs())
        assert own.through_torch == ()
        states.append((own.state(), own.output))
    assert_same_bits(states[0], states[1])
    assert_same_bits(states[0], states[2])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2, 22))
def test_so_it_is_for_every_iteration(mnist: Mnist, number: int) -> None:
    test_on_any_number_of_threads_the_same_bits(mnist, number)


def test_model_1_is_wide_enough_for_torch(mnist: Mnist) -> None:
    own = training(mnist, recipe(1), digits=50)
    list(own.epochs())
    assert [name for name in own.through_torch if "torch is quicker" in name]


def test_threads_may_change_on_the_way(mnist: Mnist) -> None:
    torch.set_num_threads(1)
    steady = training(mnist, recipe(epochs=3))
    list(steady.epochs())
    moody = training(mnist, recipe(epochs=3))
    for _ in moody.epochs():
        torch.set_num_threads(torch.get_num_threads() % 3 + 1)
    assert_same_bits(steady.state(), moody.state())


@pytest.mark.parametrize("changes", [{}, {"averaging": ExponentialAverage(decay=0.9)}])
def test_a_training_that_goes_on_has_the_same_bits(mnist: Mnist, changes: dict[str, Any]) -> None:
    whole = training(mnist, recipe(epochs=2, **changes))
    epochs = whole.epochs()
    next(epochs)
    state = copy.deepcopy(whole.state())
    next(epochs)
    resumed = training(mnist, recipe(epochs=2, **changes))
    resumed.restore(state)
    list(resumed.epochs())
    assert_same_bits(whole.state(), resumed.state())


# ---- Steps of a recipe's own --------------------------------------------------------------------


class GradientNorm(Recipe):
    """A small gradient is a part of the aim: a gradient of gradients."""

    def step(
        self, network: nn.Module, images: Tensor, labels: Tensor, teacher_output: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        loss, output = super().step(network, images, labels, teacher_output)
        weights = list(network.parameters())
        found = torch.autograd.grad(loss, weights, create_graph=True)
        return loss + 0.1 * sum(g.square().sum() for g in found), output


class Twice(Recipe):
    """Two passes, by the same weights."""

    def step(
        self, network: nn.Module, images: Tensor, labels: Tensor, teacher_output: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        loss, output = super().step(network, images, labels, teacher_output)
        return loss + F.mse_loss(network(images + 0.1), output.detach()), output


class Broken(Recipe):
    def step(self, *_: Any) -> tuple[Tensor, Tensor]:
        raise RuntimeError("as it was written")


class Wrapped(Recipe):
    """Hooks, doubles of the network and other ways to call it."""

    def step(
        self, network: nn.Module, images: Tensor, labels: Tensor, teacher_output: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        handle = network.norm2.register_forward_hook(lambda *args: seen.append(args[-1]))
        loss, output = super().step(network, images, labels, teacher_output)
        handle.remove()
        twin = copy.deepcopy(network)
        weights = dict(twin.named_parameters())
        other = torch.func.functional_call(network, weights, (images,))
        return loss + 0.01 * seen[0].square().mean() + 0.1 * other.square().mean(), output


def still(kind: type[Recipe], number: int = 6, **changes: Any) -> Recipe:
    """An iteration with other steps, and nothing that is drawn in them."""
    own = recipe(number, augment=None, **changes)
    settings = {field.name: getattr(own, field.name) for field in dataclasses.fields(Recipe)}

    def network() -> nn.Module:
        made = own.network()
        for module in made.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return made

    return kind(**settings | {"network": network})


def both(mnist: Mnist, own: Recipe) -> tuple[Training, Training]:
    trainings = training(mnist, own), training(mnist, own, "torch")
    for one in trainings:
        list(one.epochs())
    return trainings


def test_a_step_that_the_engine_cannot_take_is_torchs(mnist: Mnist) -> None:
    found, expected = both(mnist, still(GradientNorm, 2, epochs=2))  # torch's part has no norms
    (reason,) = found.through_torch
    assert reason.startswith("the whole network (its step: trying to differentiate twice")
    for one, other in zip(found.results, expected.results, strict=True):
        assert one.train.loss == pytest.approx(other.train.loss, rel=1e-4)
        assert one.evaluation.loss == pytest.approx(other.evaluation.loss, rel=1e-3)


def test_such_a_training_goes_on_with_the_same_bits(mnist: Mnist) -> None:
    own = still(GradientNorm, epochs=2)
    whole = training(mnist, own)
    epochs = whole.epochs()
    next(epochs)
    state = copy.deepcopy(whole.state())
    next(epochs)
    resumed = training(mnist, own)
    resumed.restore(state)
    list(resumed.epochs())
    assert_same_bits(whole.state(), resumed.state())


@pytest.mark.parametrize(("kind", "by_torch"), [(Twice, ()), (Wrapped, ("norm2",))])
def test_other_steps_are_the_engines(
    mnist: Mnist, kind: type[Recipe], by_torch: tuple[str, ...]
) -> None:
    found, expected = both(mnist, still(kind))
    assert found.through_torch == by_torch
    (one,), (other,) = found.results, expected.results
    assert one.train.loss == pytest.approx(other.train.loss, rel=1e-4)
    assert one.evaluation.loss == pytest.approx(other.evaluation.loss, rel=1e-3)


def test_the_plain_loss_needs_no_autograd(mnist: Mnist, monkeypatch: pytest.MonkeyPatch) -> None:
    def backward(*_: Any) -> None:
        raise AssertionError("autograd")

    monkeypatch.setattr(Tensor, "backward", backward)
    assert list(training(mnist, recipe()).epochs())
    with pytest.raises(AssertionError, match="autograd"):
        list(training(mnist, recipe(loss=nn.CrossEntropyLoss())).epochs())


def test_an_optimizer_may_ask_several_times(mnist: Mnist) -> None:
    optimizer = partial(LBFGS, lr=0.1, max_iter=3)
    found, expected = both(mnist, still(Recipe, optimizer=optimizer, schedule=None))
    assert found.through_torch == ()
    assert found.results[0].train.loss == pytest.approx(expected.results[0].train.loss, rel=1e-3)


def test_a_step_that_fails_in_torch_too_says_what_it_says(mnist: Mnist) -> None:
    with pytest.raises(RuntimeError, match="as it was written"):
        list(training(mnist, still(Broken)).epochs())


def test_a_loss_that_is_no_number_is_noticed(mnist: Mnist) -> None:
    own = still(Recipe, optimizer=partial(SGD, lr=1e30), epochs=3)
    for engine in ("compiled", "torch"):
        with pytest.raises(NonFiniteLossError):
            list(training(mnist, own, engine).epochs())


WITHIN_AN_EPOCH = """
import dataclasses, torch
from mnist_exp import data
from mnist_exp.common import startup
from mnist_exp.notebook import loading
from mnist_exp.training.loop import Training
startup.of_command()
recipe = dataclasses.replace(loading.load_iteration(6).recipe, epochs=2)
train, test = data.load()
kind = dict(device=torch.device("cpu"), engine="compiled")
epochs = Training(recipe, train[:300], test[:100], seed=1, **kind).epochs()
next(epochs)
"""


@pytest.mark.slow  # starts a process
def test_a_program_may_end_between_the_epochs(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # not as -c, which ends otherwise
    script.write_text(WITHIN_AN_EPOCH)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
