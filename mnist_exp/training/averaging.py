"""The average of a network over its steps, as `recipe.ExponentialAverage` describes it."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mnist_exp.common.copying import copied
from mnist_exp.recipe import ExponentialAverage
from mnist_exp.training import beside


def average_of(network: nn.Module, averaging: ExponentialAverage) -> AveragedModel:
    """The average of a network that has taken no step yet."""

    def update(averages: Any, values: Any, count: Tensor | int) -> None:
        if not _has_average(averages[0]):  # they are all of one dtype
            return
        # `count` is how often it was averaged: early on, the average follows the network closely.
        decay = min(averaging.decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(decay)(averages, values, count)

    # The buffers are the statistics of batch normalisation, which belong to the weights.
    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    average.module = copied(network)  # with all that its weights have
    return average


def take_over_rest(average: nn.Module, network: nn.Module) -> None:
    """Give the average what its network has now of all that is not averaged."""
    pairs = zip(
        itertools.chain(average.parameters(), average.buffers()),
        itertools.chain(network.parameters(), network.buffers()),
        strict=True,
    )
    with torch.no_grad():
        for own, now in pairs:
            if not _has_average(own):
                own.copy_(now)
    beside.give(average, beside.read_attributes(network))


def _has_average(tensor: Tensor) -> bool:
    """Whether it is a quantity; an index or a counter is none."""
    return tensor.is_floating_point() or tensor.is_complex()
