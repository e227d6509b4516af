"""What reaches the output past the tensors that are followed: it is found, and the rows before it
are kept."""

import ctypes
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter
from torch import Tensor, nn

from mnist_exp.training import receptive_field
from mnist_exp.training.following import follow

IMAGE = (1, 28, 28)


class Net(nn.Module):
    """Two convolutions, with a function of them and the images in between."""

    def __init__(self, connect: Callable[["Net", Tensor], Tensor]) -> None:
        super().__init__()
        self.connect = connect
        self.a, self.b = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3)
        self.linear = nn.Linear(1, 1)
        self.kept: object = None

    def forward(self, x: Tensor) -> Tensor:
        return self.connect(self, x)


def memory(x: Tensor) -> np.ndarray:
    """The numbers of a tensor, as something beside torch reads them, and past what notices it."""
    with ThreadPoolExecutor(1) as pool:
        numbers = (ctypes.c_float * x.numel()).from_address(pool.submit(x.data_ptr).result())
    return np.ctypeslib.as_array(numbers).reshape(x.shape)


def in_a_thread(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    with ThreadPoolExecutor(1) as pool:
        return net.b(x + pool.submit(F.avg_pool2d, x, 9, 1, 4).result())


def through_scipy(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    return net.b(x + torch.from_numpy(uniform_filter(memory(x), size=(1, 1, 9, 9))))


def by_a_branch(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    return net.b(x if memory(x).mean() > 0 else x.relu())


def kept_for_later(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    net.kept = [memory(x).mean()]
    return net.b(x) * float(net.kept[0])


def behind_a_gate(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    x = x * torch.sigmoid(x.mean((2, 3), keepdim=True))
    return net.b(x + torch.from_numpy(uniform_filter(memory(x), size=(1, 1, 9, 9))))


def behind_a_normalisation(net: Net, x: Tensor) -> Tensor:
    x = F.group_norm(net.a(x), 1)
    return net.b(x + torch.from_numpy(uniform_filter(memory(x), size=(1, 1, 9, 9))))


def of_the_batch_before(net: Net, x: Tensor) -> Tensor:
    before, net.kept = net.kept, float(memory(x).mean())
    return net.b(net.a(x)) * (1.0 if before is None else before)


def with_its_bias(net: Net, x: Tensor) -> Tensor:
    bias = net.linear(net.a(x).mean((2, 3))).mean(0)
    return F.conv2d(x, net.b.weight, bias=bias)


def drawn() -> float:
    return random.random() + np.random.rand()  # noqa: NPY002 (as users do)


def states() -> tuple[object, ...]:
    numpys = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), numpys[1].tolist()


def of_each_image(x: Tensor) -> Tensor:
    return x.mean((2, 3))[0]


PASSED_BY = {
    "a thread": (in_a_thread, "layer add: it depends on more", 2),
    "another library": (through_scipy, "layer add: it depends on more", 2),
    "a branch": (by_a_branch, "does other operations for other images|depends on more", 2),
    "an attribute": (kept_for_later, "layer mul: it depends on more", 3),
    "a thing behind a gate": (behind_a_gate, "layer add: it depends on more", 4),
    "a thing behind a normalisation": (behind_a_normalisation, "layer add: it depends on more", 3),
    "what was kept of the batch before": (of_the_batch_before, "those that it has seen before", 3),
    "the bias of a convolution": (with_its_bias, "layer mean: mean mixes the images", 3),
    "the bias of a convolution, of one image": (
        lambda n, x: F.conv2d(x, n.b.weight, bias=of_each_image(n.a(x))),
        "layer convolution: convolution takes its bias from the images", 3,
    ),
    "the weight of a normalisation": (
        lambda n, x: F.batch_norm(
            n.a(x), torch.zeros(1), torch.ones(1), weight=of_each_image(n.a(x))
        ),
        "takes its weight from the images", 4,
    ),
    "the mean of a normalisation": (
        lambda n, x: F.batch_norm(n.a(x), of_each_image(n.a(x)), torch.ones(1)),
        "takes its running_mean from the images", 4,
    ),
    "an index": (
        lambda n, x: torch.gather(n.a(x), 2, n.a(x).argmax(2, keepdim=True)),
        "gather takes its index from the images", 4,
    ),
    "a number": (lambda n, x: n.a(x) * n.a(x)[0, 0, 0, 0].item(), "takes a number out", None),
    "a list": (lambda n, x: n.a(x) + n.a(x)[0, 0, 0].tolist()[0], "tolist: it leaves torch", None),
    "its memory": (
        lambda n, x: n.b(n.a(x)) + float(n.a(x).data_ptr() > 0), "data_ptr: it leaves torch", None,
    ),
    "dlpack": (
        lambda n, x: n.b(n.a(x) + torch.utils.dlpack.from_dlpack(n.a(x))), "it leaves torch", 3,
    ),
    "its storage": (
        lambda n, x: n.b(n.a(x)) + float(n.a(x).untyped_storage()[0]), "it leaves torch", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSED_BY)
def test_what_passes_by_is_found_and_named(name: str) -> None:
    connect, words, rows = PASSED_BY[name]
    torch.manual_seed(0)
    found = receptive_field.of_network(Net(connect), IMAGE)
    assert found.size is None
    with pytest.raises(receptive_field.ReceptiveFieldError, match=words):
        receptive_field.receptive_field_table(Net(connect), IMAGE)
    assert found.table is not None
    assert found.table["layer"].tolist()[:2] == ["input", "a"]
    if rows:
        assert len(found.table) == rows


def test_what_is_cut_off_from_the_gradient_is_followed_all_the_same() -> None:
    found = follow(Net(lambda n, x: n.b(n.a(x).data + n.a(x.detach()).clone())), IMAGE)
    assert [axis.size for axis in found.field or ()] == [5, 5]


def test_numbers_that_are_drawn_are_no_influence() -> None:
    network = Net(lambda n, x: n.b(F.dropout(n.a(x) + torch.rand(()) + drawn(), 0.5)))
    assert str(receptive_field.of_network(network, IMAGE)) == "5"


def test_a_network_that_differs_from_pass_to_pass_is_refused_in_a_line() -> None:
    network = Net(lambda n, x: F.avg_pool2d(n.a(x), 1 + 2 * int(torch.randint(0, 9, ()))))
    found = receptive_field.of_network(network, IMAGE)
    assert "see other pixels each time that it is run" in str(found)
    assert found.table is not None
    assert found.table["layer"].tolist() == ["input", "a"]


@pytest.mark.parametrize("fault", ["copying", "running"])
def test_a_network_that_fails_on_noise_is_refused_in_a_line(fault: str) -> None:
    network = Net(lambda n, x: n.b(n.a(x)) if fault == "copying" else n.b(n.a(x))[:, 5])
    if fault == "copying":
        network.kept = (number for number in range(3))  # a generator is not copied
    words = str(receptive_field.of_network(network, IMAGE))
    assert f"{fault} the network" in words
    assert "\n" not in words


def test_nothing_but_copies_is_touched() -> None:
    network = Net(lambda n, x: F.dropout(n.b(n.a(x)), 0.5) + drawn())
    network.train()
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    before = states()
    kernels = torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()
    receptive_field.of_network(network, IMAGE)
    assert network.training
    assert not network.a._forward_hooks
    assert all(torch.equal(kept[name], value) for name, value in network.state_dict().items())
    assert states() == before
    assert (torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()) == kernels
