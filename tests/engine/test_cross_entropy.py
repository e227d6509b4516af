"""The loss and its gradients without autograd, where autograd would do nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mnist_exp.engine.compiled import CompiledNetwork
from mnist_exp.engine.kernels import functions
from mnist_exp.notebook import loading

IMAGES, LABELS = torch.randn(20, 1, 28, 28), torch.arange(20) % 10


def network_of(number: int = 6) -> nn.Module:
    torch.manual_seed(1)
    return loading.load_iteration(number).recipe.network()


def by_autograd(network: nn.Module) -> tuple[Tensor, Tensor]:
    with CompiledNetwork(network).standing_in():
        output = network(IMAGES)
    loss = F.cross_entropy(output, LABELS)
    loss.backward()
    return loss.detach(), (output.argmax(dim=1) == LABELS).sum()


def is_as_it_was(_: nn.Module) -> None:
    pass


def uses_a_layer_twice(network: nn.Module) -> None:
    network.norm7 = network.norm4


@pytest.mark.parametrize(
    ("number", "changed"),
    [*((number, is_as_it_was) for number in (2, 6, 14, 21)), (6, uses_a_layer_twice)],
)
def test_it_gives_the_same_as_autograd(number: int, changed: Callable[[nn.Module], None]) -> None:
    one, other = network_of(number), network_of(number)
    changed(one)
    changed(other)
    torch.manual_seed(3)  # of dropout
    expected = by_autograd(other)
    torch.manual_seed(3)
    found = CompiledNetwork(one).cross_entropy(IMAGES, LABELS)
    assert found
    torch.testing.assert_close(found, expected)
    weights, others = dict(one.named_parameters()), dict(other.named_parameters())
    for name, weight in others.items():
        gradient, same = weights[name].grad, weight.grad
        assert torch.dist(gradient, same) <= 1e-5 * same.norm() + 1e-7, name
    buffers = zip(one.buffers(), other.buffers(), strict=True)
    assert all(torch.equal(*pair) for pair in buffers)


def loss_of(output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the gradient of output and how many are right, by the library."""
    gradient, loss = torch.full_like(output, 9), torch.tensor(9.0)
    right = functions().cross_entropy(
        output.data_ptr(), labels.data_ptr(), *output.shape, gradient.data_ptr(), loss.data_ptr()
    )
    return loss, gradient, torch.tensor(right)


def loss_by_torch(output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    exact = output.double().requires_grad_()
    loss = F.cross_entropy(exact, labels)
    (gradient,) = torch.autograd.grad(loss, exact)
    return loss.detach().float(), gradient.float(), (output.argmax(dim=1) == labels).sum()


@given(
    images=st.integers(1, 40), classes=st.integers(1, 20), scale=st.sampled_from([0, 1, 50, 1e30]),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_its_loss_is_that_of_float64(images: int, classes: int, scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    output = scale * torch.randn(images, classes)
    labels = torch.randint(classes, (images,))
    torch.testing.assert_close(loss_of(output, labels), loss_by_torch(output, labels))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1])
def test_it_keeps_what_is_not_finite(number: float, place: int) -> None:
    output, labels = torch.randn(3, 4), torch.tensor([0, 2, 3])
    output[0, place] = number
    expected = loss_by_torch(output, labels)
    torch.testing.assert_close(loss_of(output, labels), expected, equal_nan=True)


def has_gradient(network: nn.Module) -> None:
    network.conv2.weight.grad = torch.ones_like(network.conv2.weight)


def has_tensor_hook(network: nn.Module) -> None:
    network.conv2.weight.register_hook(lambda gradient: 2 * gradient)


def has_hook_afterwards(network: nn.Module) -> None:
    network.conv2.weight.register_post_accumulate_grad_hook(lambda _: None)


def has_forward_hook(network: nn.Module) -> None:
    network.register_forward_hook(lambda *_: None)


def has_backward_hook(network: nn.Module) -> None:
    network.conv2.register_full_backward_hook(lambda *_: None)


def is_frozen(network: nn.Module) -> None:
    network.requires_grad_(False)


def holds_another_kind(network: nn.Module) -> None:
    class Watched(nn.Parameter):
        pass

    network.conv2.weight = Watched(network.conv2.weight.detach())


def ends_in_what_torch_does(network: nn.Module) -> None:
    network.conv8 = nn.Sequential(network.conv8, nn.LPPool2d(1, 1))


def has_tied_weights(network: nn.Module) -> None:
    network.conv6.weight = network.conv4.weight


def has_tied_biases(network: nn.Module) -> None:
    network.norm7.bias = network.norm4.bias


def is_called_otherwise(network: nn.Module) -> None:
    kind = type(network)
    doubled = {"__call__": lambda self, x: 2 * kind.__call__(self, x)}
    network.__class__ = type("Doubled", (kind,), doubled)


@pytest.mark.parametrize(
    "changed",
    [
        has_gradient, has_tensor_hook, has_hook_afterwards, has_forward_hook, has_backward_hook,
        is_frozen, holds_another_kind, ends_in_what_torch_does, has_tied_weights,
        has_tied_biases, is_called_otherwise,
    ],
)  # fmt: skip
def test_it_leaves_to_autograd_what_may_be_more(changed: Callable[[nn.Module], None]) -> None:
    network = network_of()
    changed(network)
    gradients = [weight.grad for weight in network.parameters()]
    counted = network.norm2.num_batches_tracked.clone()
    assert CompiledNetwork(network).cross_entropy(IMAGES, LABELS) is None
    assert [weight.grad for weight in network.parameters()] == gradients
    assert network.norm2.num_batches_tracked == counted


OTHERS = {"mixed": F.one_hot(LABELS).float(), "int32": LABELS.int(), "column": LABELS.view(-1, 1)}
OTHERS |= {"ignored": LABELS.where(LABELS > 0, -100), "no class": LABELS + 1, "few": LABELS[:-1]}
OTHERS |= {"apart": LABELS.repeat_interleave(2)[::2]}


@pytest.mark.parametrize("labels", OTHERS.values(), ids=OTHERS)
def test_it_takes_whole_classes_alone(labels: Any) -> None:
    assert CompiledNetwork(network_of()).cross_entropy(IMAGES, labels) is None


def test_it_needs_gradients_and_no_search_for_anomalies() -> None:
    network = CompiledNetwork(network_of())
    with torch.no_grad():
        assert network.cross_entropy(IMAGES, LABELS) is None
    with pytest.warns(UserWarning, match="Anomaly"), torch.autograd.detect_anomaly():
        assert network.cross_entropy(IMAGES, LABELS) is None
