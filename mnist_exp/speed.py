"""The same training, faster: memory that is kept, a memory format, and cheaper dropout masks.

What is here changes no distribution: tests compare each part with torch's own.
"""

import ctypes
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn


def keep_memory() -> None:
    """Let glibc's malloc keep the memory of tensors that are gone for the next ones.

    It otherwise gives large pieces back to the kernel at once, and each batch asks for them again,
    page by page: a fifth of an epoch, and half of it where two trainings run side by side. Does
    nothing where there is no glibc.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 32 * 2**20)  # the most that it takes


class Dropout(nn.Dropout):
    """torch's Dropout, with masks that take a tenth of its time to draw on a CPU.

    Whether an element is kept is decided by 16 random bits of its own, from numpy's SFC64 seeded by
    torch's global generator, so that p is rounded to a multiple of 2**-16; what is kept is scaled
    by the rate that results, so that the expectation is exact.
    """

    def forward(self, x: Tensor) -> Tensor:
        kept = round((1 - self.p) * 2**16)
        if not self.training or x.device.type != "cpu" or kept in (0, 2**16):
            return super().forward(x)
        numbers = np.random.SFC64(int(torch.randint(2**62, ()))).random_raw(-(-x.numel() // 4))
        bits = torch.from_numpy(numbers.view(np.int16))[: x.numel()]
        mask = torch.lt(bits, kept - 2**15, out=torch.empty(x.numel(), dtype=x.dtype))
        return x * mask.mul_(2**16 / kept).as_strided_(x.shape, torch.empty_like(x).stride())


def faster(network: nn.Module, device: torch.device, example: Tensor) -> nn.Module:
    """The network on a device, changed in place: the same function, trained faster.

    It has `cheaper_dropout`; and on a CPU, weights and with them activations lie in memory as
    channels_last, unless the network, tried on an `example`, cannot do with it (as one that calls
    `view` where `flatten` would do).
    """
    cheaper_dropout(network)
    network.to(device)
    if device.type == "cpu":
        network.to(memory_format=torch.channels_last)
        try:
            with torch.inference_mode():
                network.eval()(example)
        except RuntimeError:
            network.to(memory_format=torch.contiguous_format)
    return network


def cheaper_dropout(network: nn.Module) -> None:
    """Put the `Dropout` above into the place of each torch.nn.Dropout."""
    for parent in network.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout and not child.inplace:
                setattr(parent, name, Dropout(child.p))
