"""Augmentation of a whole batch at once, with random numbers of its own for every sample."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_exp.engine import images as compiled

Augment = Callable[..., Any]
"""What a recipe's `augment` may name, alone or as one of several:

an object of this module, or one like it, or a function: takes images, float32 (N, C, H, W) of
    pixels 0..255, and gives such images. It takes a `generator` (CPU) to draw from, if it names
    one; or `labels` besides, int64 (N,), and then gives images and labels, of which there may be
    more, and which may become probabilities, float32 (N, 10);
a transform of torchvision.transforms, as v2.RandomErasing(): of each image for itself, float32
    (C, H, W) of pixels 0..1. v2.MixUp(num_classes=10) and v2.CutMix(num_classes=10) take a whole
    batch with its labels.

The generator and all global random states are seeded for each epoch.
"""


@dataclass(frozen=True)
class RandomRotation:
    """Turn each image by an angle of its own, uniform in -degrees..degrees."""

    degrees: float

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        # Drawn on the CPU whatever the device, so that a seed gives the same angles everywhere.
        angles = torch.empty(len(images)).uniform_(-self.degrees, self.degrees, generator=generator)
        return rotate(images, angles)


@dataclass(frozen=True)
class RandomAffine:
    """Turn each image by up to `degrees`, scale it by up to the fraction `scale`, and shift it by
    up to the fraction `shift` of its size along each axis: all uniform, each image for itself, and
    about its centre. Bilinear, zeros from outside.

    The distribution is that of `torchvision.transforms.RandomAffine(degrees, (shift, shift),
    (1 - scale, 1 + scale))`, which shifts by whole pixels.
    """

    degrees: float
    scale: float
    shift: float

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        angles, scales, right, down = 2 * torch.rand(4, len(images), generator=generator) - 1
        radians = angles * math.radians(self.degrees)
        return transform(
            images, radians, 1 + self.scale * scales, self.shift * torch.stack([right, down])
        )


@dataclass(frozen=True)
class Repeat:
    """Have each digit so many `times` in its batch, so that what comes behind it varies each for
    itself: `[Repeat(2), RandomAffine(...)]`. A step then takes `times` as many images as the
    recipe's `batch_size`, and so does an epoch.

    Batch augmentation (Hoffer et al. 2020, https://arxiv.org/abs/1901.09335).
    """

    times: int

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images.repeat_interleave(self.times, 0), labels.repeat_interleave(self.times, 0)


def transform(images: Tensor, radians: Tensor, scales: Tensor, shifts: Tensor) -> Tensor:
    """Turn image i of a float32 batch (N, C, H, W) by radians[i] counter-clockwise, enlarge it
    scales[i] times about its centre, then shift it by shifts[0, i] of its width to the right and
    shifts[1, i] of its height down; bilinear, zeros from outside."""
    cos, sin = radians.cos() / scales, radians.sin() / scales
    x, y = 2 * shifts  # the grid goes from -1 to 1
    # For a point of the result, where it comes from: shifted back, then turned and shrunk back.
    back = [cos, -sin, sin * y - cos * x, sin, cos, -sin * x - cos * y]
    matrices = _beside(images, torch.stack(back, dim=1).view(-1, 2, 3))
    if compiled.takes(images, matrices):
        return compiled.warp(images, matrices)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def rotate(images: Tensor, angles: Tensor) -> Tensor:
    """Turn image i of a float32 batch (N, C, H, W) by angles[i] degrees (CPU), counter-clockwise.

    About the centre, nearest-neighbour, zeros from outside: equal to
    `torchvision.transforms.functional.rotate(images[i], angles[i])`.
    """
    height, width = images.shape[-2:]
    radians = angles.double() * (math.pi / 180)
    cos, sin = radians.cos(), radians.sin()
    # For a pixel of the result, as a row vector, this matrix gives where it comes from.
    turn = torch.stack([cos, sin, -sin, cos], dim=1).view(-1, 2, 2).float()
    half = torch.tensor([width / 2, height / 2])  # the grid goes from -1 to 1
    turn = _beside(images, turn / half)
    if compiled.takes(images, turn):
        return compiled.turn(images, turn)
    x = torch.arange(width) - (width - 1) / 2
    y = torch.arange(height) - (height - 1) / 2
    points = torch.cartesian_prod(y, x).flip(1)  # (H*W, 2) as (x, y), in pixels from the centre
    grid = _beside(images, points) @ turn
    return F.grid_sample(
        images, grid.view(-1, height, width, 2), mode="nearest", align_corners=False
    )


def _beside(images: Tensor, drawn: Tensor) -> Tensor:
    """What was drawn on the CPU, on the device of the images. A graphics card takes it from pinned
    memory, for which nobody waits."""
    if images.is_cuda:
        return drawn.pin_memory().to(images.device, non_blocking=True)
    return drawn.to(images.device)
