"""The average of a network over its steps, with answers worked out by hand."""

import pytest
import torch
from torch import nn

from mnist_exp.recipe import ExponentialAverage
from mnist_exp.training.averaging import Average, take_over_rest


def set_to(network: nn.Module, value: float) -> None:
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(value)


def test_early_averages_follow_the_network_closely() -> None:
    network = nn.Linear(1, 1)
    set_to(network, 0.0)
    average = Average(network, ExponentialAverage(decay=0.2))
    expected = 0.0
    # After n times the average keeps (1 + n) / (10 + n), but not more than 0.2; the first is it.
    for value, kept in ((10.0, 0.0), (20.0, 2 / 11), (30.0, 0.2), (40.0, 0.2)):
        set_to(network, value)
        average.update_parameters(network)
        expected = kept * expected + (1 - kept) * value
        assert average.module.weight.item() == pytest.approx(expected)


def test_what_has_no_average_is_taken_over() -> None:
    network = nn.BatchNorm2d(2)
    average = Average(network, ExponentialAverage(decay=0.5))
    average.update_parameters(network)  # the first time, the average becomes the network
    network.num_batches_tracked += 3
    network.extra = 7
    average.update_parameters(network)
    assert average.module.num_batches_tracked.item() == 0
    take_over_rest(average.module, network)
    assert average.module.num_batches_tracked.item() == 3
    assert average.module.extra == 7


def test_nothing_is_read_from_the_device_at_an_update() -> None:
    network = nn.BatchNorm2d(2, device="meta")  # whose numbers cannot be read
    average = Average(network, ExponentialAverage(decay=0.5))
    for _ in range(3):
        average.update_parameters(network)
    assert int(average.n_averaged) == 3
