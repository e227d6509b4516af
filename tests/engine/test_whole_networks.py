"""The networks of the notebook, and networks that hypothesis draws, against torch in float64."""

import pytest
import torch
from against_torch import check_norms, noise
from drawn_networks import Drawn, Layer, heads, layers, with_head
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from mnist_exp.data import Digits
from mnist_exp.engine import compiled
from mnist_exp.notebook import loading
from mnist_exp.training import classifier
from mnist_exp.training.loop import build

Mnist = tuple[Digits, Digits]
QUICK = (2, 6, 14, 21)


def check_iteration(number: int, mnist: Mnist) -> None:
    recipe = loading.load_iteration(number).recipe
    network = build(recipe, seed=number)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    digits = mnist[0].images[: 3 if number == 1 else 60].float()
    images = classifier.prepared(digits, recipe.preprocess)
    assert check_norms(network.train(), images, 2e-2) == ()
    assert check_norms(network.eval(), images, 2e-2) == ()


@pytest.mark.parametrize("number", QUICK)
def test_an_iteration_is_computed_as_in_float64(number: int, mnist: Mnist) -> None:
    check_iteration(number, mnist)


@pytest.mark.slow
@pytest.mark.parametrize("number", sorted(set(range(1, 22)) - set(QUICK)))
def test_so_is_any_other(number: int, mnist: Mnist, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "WIDE", 10**9)  # model 1 would be torch's, which is quicker there
    check_iteration(number, mnist)


def test_a_network_of_wide_layers_is_left_to_torch() -> None:
    network, images = loading.load_iteration(1).recipe.network(), noise(2, 1, 28, 28)
    assert "48 channels" in compiled.CompiledNetwork(network).unsuited(images)


def check_drawn(drawn: list[Layer], size: int, head: str, batch: int) -> None:
    torch.manual_seed(1)
    network = with_head(Drawn(drawn, size, largest=40), head)
    names = check_norms(network, noise(batch, 1, size, size), 5e-3)
    assert any("whole" in name for name in names) == (
        head == "flattened mean"
    )  # it asks for len(x)


fast = settings(
    deadline=None, derandomize=True, max_examples=30, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
sizes, batches = st.integers(8, 20), st.integers(2, 20)


@fast
@given(layers, sizes, heads, batches)
def test_a_drawn_network_is_computed_as_in_float64(
    drawn: list[Layer], size: int, head: str, batch: int
) -> None:
    check_drawn(drawn, size, head, batch)


@pytest.mark.slow
@settings(fast, max_examples=100)
@given(layers, sizes, heads, batches)
def test_so_are_many(drawn: list[Layer], size: int, head: str, batch: int) -> None:
    check_drawn(drawn, size, head, batch)
