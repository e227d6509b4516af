"""What is done to every image, in training and in evaluation, before the network sees it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_exp.engine import images as compiled

Preprocess = Callable[[Tensor], Tensor]
"""What a recipe's `preprocess` may name, alone or as one of several: an object of this module or
one like it, or a function, of images, float32 (N, C, H, W) of pixels 0..255; or a transform of
torchvision.transforms, as v2.Resize(32), of pixels 0..1. It may change their size and channels.
Nothing is drawn, and an image's result depends on that image alone.
"""


@dataclass(frozen=True)
class Deslant:
    """Shear each image sideways about its centre, so that its digit stands upright: bilinear,
    zeros from outside.

    A digit is upright when the horizontal and vertical positions of its ink are uncorrelated. As in
    LeCun, Bottou, Bengio and Haffner (1998), where a version of MNIST is "deslanted" by its second
    moments; there a pixel counted as ink or not, here it counts by its grey value. An image without
    ink, or with ink in one row only, stays as it is.
    """

    def __call__(self, images: Tensor) -> Tensor:
        if compiled.takes(images):
            return compiled.deslant(images)
        theta = images.new_zeros(images.shape[0], 2, 3)  # len() would fix the size of a batch
        theta[:, 0, 0] = theta[:, 1, 1] = 1
        # The grid of affine_grid goes from -1 to 1 along both axes, whatever their lengths.
        theta[:, 0, 1] = slant(images) * images.shape[-2] / images.shape[-1]
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)


def slant(images: Tensor) -> Tensor:
    """How many pixels the ink of each image, float32 (N, C, H, W) of pixels 0..255, goes to the
    right per row downwards: the slope of the regression of columns on rows, float32 (N,)."""
    ink = images.sum(dim=1)
    rows, columns = (torch.arange(n, device=ink.device, dtype=ink.dtype) for n in ink.shape[1:])
    by_row, by_column = ink.sum(dim=2), ink.sum(dim=1)
    total = by_row.sum(dim=1, keepdim=True).clamp(min=1)
    rows = rows - by_row @ rows.unsqueeze(1) / total  # (N, H), from the centre of mass
    columns = columns - by_column @ columns.unsqueeze(1) / total
    moments = torch.einsum("nhw,nh->nw", ink, rows)
    covariance = torch.einsum("nw,nw->n", moments, columns)
    variance = (by_row * rows**2).sum(dim=1)
    return covariance / variance.clamp(min=1)  # 0 where there is no variance
