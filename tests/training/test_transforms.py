"""What augmentation and preprocessing make of images, whoever wrote them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms as v1
from torchvision.transforms import v2

from mnist_exp.augment import RandomAffine, RandomRotation
from mnist_exp.data import Digits
from mnist_exp.training import seeding
from mnist_exp.training.transforms import augmented, classes, mixes, preprocessed

Mnist = tuple[Digits, Digits]
BAR = torch.zeros(1, 28, 28)
BAR[:, 4:24, 12:16] = 200.0


def of_epoch(augment: Any, images: Tensor, *, epoch: int = 1) -> Tensor:
    """Images as an epoch of seed 1 augments them."""
    labels = torch.arange(len(images)) % 10
    made, kept = augmented(augment, images.clone(), labels, seeding.seed_epoch(1, epoch))
    assert torch.equal(kept, labels)
    return made


class Drawing(nn.Module):
    """Names what it takes in its forward, as modules do."""

    def forward(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Any:
        return images * torch.rand(len(images), 1, 1, 1, generator=generator), labels


DRAWN = {
    "ours": RandomRotation(degrees=30),
    "rotation": v2.RandomRotation(30),
    "of the first version": v1.RandomRotation(30),
    "erasing": v2.RandomErasing(p=1.0),
    "composed": v2.Compose([v2.RandomAffine(20), v2.ElasticTransform(alpha=20.0)]),
    "composed by torch": nn.Sequential(v2.RandomErasing(p=1.0), v2.RandomAffine(20)),
    "a module": Drawing(),
    "several": [RandomAffine(degrees=20, scale=0.1, shift=0.1), v2.RandomErasing(p=1.0)],
    "a function": lambda images, generator: (
        images * torch.rand(len(images), 1, 1, 1, generator=generator)
    ),
    "a function of global states": lambda images: images * torch.rand(len(images), 1, 1, 1),
}


@pytest.mark.parametrize("augment", DRAWN.values(), ids=list(DRAWN))
def test_each_image_of_each_epoch_is_drawn_for_itself_and_from_the_seed(augment: Any) -> None:
    same = BAR.expand(4, 1, 28, 28)
    made = of_epoch(augment, same)
    assert made.shape == same.shape
    assert made.dtype == torch.float32
    assert type(made) is Tensor
    assert len({image.numpy().tobytes() for image in made}) == 4
    assert torch.equal(of_epoch(augment, same), made)
    assert not torch.equal(of_epoch(augment, same, epoch=2), made)


def test_torchvision_sees_pixels_of_0_to_1() -> None:
    white = torch.full((1, 1, 28, 28), 255.0)
    assert torch.equal(of_epoch(v2.RandomInvert(p=1.0), white), torch.zeros_like(white))
    grey = of_epoch(v2.RandomErasing(p=1.0, value=0.2), white)
    assert sorted(set(grey.flatten().tolist())) == pytest.approx([51.0, 255.0])


def test_the_parts_follow_each_other() -> None:
    half = preprocessed([lambda x: x / 2, lambda x: x + 1], torch.full((1, 1, 2, 2), 8.0))
    assert torch.equal(half, torch.full((1, 1, 2, 2), 5.0))
    composed = preprocessed(v2.Compose([v2.Pad(1), v2.Grayscale(3)]), torch.zeros(2, 1, 28, 28))
    assert composed.shape == (2, 3, 30, 30)


@pytest.mark.parametrize(
    "mixing",
    [
        v2.MixUp(num_classes=10),
        v2.RandomChoice([v2.MixUp(num_classes=10)]),
        v2.RandomApply([v2.RandomChoice([v2.MixUp(num_classes=10)])], p=1.0),
    ],
)
def test_a_mixture_has_the_label_of_its_shares(mixing: Any) -> None:
    # Pixels of 100 are a 3 and pixels of 200 a 7, so a pixel says how much of each is in it.
    images = torch.tensor([100.0, 200.0]).view(2, 1, 1, 1).expand(2, 1, 28, 28)
    mixed, labels = augmented(mixing, images, torch.tensor([3, 7]), seeding.seed_epoch(1, 1))
    assert labels.shape == (2, 10)
    for image, label in zip(mixed, labels, strict=True):
        share = (image.mean().item() - 100) / 100
        assert label[7].item() == pytest.approx(share, abs=1e-5)
        assert label[3].item() == pytest.approx(1 - share, abs=1e-5)
        assert 0.001 < share < 0.999


def test_a_cut_out_rectangle_counts_by_its_area() -> None:
    images = torch.tensor([0.0, 255.0]).view(2, 1, 1, 1).expand(2, 1, 28, 28)
    cut, labels = augmented(
        v2.CutMix(num_classes=10), images, torch.tensor([3, 7]), seeding.seed_epoch(1, 4)
    )
    assert labels[0, 7].item() == pytest.approx(cut[0].mean().item() / 255, abs=1e-5)


def test_a_function_may_change_the_labels() -> None:
    def smooth(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images, 0.5 * torch.nn.functional.one_hot(labels, 10) + 0.05

    assert mixes(smooth)
    _, labels = augmented(smooth, torch.zeros(1, 1, 28, 28), torch.tensor([4]), torch.Generator())
    assert labels[0, 4].item() == pytest.approx(0.55)
    assert math.isclose(labels.sum().item(), 1.0, rel_tol=1e-6)


def brighten(images: Tensor) -> Tensor:
    """In place, as some write it."""
    images += 1
    return images


@pytest.mark.parametrize(
    "augment", [brighten, v2.RandomErasing(p=1.0, inplace=True), v2.GaussianNoise()],
    ids=["in place", "erasing in place", "noise"],
)  # fmt: skip
def test_what_changes_images_in_place_leaves_the_digits_as_they_are(
    mnist: Mnist, augment: Any
) -> None:
    digits = mnist[0][:50]
    before = digits.images.clone()
    made, _ = augmented(augment, digits.images.float(), digits.labels, torch.Generator())
    assert not torch.equal(made, before.float())
    assert torch.equal(digits.images, before)


def test_a_mixed_digit_is_of_the_class_with_the_greatest_share() -> None:
    shares = torch.eye(10)[[3, 7]] * 0.6 + torch.eye(10)[[5, 0]] * 0.4
    assert classes(shares).tolist() == [3, 7]
    assert classes(torch.tensor([4, 2])).tolist() == [4, 2]
