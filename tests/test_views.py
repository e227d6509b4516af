"""Test-time augmentation, against torchvision's rotation of single images."""

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from mnist_exp.data import Digits
from mnist_exp.views import Rotations


def test_views_equal_torchvisions_rotation(mnist: tuple[Digits, Digits]) -> None:
    images = mnist[0].images[:50].float()
    degrees = (-8, 0, 5.5)
    views = list(Rotations(degrees)(images))
    assert len(views) == 3
    for angle, view in zip(degrees, views, strict=True):
        expected = rotate(images, angle, InterpolationMode.BILINEAR)
        assert torch.allclose(view, expected, atol=0.1)  # of 255
