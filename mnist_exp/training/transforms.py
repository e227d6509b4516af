"""How the parts of a recipe change images: the package's own, torchvision's, and functions."""

import inspect
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from mnist_exp.augment import Augment
from mnist_exp.common.values import parts_of
from mnist_exp.preprocess import Preprocess

MIXING = {"MixUp", "CutMix"}
"""Classes of torchvision.transforms.v2 that take a batch with its labels."""


def augmented(
    augment: Augment | Sequence[Augment] | None, images: Tensor, labels: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Augment images, float32 (N, C, H, W) of pixels 0..255, with their labels, int64 (N,); of
    mixed digits these become probabilities, float32 (N, 10).

    What takes no `generator` (CPU) draws from the global random states.
    """
    for part in parts_of(augment):
        if is_torchvision(part):
            pixels = images / 255
            if mixes(part):
                pixels, labels = part(pixels, labels)
            else:
                pixels = torch.stack([part(image) for image in pixels])
            images = _floats(pixels) * 255
        elif mixes(part):
            made = part(images, labels, **_asked(part, generator))
            if not isinstance(made, tuple) or len(made) != 2:
                raise TypeError("what takes labels gives images and labels")
            images, labels = made
        else:
            images = part(images, **_asked(part, generator))
    return images, labels


def classes(labels: Tensor) -> Tensor:
    """The class of each digit, int64 (N,): where digits are mixed, and `labels` holds the shares of
    the classes, float32 (N, 10), that of the greatest."""
    return labels if labels.dim() == 1 else labels.argmax(dim=1)


def preprocessed(preprocess: Preprocess | Sequence[Preprocess] | None, images: Tensor) -> Tensor:
    """Preprocess images, float32 (N, C, H, W) of pixels 0..255."""
    for part in parts_of(preprocess):
        images = _floats(part(images / 255)) * 255 if is_torchvision(part) else part(images)
    return images


def is_torchvision(part: object) -> bool:
    """Whether it is a transform of torchvision's, or made like one."""
    kinds = type(part).__mro__
    return any(kind.__module__.startswith("torchvision.transforms") for kind in kinds)


def mixes(part: Any) -> bool:
    """Whether it takes labels besides images."""
    if is_torchvision(part):  # RandomChoice([v2.MixUp(...), v2.CutMix(...)]) holds others
        own = any(kind.__name__ in MIXING for kind in type(part).__mro__)
        return own or any(map(mixes, vars(part).get("transforms", [])))
    return _takes(part, "labels")


def draws_globally(part: Any) -> bool:
    """Whether it draws, if it does, from the global random states."""
    return not _takes(part, "generator")


def _asked(part: Any, generator: torch.Generator) -> dict[str, torch.Generator]:
    """The generator, if a part names one."""
    return {"generator": generator} if _takes(part, "generator") else {}


def _takes(part: Any, name: str) -> bool:
    if isinstance(part, nn.Module):
        return name in _parameters(type(part).forward)
    is_object = not inspect.isroutine(part) and not isinstance(part, partial)
    return name in _parameters(type(part).__call__ if is_object else part)


@cache  # it is asked for each batch
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(function).parameters)
    except ValueError:  # of a function of torch's that is not written in Python
        return frozenset()


def _floats(images: Tensor) -> Tensor:
    """Pixels 0..1 of what a transform of torchvision's gives, in a tensor of torch's own class."""
    # Nothing is done to what is right, since torch.export cannot trace it.
    if type(images).__module__.startswith("torchvision."):
        images = images.as_subclass(Tensor)
    if images.is_floating_point():
        return images
    from torchvision.transforms.v2.functional import to_dtype  # takes a second

    scaled: Tensor = to_dtype(images, torch.float32, scale=True)
    return scaled
