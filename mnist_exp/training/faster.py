"""The same training, faster: memory that is kept, a memory format, cheaper dropout masks, and batch
normalisation that is as exact in that format as in the usual one.

Nothing here changes a distribution: tests compare each part with torch's own.
"""

import ctypes
import math
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnist_exp.common.copying import copied
from mnist_exp.training import torch_internals


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
        size = x.numel()
        kept = round((1 - self.p) * 2**16)  # of 2**16 equally probable numbers
        on_cpu = x.device.type == "cpu"
        if not self.training or self.inplace or not on_cpu or kept in (0, 2**16):
            return super().forward(x)
        # Each number of 64 bits decides on four elements; rounded up, there are enough of them.
        generator = np.random.SFC64(int(torch.randint(2**62, ())))
        numbers = generator.random_raw(-(-size // 4))  # uint64 (size / 4,)
        bits = torch.from_numpy(numbers.view(np.int16))[:size]  # int16 (size,)
        # As signed numbers the 2**16 begin at -2**15, so that `kept` of them lie below this bound.
        bound = kept - 2**15
        mask = torch.lt(bits, bound, out=torch.empty(size, dtype=x.dtype))  # 0 or 1, (size,)
        # In the order in which x lies in memory, be it channels_last: a product of two orders would
        # be slower, and would lie in one that the next layer may not expect.
        strides = torch.empty_like(x).stride()
        return x * mask.mul_(2**16 / kept).as_strided_(x.shape, strides)


class BatchNorm2d(nn.BatchNorm2d):
    """torch's BatchNorm2d, as exact in channels_last on a CPU as in contiguous memory.

    There torch's own adds up the N*H*W numbers of a channel one after another in float32
    (https://github.com/pytorch/pytorch/issues/121651): an error of 1e-5 in a sum, and through a
    network of several such layers one of a percent in every gradient. Here 64 pixels with C
    channels each are taken for one with 64 C channels, whose sums are then added: shorter sums, and
    vectors wide enough for any processor.
    """

    def forward(self, x: Tensor) -> Tensor:
        mean, variance, seen = self.running_mean, self.running_var, self.num_batches_tracked
        pixels = x.numel() // self.num_features  # of a channel: N * H * W
        exactly = (
            self.training and x.device.type == "cpu" and x.dtype == torch.float32
            and x.is_contiguous(memory_format=torch.channels_last) and pixels > 1
        )  # fmt: skip
        if not exactly or self.momentum is None or mean is None or variance is None or seen is None:
            return super().forward(x)
        # Either is None where a network leaves it out.
        weight = x.new_ones(self.num_features) if self.weight is None else self.weight
        bias = x.new_zeros(self.num_features) if self.bias is None else self.bias
        y: Tensor
        y, batch_mean, batch_variance = _BatchNormalise.apply(x, weight, bias, self.eps)
        # As torch does: a moving average, of the unbiased variance.
        mean.lerp_(batch_mean, self.momentum)
        variance.lerp_(batch_variance * pixels / (pixels - 1), self.momentum)
        seen.add_(1)
        return y


class _BatchNormalise(torch.autograd.Function):
    """From (N, C, H, W) in channels_last: normalised, and the mean and biased variance of each
    channel. The formulas are those of Ioffe and Szegedy, https://arxiv.org/abs/1502.03167."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
        rows = _rows(x)  # (M, times * C)
        times = rows.shape[1] // len(weight)
        means, variances = torch_internals.channel_statistics(_images(rows))
        means, variances = means.view(times, -1), variances.view(times, -1)  # (times, C) each
        # Of `times` groups of M pixels each, so that all weigh the same. By the law of total
        # variance: the mean of the groups' variances, and the variance of their means.
        mean = means.mean(0)  # (C,)
        variance = variances.mean(0) + (means - mean).square().mean(0)  # (C,)
        inverse_std = (variance + eps).rsqrt()
        slope = weight * inverse_std
        # weight * (x - mean) * inverse_std + bias, as one product and one sum.
        # Into a tensor of its own, no view of one, which nothing could change in place.
        y = torch.empty_like(x)
        offset = (bias - slope * mean).repeat(times)
        torch.addcmul(offset, rows, slope.repeat(times), out=_rows(y))
        ctx.save_for_backward(x, weight, mean, inverse_std)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Any) -> Any:
        x, weight, mean, inverse_std = ctx.saved_tensors
        rows, dy_rows = _rows(x), _rows(dy.contiguous(memory_format=torch.channels_last))
        times = rows.shape[1] // len(weight)
        dweights, dbiases = torch_internals.batch_norm_gradients(
            _images(dy_rows), _images(rows), mean.repeat(times), inverse_std.repeat(times)
        )  # (times * C,) each
        dweight, dbias = dweights.view(times, -1).sum(0), dbiases.view(times, -1).sum(0)  # (C,)
        count = x.numel() // len(weight)
        # slope * (dy - dbias / count - (x - mean) * inverse_std * dweight / count), as a multiple
        # of x, a multiple of dy, and an offset.
        slope = weight * inverse_std
        by_x = -slope * inverse_std * dweight / count
        offset = -slope * dbias / count - by_x * mean
        dx = torch.addcmul(offset.repeat(times), rows, by_x.repeat(times))
        dx.addcmul_(dy_rows, slope.repeat(times))
        return _like(dx, x), dweight, dbias, None


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) in channels_last as (N*H*W/k, k*C): k pixels a row, in the same memory.

    k is 64, or where that does not divide N*H*W, the largest power of 2 below it that does.
    """
    pixels = x.numel() // x.shape[1]
    # In channels_last the C numbers of a pixel lie side by side, and pixels follow each other.
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1] * math.gcd(pixels, 64))


