"""The random states that whatever runs may draw from: torch's, numpy's and Python's own."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

RandomStates = tuple[Tensor, Any, Any]


def random_states() -> RandomStates:
    """The states as they are, those of the processor."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002


def put_back(states: RandomStates) -> None:
    """Draw again what was drawn since then."""
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])  # noqa: NPY002


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """What is drawn in the block is drawn again behind it."""
    states = random_states()
    try:
        yield
    finally:
        put_back(states)
