"""Model 810: candidate 29 channels, batch norm without a scale, deslanted, augmentation falling to 0.3.

Target: a candidate, to be chosen from on the validation split.
Change: 29 channels, batch norm without a scale, deslanted, augmentation falling to 0.3.
Expect: to be seen.
Analysis: see the report.
"""

from dataclasses import dataclass
from functools import partial

from torch import Generator, Tensor, nn
from torch.nn.functional import relu
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from mnist_exp.augment import RandomAffine
from mnist_exp.preprocess import Deslant
from mnist_exp.recipe import ExponentialAverage, Recipe


def norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    layer.register_parameter("weight", None)
    return layer


@dataclass(frozen=True)
class Cooling:
    """A trial: less and less after the 5th of 15 epochs, to 0.3 at the end."""

    degrees: float
    scale: float
    shift: float
    least: float
    calls = [0]

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        self.calls[0] += 1
        done = self.calls[0] / (15 * 782)
        f = 1 - (1 - self.least) * min(1, max(0, (done - 1 / 3) * 1.5))
        return RandomAffine(self.degrees * f, self.scale * f, self.shift * f)(images, generator)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 29, 3, bias=False)  # 28 -> 26
        self.norm1 = norm(29)
        self.depthwise2 = nn.Conv2d(29, 29, 3, groups=29, bias=False)  # 26 -> 24 -> 22 -> 20
        self.pointwise2 = nn.Conv2d(29, 29, 1, bias=False)
        self.norm2 = norm(29)
        self.norm3 = norm(29)
        self.norm4 = norm(29)
        self.maxpool = nn.MaxPool2d(2, stride=1)  # 20 -> 19
        # 19 -> 15 -> 11 -> 7
        self.depthwise5 = nn.Conv2d(29, 29, 3, dilation=2, groups=29, bias=False)
        self.pointwise5 = nn.Conv2d(29, 29, 1, bias=False)
        self.norm5 = norm(29)
        self.norm6 = norm(29)
        self.norm7 = norm(29)
        self.avgpool = nn.AvgPool2d(7, stride=1)  # 7 -> 1
        self.conv8 = nn.Conv2d(29, 10, 1, bias=False)  # 1 -> 1

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
    augment=Cooling(degrees=8, scale=0.1, shift=0.04, least=0.3),
    preprocess=Deslant(),
    averaging=ExponentialAverage(decay=0.998, every=5),
)
