"""Batches of images prepared in compiled loops: the same function as in torch's operations.

What turns, shears and scales images is written in torch, where it belongs, in `augment`,
`preprocess` and `data`. There it hands a batch over to the functions of this module where `takes`
says so: within a block of `compiled_loops`, and for ordinary tensors only. Results differ from
torch's by rounding alone, and are the same for any number of threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from ctypes import c_float, c_int64, c_void_p
from typing import TYPE_CHECKING

from mnist_exp.engine import library

if TYPE_CHECKING:  # whoever asks for checksums of digits need not wait for torch
    from torch import Tensor

LONGEST = 1024
"""The longest side of an image whose places are exact enough in float32."""

_in_use = ContextVar("compiled loops in use", default=False)


@contextlib.contextmanager
def compiled_loops() -> Iterator[None]:
    """Prepare images in compiled loops within this block, in this thread.

    Raises library.UnavailableError where nothing can be compiled.
    """
    library.loaded()
    before = _in_use.set(True)
    try:
        yield
    finally:
        _in_use.reset(before)


def takes(*tensors: Tensor) -> bool:
    """Whether a compiled loop is to be used, and can do with these tensors what torch would do.

    It has no gradient, and torch.export, torch.compile and torch.vmap could not follow it.
    """
    import torch

    if torch.compiler.is_compiling() or not _in_use.get():
        return False
    return all(
        type(tensor) is torch.Tensor  # a subclass has operations of its own
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.layout == torch.strided
        and not (tensor.requires_grad and torch.is_grad_enabled())
        and tensor.numel() > 0
        and max(tensor.shape[-2:], default=1) <= LONGEST
        and _has_memory(tensor)
        for tensor in tensors
    )


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Sample images, float32 (N, C, H, W), where `matrices`, float32 (N, 2, 3), say: bilinear,
    zeros from outside.

    Equal to `F.grid_sample(images, F.affine_grid(matrices, images.shape))`, without align_corners.
    """
    return _prepared("warp_images", images, matrices)


def turn(images: Tensor, matrices: Tensor) -> Tensor:
    """Sample images, float32 (N, C, H, W), at the nearest pixel, zeros from outside.

    The pixel at (x, y) from the centre comes from (x, y) @ matrices[i], float32 (N, 2, 2), on axes
    from -1 to 1.
    """
    return _prepared("turn_images", images, matrices)


def deslant(images: Tensor) -> Tensor:
    """What `preprocess.Deslant` gives for images, float32 (N, C, H, W)."""
    return _prepared("deslant_images", images)


def rescale(pixels: Tensor, factor: float, offset: float) -> Tensor:
    """`pixels * factor + offset`, float32 of any shape."""
    pixels = pixels.contiguous()
    out = pixels.new_empty(pixels.shape)
    library.loaded().rescale_pixels(
        _address(pixels), _address(out), c_int64(out.numel()), c_float(factor), c_float(offset)
    )
    return out


def _prepared(kernel: str, images: Tensor, *matrices: Tensor) -> Tensor:
    """What a kernel makes of images, with a matrix for each if it takes them."""
    if images.dim() != 4 or any(len(images) != len(each) for each in matrices):
        raise ValueError(f"{tuple(images.shape)}: images are (N, C, H, W), with a matrix each")
    # Named, so that a copy stays until the kernel is done.
    inputs = [tensor.contiguous() for tensor in (images, *matrices)]
    out = images.new_empty(images.shape)
    count, *shape = images.shape
    getattr(library.loaded(), kernel)(*map(_address, [*inputs, out]), c_int64(count), *shape)
    return out


def _address(tensor: Tensor) -> c_void_p:
    return c_void_p(tensor.data_ptr())


def _has_memory(tensor: Tensor) -> bool:
    """Whether its numbers lie in memory; those of a tensor within torch.vmap do not."""
    try:
        return tensor.data_ptr() != 0
    except RuntimeError:
        return False