def _images(rows: Tensor) -> Tensor:
    """(M, L) as images of one pixel, (M, L, 1, 1), in the same memory."""
    length = rows.shape[1]
    # An image is a row, a channel a number in it. Both other axes have one step only, for which
    # these strides say channels_last: by them torch chooses the quick kernel.
    return rows.as_strided((*rows.shape, 1, 1), (length, 1, length, length))


def _like(rows: Tensor, x: Tensor) -> Tensor:
    """What `_rows` made of a tensor like `x`, as (N, C, H, W) in channels_last again."""
    n, c, h, w = x.shape
    return rows.view(n, h, w, c).permute(0, 3, 1, 2)


def speed_up(network: nn.Module, device: torch.device, example: Tensor) -> nn.Module:
    """The network on a device, changed in place: the same function, trained faster.

    It has `cheaper_dropout` and `exact_batch_norm`; and on a CPU, weights and with them activations
    lie in memory as channels_last, unless the network, tried on an `example`, cannot do with it (as
    one that calls `view` where `flatten` would do).
    """
    cheaper_dropout(network)
    exact_batch_norm(network)
    network.to(device)
    if device.type == "cpu":
        network.to(memory_format=torch.channels_last)
        try:
            with torch.inference_mode():  # of a copy: a network may count how often it is called
                copied(network).eval()(example)
        except RuntimeError:
            network.to(memory_format=torch.contiguous_format)
    return network


def cheaper_dropout(network: nn.Module) -> None:
    """Make each torch.nn.Dropout the `Dropout` above."""
    _change_class(network, nn.Dropout, Dropout)


def exact_batch_norm(network: nn.Module) -> None:
    """Make each torch.nn.BatchNorm2d the one above, with the parameters that it has."""
    _change_class(network, nn.BatchNorm2d, BatchNorm2d)


def as_torch_has_it(network: nn.Module) -> nn.Module:
    """A network with torch's own layers in the place of those above, changed in place."""
    _change_class(network, Dropout, nn.Dropout)
    _change_class(network, BatchNorm2d, nn.BatchNorm2d)
    return network


def _change_class(network: nn.Module, old: type[nn.Module], new: type[nn.Module]) -> None:
    """Make each module of just the class `old` one of `new`.

    Only the class changes: parameters, statistics, hooks and whoever refers to the module stay, as
    a list of layers may. A new module in its place would have to be given to each of them.
    """
    for module in network.modules():
        if type(module) is old:
            module.__class__ = new
