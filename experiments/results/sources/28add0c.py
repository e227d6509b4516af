"""Model 814: candidate 28 channels, images stretched by up to 10 %, deslanted.

Target: a candidate, to be chosen from on the validation split.
Change: 28 channels, images stretched by up to 10 %, deslanted.
Expect: to be seen.
Analysis: see the report.
"""

import math
from dataclasses import dataclass
from functools import partial

from torch import Generator, Tensor, nn, rand, stack
from torch.nn.functional import affine_grid, grid_sample, relu
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from mnist_exp.preprocess import Deslant
from mnist_exp.recipe import ExponentialAverage, Recipe


@dataclass(frozen=True)
class Stretch:
    """RandomAffine, and wider or narrower by up to the fraction `stretch`, as much lower or higher."""

    degrees: float
    scale: float
    shift: float
    stretch: float

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        angles, scales, right, down, aspect = 2 * rand(5, len(images), generator=generator) - 1
        radians = angles * math.radians(self.degrees)
        scales, aspect = 1 + self.scale * scales, 1 + self.stretch * aspect
        x, y = 2 * self.shift * right, 2 * self.shift * down
        cos, sin = radians.cos() / scales, radians.sin() / scales
        back = [cos / aspect, -sin / aspect, (sin * y - cos * x) / aspect, sin * aspect, cos * aspect, (-sin * x - cos * y) * aspect]
        grid = affine_grid(stack(back, dim=1).view(-1, 2, 3), list(images.shape), align_corners=False)
        return grid_sample(images, grid, align_corners=False)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 28, 3, bias=False)  # 28 -> 26
        self.norm1 = nn.BatchNorm2d(28)
        self.depthwise2 = nn.Conv2d(28, 28, 3, groups=28, bias=False)  # 26 -> 24 -> 22 -> 20
        self.pointwise2 = nn.Conv2d(28, 28, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(28)
        self.norm3 = nn.BatchNorm2d(28)
        self.norm4 = nn.BatchNorm2d(28)
        self.maxpool = nn.MaxPool2d(2, stride=1)  # 20 -> 19
        # 19 -> 15 -> 11 -> 7
        self.depthwise5 = nn.Conv2d(28, 28, 3, dilation=2, groups=28, bias=False)
        self.pointwise5 = nn.Conv2d(28, 28, 1, bias=False)
        self.norm5 = nn.BatchNorm2d(28)
        self.norm6 = nn.BatchNorm2d(28)
        self.norm7 = nn.BatchNorm2d(28)
        self.avgpool = nn.AvgPool2d(7, stride=1)  # 7 -> 1
        self.conv8 = nn.Conv2d(28, 10, 1, bias=False)  # 1 -> 1

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm1(self.conv1(x)))
        x = relu(self.norm2(self.pointwise2(self.depthwise2(x))))
        x = relu(self.norm3(self.pointwise2(self.depthwise2(x))))
        x = relu(self.norm4(self.pointwise2(self.depthwise2(x))))
        x = self.maxpool(x)
        x = relu(self.norm5(self.pointwise5(self.depthwise5(x))))
        x = relu(self.norm6(self.pointwise5(self.depthwise5(x))))
        x = relu(self.norm7(self.pointwise5(self.depthwise5(x))))
        x = self.avgpool(x)
        x = self.conv8(x)
        return x.flatten(1)


RECIPE = Recipe(
    network=Network,
    batch_size=64,
    epochs=15,
    optimizer=partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    batch_schedule=partial(OneCycleLR, max_lr=0.1, pct_start=0.2, final_div_factor=0.2),
    augment=Stretch(degrees=8, scale=0.1, shift=0.04, stretch=0.1),
    preprocess=Deslant(),
    averaging=ExponentialAverage(decay=0.998, every=5),
)
