"""Whether two values are the same bit for bit."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

TIMES = {"seconds", "ended"}
"""Names in a state of what is another each time."""


def same_state(one: Any, other: Any) -> bool:
    """Whether two states are the same bit for bit, but for times."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        one, other = torch.from_numpy(one), torch.from_numpy(other)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype
        return alike and bytes_of(one) == bytes_of(other)
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() - TIMES
        same_keys = keys == other.keys() - TIMES
        return same_keys and all(same_state(one[key], other[key]) for key in keys)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same_state, one, other))
    return bool(one == other or (one != one and other != other))  # no number is itself


def bytes_of(tensor: Tensor) -> bytes:
    """The numbers of a tensor, to compare them bit for bit."""
    dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    return dense.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
