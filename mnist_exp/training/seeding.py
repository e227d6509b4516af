"""All random numbers of a training come from its seed: torch's, numpy's and Python's own."""

import random
from collections.abc import Sequence

import numpy as np
import torch


def seed_network(seed: int) -> None:
    """Seed what the file of an iteration and its network draw when they are made.

    torch's is the seed itself, as the published runs had it.
    """
    torch.manual_seed(seed)
    _seed_others(*np.random.SeedSequence(seed).generate_state(2))


def seed_epoch(seed: int | Sequence[int], epoch: int) -> torch.Generator:
    """Seed what is drawn in an epoch, of a seed or of several together; returns the generator (CPU)
    of its order and augmentation.

    Mixed, so that the draws of one seed or epoch say nothing of those of the next. No epoch depends
    on what was drawn before it, so that a checkpoint holds no random state.
    """
    seeds = (seed,) if isinstance(seed, int) else seed
    states = np.random.SeedSequence((*seeds, epoch)).generate_state(4)
    torch.manual_seed(int(states[0]))  # of dropout
    _seed_others(*states[2:])
    return torch.Generator().manual_seed(int(states[1]))


def _seed_others(of_numpy: int, of_python: int) -> None:
    """Seed what a network may draw from besides torch."""
    np.random.seed(of_numpy)  # noqa: NPY002 (the global one is what is seeded)
    random.seed(int(of_python))
