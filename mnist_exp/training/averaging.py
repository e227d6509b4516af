"""The average of a network over its steps, as `recipe.ExponentialAverage` describes it."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mnist_exp.common.copying import copied
from mnist_exp.recipe import ExponentialAverage
from mnist_exp.training import beside


class Average(AveragedModel):
    """The average of a network that has taken no step yet; `n_averaged` counts its updates."""

    def __init__(self, network: nn.Module, averaging: ExponentialAverage) -> None:
        super().__init__(network, use_buffers=True)
        self.module = copied(network)  # with all that its weights have
        self.most_kept = averaging.decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the network after a step.

        torch's own does the same, and moves the count to the device to read it there: it waits for
        a graphics card at each step.
        """
        count = int(self.n_averaged)  # on the CPU
        # Early on, the average follows the network closely.
        decay = min(self.most_kept, (1 + count) / (10 + count))
        by_dtype: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for own, now in _pairs(self.module, model):
            if count == 0:
                own.copy_(now)
            elif _has_average(own):
                averages, values = by_dtype.setdefault(own.dtype, ([], []))
                averages.append(own)
                values.append(now)
        for averages, values in by_dtype.values():
            get_ema_multi_avg_fn(decay)(averages, values, count)
        self.n_averaged += 1


def take_over_rest(average: nn.Module, network: nn.Module) -> None:
    """Give the average what its network has now of all that is not averaged."""
    with torch.no_grad():
        for own, now in _pairs(average, network):
            if not _has_average(own):
                own.copy_(now)
    beside.give(average, beside.read_attributes(network))


def _pairs(average: nn.Module, network: nn.Module) -> Any:
    """The tensors of both: weights, and the statistics of batch normalisation, which belong to
    them."""
    return zip(
        itertools.chain(average.parameters(), average.buffers()),
        itertools.chain(network.parameters(), network.buffers()),
        strict=True,
    )


def _has_average(tensor: Tensor) -> bool:
    """Whether it is a quantity; an index or a counter is none."""
    return tensor.is_floating_point() or tensor.is_complex()
