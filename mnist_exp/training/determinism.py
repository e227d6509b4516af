"""The same seed, the same bits, also on a graphics card, and all bits of float32."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
ASKED = {"cuda"}
"""The kinds of devices whose kernels are not deterministic unless they are asked to be."""


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """In the block, operations on a graphics card are deterministic where torch has a kernel for
    it; `missing` tells where it has none. They compute in float32 and not in TF32, of which cuDNN
    would take ten bits. On a processor all that is so anyway.

    https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html
    """
    if device.type not in ASKED or torch.are_deterministic_algorithms_enabled():
        yield
        return
    with _asked(warn_only=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*deterministic")  # a run's tags say it
        yield


def missing(device: torch.device, do: Callable[[], object]) -> str:
    """What of something that is done on a device has no deterministic kernel there, by torch's name
    for it, or "".

    Raises what it raises.
    """
    with _asked(warn_only=False) if device.type in ASKED else contextlib.nullcontext():
        try:
            do()
        except RuntimeError as error:
            text = str(error)
            name, said, _ = text.partition(" does not have a deterministic implementation")
            if said:
                return name.rpartition(" ")[2]
            if "it uses CuBLAS" in text:  # whoever set it otherwise than `startup` does
                return f"cuBLAS with {WORKSPACE}={os.environ.get(WORKSPACE)}"
            raise
    return ""


@contextlib.contextmanager
def _asked(*, warn_only: bool) -> Iterator[None]:
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    memory: Any = torch.utils.deterministic
    cudnn = torch.backends.cudnn
    filled = memory.fill_uninitialized_memory
    chosen = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    memory.fill_uninitialized_memory = False  # nobody reads it, and it takes time
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = True, False, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = chosen
