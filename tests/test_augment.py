"""Rotation of batches, against torchvision's rotation of single images."""

import pytest
import torch
from torchvision.transforms.functional import rotate as rotate_one

from mnist_exp.augment import RandomRotation, rotate
from mnist_exp.data import Digits


def test_equals_torchvision_for_the_same_angle(mnist: tuple[Digits, Digits]) -> None:
    images = mnist[0].images[:500].float()
    angles = torch.empty(500).uniform_(-30, 30, generator=torch.Generator().manual_seed(1))
    turned = rotate(images, angles)
    for image, angle, result in zip(images, angles, turned, strict=True):
        assert torch.equal(result, rotate_one(image, angle.item()))


@pytest.mark.parametrize("angle", [0, 7, -7, 30, 45, 90, 180, -90])
def test_equals_torchvision_at_round_angles(mnist: tuple[Digits, Digits], angle: int) -> None:
    images = mnist[0].images[:50].float()
    assert torch.equal(rotate(images, torch.full((50,), angle)), rotate_one(images, angle))


def test_a_quarter_turn_counter_clockwise() -> None:
    image = torch.zeros(1, 1, 3, 3)
    image[0, 0, 0, 2] = 1  # top right
    turned = rotate(image, torch.tensor([90.0]))
    assert turned[0, 0, 0, 0] == 1  # top left
    assert turned.sum() == 1


def test_zeros_come_in_from_outside() -> None:
    turned = rotate(torch.ones(1, 1, 28, 28), torch.tensor([45.0]))
    assert turned[0, 0, 0, 0] == 0
    assert turned[0, 0, 14, 14] == 1


def angles_of(rotation: RandomRotation, n: int, seed: int) -> torch.Tensor:
    """The angles that were drawn, read off an image of one bright pixel far from the centre."""
    size, radius = 2001, 900
    image = torch.zeros(1, 1, size, size)
    image[0, 0, size // 2, size // 2 + radius] = 1
    found = []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        _, _, row, column = rotation(image, generator).nonzero()[0].tolist()
        found.append(torch.atan2(torch.tensor(size // 2 - row), torch.tensor(column - size // 2)))
    return torch.stack(found).rad2deg()


def test_angles_fill_the_range_and_not_more() -> None:
    angles = angles_of(RandomRotation(degrees=7), 60, seed=1)
    assert angles.abs().max() <= 7.1  # the pixel grid is 0.06 degrees wide there
    assert angles.max() > 5
    assert angles.min() < -5


def test_each_image_has_its_own_angle(mnist: tuple[Digits, Digits]) -> None:
    same = mnist[0].images[:1].float().expand(64, -1, -1, -1)
    turned = RandomRotation(degrees=7)(same, torch.Generator().manual_seed(1))
    assert len(torch.unique(turned, dim=0)) > 30


def test_the_generator_decides(mnist: tuple[Digits, Digits]) -> None:
    images = mnist[0].images[:64].float()
    first, again, other = (
        RandomRotation(degrees=7)(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
