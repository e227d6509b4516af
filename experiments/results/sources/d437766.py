"""Model 721: candidate 28-d28x3-P-d28x3-G dil=1 fdf=0.2 decay=0.998, bent by 0.7 pixels at 5 points a side.

Target: a candidate, to be chosen from on the validation split.
Change: 28-d28x3-P-d28x3-G.
Expect: to be seen.
Analysis: see the report.
"""

from dataclasses import dataclass
from functools import partial

from torch import Generator, Tensor, nn, randn
from torch.nn.functional import affine_grid, grid_sample, interpolate, relu
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from mnist_exp.augment import RandomAffine
from mnist_exp.preprocess import Deslant
from mnist_exp.recipe import ExponentialAverage, Recipe


@dataclass(frozen=True)
class Bent:
    """A random affine map, and a smooth random displacement of `pixels` on average over it."""

    affine: RandomAffine
    pixels: float
    points: int

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        images = self.affine(images, generator)
        n, _, height, width = images.shape
        rough = randn(n, 2, self.points, self.points, generator=generator)
        field = interpolate(rough, (height, width), mode="bicubic", align_corners=True)
        unit = torch.eye(2, 3).expand(n, 2, 3)
        grid = affine_grid(unit, list(images.shape), align_corners=False)
        grid = grid + field.permute(0, 2, 3, 1) * (2 * self.pixels / width)
        return grid_sample(images, grid, align_corners=False)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 28, 3, bias=False)  # 28 -> 26
        self.norm1 = nn.BatchNorm2d(28)
        self.depth2 = nn.Conv2d(28, 28, 3, groups=28, bias=False)  # 26 -> 24
        self.point2 = nn.Conv2d(28, 28, 1, bias=False)  # 24 -> 24
        self.norm2 = nn.BatchNorm2d(28)
        self.norm3 = nn.BatchNorm2d(28)
        self.norm4 = nn.BatchNorm2d(28)
        self.maxpool = nn.MaxPool2d(2, stride=1)  # 20 -> 19
        self.depth5 = nn.Conv2d(28, 28, 3, dilation=2, groups=28, bias=False)  # 19 -> 15
        self.point5 = nn.Conv2d(28, 28, 1, bias=False)  # 15 -> 15
        self.norm5 = nn.BatchNorm2d(28)
        self.norm6 = nn.BatchNorm2d(28)
        self.norm7 = nn.BatchNorm2d(28)
        self.avgpool = nn.AvgPool2d(7)  # 7 -> 1
        self.conv8 = nn.Conv2d(28, 10, 1, bias=False)  # 1 -> 1

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm1(self.conv1(x)))
        x = relu(self.norm2(self.point2(self.depth2(x))))
        x = relu(self.norm3(self.point2(self.depth2(x))))
        x = relu(self.norm4(self.point2(self.depth2(x))))
        x = self.maxpool(x)
        x = relu(self.norm5(self.point5(self.depth5(x))))
        x = relu(self.norm6(self.point5(self.depth5(x))))
        x = relu(self.norm7(self.point5(self.depth5(x))))
        x = self.avgpool(x)
        x = self.conv8(x)
        return x.flatten(1)


RECIPE = Recipe(
    network=Network,
    batch_size=64,
    epochs=15,
    optimizer=partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.0001),
    batch_schedule=partial(OneCycleLR, max_lr=0.1, pct_start=0.2, final_div_factor=0.2),
    augment=Bent(RandomAffine(degrees=8, scale=0.1, shift=0.04), pixels=0.7, points=5),
    averaging=ExponentialAverage(decay=0.998, every=5),
)
