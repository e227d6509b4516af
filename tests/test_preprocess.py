"""Deslanting, against numpy's regression and torchvision's shear of single images."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from mnist_exp.data import Digits
from mnist_exp.preprocess import Deslant, slant


def test_the_slant_is_the_slope_of_columns_on_rows(mnist: tuple[Digits, Digits]) -> None:
    images = mnist[0].images[:100].float()
    for image, found in zip(images[:, 0].numpy(), slant(images), strict=True):
        rows, columns = np.nonzero(image)
        # polyfit's weights multiply the residuals before they are squared.
        slope, _ = np.polyfit(rows, columns, 1, w=np.sqrt(image[rows, columns]))
        assert found.item() == pytest.approx(slope, abs=1e-4)


def test_equals_torchvisions_shear(mnist: tuple[Digits, Digits]) -> None:
    images = mnist[0].images[:100].float()
    for image, lean, result in zip(images, slant(images), Deslant()(images), strict=True):
        angle = math.degrees(math.atan(lean.item()))
        expected = affine(image, 0, [0, 0], 1, [angle, 0], InterpolationMode.BILINEAR)
        assert torch.allclose(result, expected, atol=0.1)  # of 255


@pytest.mark.parametrize("lean", [-1, 0, 1])
def test_a_bar_that_leans_stands_up(lean: int) -> None:
    image = torch.zeros(1, 1, 28, 40)
    for row in range(4, 24):
        image[0, 0, row, 20 + lean * (row - 14) // 2] = 255
    assert slant(image).item() == pytest.approx(lean / 2, abs=0.01)
    upright = Deslant()(image)
    assert slant(upright).item() == pytest.approx(0, abs=0.01)
    assert upright[..., 18:22].sum() > 0.99 * upright.sum()


def test_digits_stand_upright_afterwards(mnist: tuple[Digits, Digits]) -> None:
    images = mnist[0].images[:1000].float()
    assert slant(images).abs().mean() > 0.2
    assert slant(Deslant()(images)).abs().mean() < 0.01


def test_an_image_is_preprocessed_for_itself(mnist: tuple[Digits, Digits]) -> None:
    images = mnist[0].images[:64].float()
    alone = torch.cat([Deslant()(image.unsqueeze(0)) for image in images])
    assert torch.allclose(Deslant()(images), alone, atol=0.01)


def test_without_a_slant_to_see_an_image_stays_as_it_is() -> None:
    images = torch.zeros(2, 1, 28, 28)
    images[1, 0, 3, 5:9] = 200  # in one row
    assert torch.equal(slant(images), torch.zeros(2))
    assert torch.allclose(Deslant()(images), images, atol=1e-3)
