"""Test-time augmentation: several views of every evaluated image, for which the network's
probabilities are averaged."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from mnist_exp.augment import transform


class Views(Protocol):
    """A frozen dataclass whose fields are its settings; they are recorded with the run."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        """The views of `images`, float32 (N, C, H, W) of pixels 0..255, each of the same shape;
        nothing is drawn, and an image's views depend on that image alone."""


@dataclass(frozen=True)
class Rotations:
    """A view for each of these angles in degrees, by which every image is turned counter-clockwise
    about its centre: bilinear, zeros from outside."""

    degrees: tuple[float, ...]

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        n = images.shape[0]  # len() would fix the size of a batch
        for angle in self.degrees:
            radians = torch.full((n,), math.radians(angle))
            yield transform(images, radians, torch.ones(n), torch.zeros(2, n))
