"""Model 703: candidate 20-d20x3-P-d20x3-G dil=1 fdf=0.2 decay=0.998, deslanted.

Target: a candidate, to be chosen from on the validation split.
Change: 20-d20x3-P-d20x3-G.
Expect: to be seen.
Analysis: see the report.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from mnist_exp.augment import RandomAffine
from mnist_exp.preprocess import Deslant
from mnist_exp.recipe import ExponentialAverage, Recipe


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 3, bias=False)  # 28 -> 26
        self.norm1 = nn.BatchNorm2d(20)
        self.depth2 = nn.Conv2d(20, 20, 3, groups=20, bias=False)  # 26 -> 24
        self.point2 = nn.Conv2d(20, 20, 1, bias=False)  # 24 -> 24
        self.norm2 = nn.BatchNorm2d(20)
        self.norm3 = nn.BatchNorm2d(20)
        self.norm4 = nn.BatchNorm2d(20)
        self.maxpool = nn.MaxPool2d(2, stride=1)  # 20 -> 19
        self.depth5 = nn.Conv2d(20, 20, 3, dilation=2, groups=20, bias=False)  # 19 -> 15
        self.point5 = nn.Conv2d(20, 20, 1, bias=False)  # 15 -> 15
        self.norm5 = nn.BatchNorm2d(20)
        self.norm6 = nn.BatchNorm2d(20)
        self.norm7 = nn.BatchNorm2d(20)
        self.avgpool = nn.AvgPool2d(7)  # 7 -> 1
        self.conv8 = nn.Conv2d(20, 10, 1, bias=False)  # 1 -> 1

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
    augment=RandomAffine(degrees=8, scale=0.1, shift=0.04),
    preprocess=Deslant(),
    averaging=ExponentialAverage(decay=0.998, every=5),
)
