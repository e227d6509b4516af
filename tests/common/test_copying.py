"""A copy of a network has all that the network has."""

import torch
from torch import Tensor, nn

from mnist_exp.common.copying import copied


class Halving(nn.Module):
    """Halves its gradient by a method of its own, and counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.weight.owner, self.weight.slow = self, [True]
        self.weight.register_hook(self.halve)
        self.weight.register_post_accumulate_grad_hook(self.count)
        self.steps = 0

    def halve(self, gradient: Tensor) -> Tensor:
        return gradient / 2

    def count(self, _: Tensor) -> None:
        self.steps += 1

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


def test_a_copy_has_what_is_set_on_weights_and_the_hooks_of_their_gradients() -> None:
    network = Halving()
    copy = copied(network)
    assert copy.weight is not network.weight
    assert copy.weight.owner is copy
    assert copy.weight.slow == [True]
    assert copy.weight.slow is not network.weight.slow
    copy(torch.tensor([4.0, 8.0])).sum().backward()
    assert copy.weight.grad.tolist() == [2, 4]
    assert (copy.steps, network.steps, network.weight.grad) == (1, 0, None)
