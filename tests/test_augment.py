"""Rotation of batches, against torchvision's rotation of single images."""

import math

import pytest
import torch
from scipy import stats
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine
from torchvision.transforms.functional import rotate as rotate_one

from mnist_exp.augment import RandomAffine, RandomRotation, Repeat, rotate, transform
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
    """The angles that were drawn, up to 7.4 degrees, read off an image of a bright spot far from
    the centre: beyond, it leaves the image, whose every pixel takes its time."""
    height, width, radius = 241, 2001, 900
    image = torch.zeros(1, 1, height, width)
    middle, centre = height // 2, width // 2
    image[..., middle - 2 : middle + 3, centre + radius - 2 : centre + radius + 3] = 1
    found = []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        _, _, row, column = rotation(image, generator).nonzero().double().mean(dim=0)
        found.append(torch.atan2(middle - row, column - centre))
    return torch.stack(found).rad2deg()


def test_angles_fill_the_range_and_not_more() -> None:
    angles = angles_of(RandomRotation(degrees=7), 60, seed=1)
    assert angles.abs().max() <= 7.05  # the pixel grid is 0.06 degrees wide there
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


def test_angles_are_spread_as_torchvisions_are() -> None:
    own = angles_of(RandomRotation(degrees=7), 200, seed=2)
    torch.manual_seed(1)
    stock = [transforms.RandomRotation.get_params([-7, 7]) for _ in range(2000)]
    assert stats.ks_2samp(own.numpy(), stock).pvalue > 0.01


@pytest.mark.parametrize(
    ("angle", "scale", "right", "down"),
    [(10, 1.0, 0, 0), (-20, 1.1, 3, -2), (5, 0.9, -1, 4), (0, 1.0, 2, 0)],
)
def test_transforms_equal_torchvisions(
    mnist: tuple[Digits, Digits], angle: float, scale: float, right: int, down: int
) -> None:
    images = mnist[0].images[:20].float()
    shifts = torch.tensor([[right / 28], [down / 28]]).expand(2, 20)
    own = transform(
        images, torch.full((20,), math.radians(angle)), torch.full((20,), scale), shifts
    )
    # torchvision turns clockwise.
    stock = affine(images, -angle, [right, down], scale, [0, 0], InterpolationMode.BILINEAR)
    assert torch.allclose(own, stock, atol=0.01)  # of 255


def test_affine_transforms_differ_by_image_and_stay_in_range(mnist: tuple[Digits, Digits]) -> None:
    """A square of 9x9 pixels shows its place by its centre and its scale by its sum."""
    images = torch.zeros(2000, 1, 29, 29)
    images[..., 10:19, 10:19] = 1
    change = RandomAffine(degrees=8, scale=0.1, shift=0.04)
    turned = change(images, torch.Generator().manual_seed(1))
    mass = turned.sum(dim=(1, 2, 3))
    scales = (mass / 81).sqrt()
    assert scales.min() == pytest.approx(0.9, abs=0.005)
    assert scales.max() == pytest.approx(1.1, abs=0.005)
    across = (turned.sum(dim=(1, 2)) * (torch.arange(29) - 14)).sum(dim=1) / mass / 29
    down = (turned.sum(dim=(1, 3)) * (torch.arange(29) - 14)).sum(dim=1) / mass / 29
    for shifts in (across, down):
        assert shifts.abs().max() == pytest.approx(0.04, abs=0.001)
        assert stats.kstest(shifts.numpy(), stats.uniform(-0.04, 0.08).cdf).pvalue > 0.001
    assert abs(stats.pearsonr(across, down).statistic) < 0.1
    assert len(turned.unique(dim=0)) == 2000
    assert torch.equal(turned, change(images, torch.Generator().manual_seed(1)))
    digits = mnist[0].images[:4].float()
    still = RandomAffine(degrees=0, scale=0, shift=0)(digits, torch.Generator())
    assert torch.allclose(still, digits, atol=1e-3)


def test_copies_of_a_digit_lie_together_and_are_varied_each_for_itself(
    mnist: tuple[Digits, Digits],
) -> None:
    images, labels = mnist[0].images[:5].float(), mnist[0].labels[:5]
    copies, of_copies = Repeat(3)(images, labels)
    assert torch.equal(copies.view(5, 3, 28, 28), images.expand(5, 3, 28, 28))
    assert of_copies.view(5, 3).tolist() == [[label] * 3 for label in labels.tolist()]
    varied = RandomAffine(10, 0.1, 0.1)(copies, torch.Generator()).view(5, 3, 28, 28)
    assert not torch.equal(varied[:, 0], varied[:, 1])
