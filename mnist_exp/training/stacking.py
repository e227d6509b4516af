"""Tensors of several seeds in one, with an axis of seeds in front, and what each seed draws."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_exp.common.randomness import (
    RandomStates,
    put_back,
    random_states,
    random_states_kept,
)
from mnist_exp.common.values import parts_of
from mnist_exp.training import seeding, transforms
from mnist_exp.training.loop import Training
from mnist_exp.training.stepping import Batch

COUNTERS = {"step", "eta", "mu", "mu_product"}
"""What they keep of a tensor that is one number for all that is in it, and the same for each seed.
"""


class Stacked(nn.Module):
    """The tensors of several networks, those of a name in one: (S, ...) for S networks."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        # No name of a module's own has a dot. A class may be another for each seed, if a file was
        # executed anew.
        for name, first in networks[0].named_parameters():
            stacked = torch.stack([own.get_parameter(name).detach() for own in networks])
            self.register_parameter(
                name.replace(".", "/"), nn.Parameter(stacked, first.requires_grad)
            )
        for name, _ in networks[0].named_buffers():
            stacked = torch.stack([own.get_buffer(name) for own in networks])
            self.register_buffer(name.replace(".", "/"), stacked)

    def share(self, networks: Sequence[nn.Module]) -> None:
        """Let the networks have views of these tensors for their own, with what is in them."""
        for place, network in enumerate(networks):
            pairs = zip(
                itertools.chain(self.parameters(), self.buffers()),
                itertools.chain(network.parameters(), network.buffers()),
                strict=True,
            )
            for stacked, tensor in pairs:
                tensor.data = stacked.data[place]

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters and buffers by the names that the networks have for them."""
        named: Any = (self.named_parameters(), self.named_buffers())
        parameters, buffers = (
            {name.replace("/", "."): tensor for name, tensor in each} for each in named
        )
        return parameters, buffers


class SeedBatches:
    """The batches of one training in an epoch, drawn as it would draw them alone; but what draws
    on a graphics card draws from one state for all seeds there, each time other numbers."""

    def __init__(self, training: Training, epoch: int) -> None:
        self.training = training
        self.generator = seeding.seed_epoch(training.seed, epoch)
        self.digits = training.train.batches(training.recipe.batch_size, self.generator)
        # What takes no generator draws from the global states, of which each seed has its own.
        self.states: RandomStates | None = None
        if any(map(transforms.draws_globally, parts_of(training.recipe.augment))):
            self.states = random_states()

    def next_batch(self) -> Batch:
        if self.states is None:
            return self.training.prepare(next(self.digits), self.generator)
        with random_states_kept():
            put_back(self.states)
            batch = self.training.prepare(next(self.digits), self.generator)
            self.states = random_states()
        return batch


def stacked_batch(batches: Sequence[Batch]) -> Batch:
    taught = [batch.teacher_output for batch in batches if batch.teacher_output is not None]
    labels = [batch.labels for batch in batches]
    # An augmentation may mix the digits of some batches only: a digit that is none but itself has
    # that with probability 1.
    mixed = next((each for each in labels if each.dim() == 2), None)
    if mixed is not None:
        labels = [
            each if each.dim() == 2 else F.one_hot(each, mixed.shape[1]).to(mixed.dtype)
            for each in labels
        ]
    return Batch(
        torch.stack([batch.images for batch in batches]), torch.stack(labels),
        torch.stack(taught) if taught else None,
    )  # fmt: skip


def is_of_each(key: str, value: Any) -> bool:
    """Whether a state of an optimizer is of the numbers of a tensor, and not one for all seeds."""
    return isinstance(value, Tensor) and key not in COUNTERS


def clip_each(parameters: Sequence[Tensor], most: float) -> None:
    """Shrink the gradients of each seed to a norm of at most so much, as torch's clip_grad_norm_
    does for one."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([each.reshape(len(each), -1).norm(dim=1) for each in gradients])
    norms = norms.norm(dim=0)  # (S,)
    factors = (most / (norms + 1e-6)).clamp(max=1.0)
    for each in gradients:
        each.mul_(factors.view(-1, *[1] * (each.dim() - 1)))
