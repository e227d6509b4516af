"""What torch does not promise to keep is as it was in 2.14.1, by answers worked out by hand."""

import torch
from torch import nn
from torch.nn.functional import relu

from mnist_exp.training import torch_internals
from mnist_exp.training.torch_internals import TorchDispatchMode

X = torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]], [[[5.0, 7.0]], [[8.0, 0.0]]]])  # (2, 2, 1, 2)


def test_the_statistics_of_channels() -> None:
    mean, variance = torch_internals.channel_statistics(X)
    assert mean.tolist() == [4, 2]
    assert variance.tolist() == [(9 + 1 + 1 + 9) / 4, (4 + 4 + 36 + 4) / 4]  # biased


def test_the_gradients_of_a_batch_normalisation() -> None:
    dy = torch.tensor([[[[1.0, 2.0]], [[1.0, 1.0]]], [[[0.0, 1.0]], [[2.0, 0.0]]]])
    mean, inverse_std = torch.tensor([4.0, 2.0]), torch.tensor([10.0, 100.0])
    dweight, dbias = torch_internals.batch_norm_gradients(dy, X, mean, inverse_std)
    # x - mean is -3, -1, 1, 3 in the first channel and -2, -2, 6, -2 in the second.
    assert dweight.tolist() == [10 * (-3 - 2 + 0 + 3), 100 * (-2 - 2 + 12 + 0)]
    assert dbias.tolist() == [4, 4]


def test_a_network_is_found_in_what_is_around_it() -> None:
    network = nn.Conv2d(1, 2, 3)
    around = torch.compile(nn.DataParallel(torch.compile(network)))
    assert torch_internals.unwrapped(around) is network
    assert torch_internals.unwrapped(network) is network


class Heard(TorchDispatchMode):
    """Notes the calls that torch's dispatcher reports."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, dict[str, object], bool]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls.append(
            (
                torch_internals.operation(function),
                torch_internals.arguments(function, args, kwargs or {}),
                torch_internals.writes(function),
            )
        )
        return function(*args, **(kwargs or {}))


def test_the_dispatcher_reports_operations_by_their_parts() -> None:
    convolution = nn.Conv2d(2, 1, (1, 2), stride=(1, 2))
    with torch.no_grad(), Heard() as heard:
        relu(convolution(X), inplace=True)
    (name, arguments, in_place), (last, _, last_in_place) = heard.calls
    assert (name, last) == ("convolution", "relu_")
    assert (in_place, last_in_place) == (False, True)
    assert arguments["input"] is X
    assert arguments["stride"] == [1, 2]
    assert arguments["transposed"] is False


def test_arguments_that_a_call_leaves_out_have_their_defaults() -> None:
    add = torch.ops.aten.add.Tensor
    assert torch_internals.arguments(add, (X,), {"other": X}) == {"self": X, "other": X, "alpha": 1}
