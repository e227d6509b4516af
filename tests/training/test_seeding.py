"""What is drawn from torch, numpy and Python comes from the seed."""

import random

import numpy as np
import torch

from mnist_exp.training import seeding


def drawn() -> tuple[float, ...]:
    return float(torch.rand(())), np.random.rand(), random.random()  # noqa: NPY002


def of_epoch(seed: int, epoch: int) -> tuple[float, ...]:
    generator = seeding.seed_epoch(seed, epoch)
    return *drawn(), float(torch.rand((), generator=generator))


def test_a_seed_gives_the_same_draws_and_another_gives_others() -> None:
    def of_network(seed: int) -> tuple[float, ...]:
        seeding.seed_network(seed)
        return drawn()

    assert of_network(3) == of_network(3)
    assert not set(of_network(3)) & set(of_network(4))
    assert of_epoch(3, 1) == of_epoch(3, 1)
    assert not set(of_epoch(3, 1)) & set(of_epoch(3, 2))
    assert not set(of_epoch(3, 1)) & set(of_epoch(1, 3))


def test_the_weights_are_those_of_torchs_own_seed() -> None:
    seeding.seed_network(7)
    own = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(own, torch.rand(3))
