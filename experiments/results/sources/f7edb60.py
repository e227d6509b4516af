"""Model 430: candidate 16-24-P-32-48-48-64-G epochs=10 pct=0.1.

Target: a candidate, to be chosen from on the validation split.
Change: 16-24-P-32-48-48-64-G.
Expect: to be seen.
Analysis: see the report.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from mnist_exp.augment import RandomAffine
from mnist_exp.recipe import ExponentialAverage, Recipe


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, bias=False)  # 28 -> 26
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 24, 3, bias=False)  # 26 -> 24
        self.norm2 = nn.BatchNorm2d(24)
        self.maxpool = nn.MaxPool2d(2)  # 24 -> 12
        self.conv3 = nn.Conv2d(24, 32, 3, bias=False)  # 12 -> 10
        self.norm3 = nn.BatchNorm2d(32)
        self.conv4 = nn.Conv2d(32, 48, 3, bias=False)  # 10 -> 8
        self.norm4 = nn.BatchNorm2d(48)
        self.conv5 = nn.Conv2d(48, 48, 3, bias=False)  # 8 -> 6
        self.norm5 = nn.BatchNorm2d(48)
        self.conv6 = nn.Conv2d(48, 64, 3, bias=False)  # 6 -> 4
        self.norm6 = nn.BatchNorm2d(64)
        self.avgpool = nn.AvgPool2d(4)  # 4 -> 1
        self.conv7 = nn.Conv2d(64, 10, 1, bias=False)  # 1 -> 1

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm1(self.conv1(x)))
        x = relu(self.norm2(self.conv2(x)))
        x = self.maxpool(x)
        x = relu(self.norm3(self.conv3(x)))
        x = relu(self.norm4(self.conv4(x)))
        x = relu(self.norm5(self.conv5(x)))
        x = relu(self.norm6(self.conv6(x)))
        x = self.avgpool(x)
        x = self.conv7(x)
        return x.flatten(1)


RECIPE = Recipe(
    network=Network,
    batch_size=64,
    epochs=10,
    optimizer=partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.0001),
    batch_schedule=partial(OneCycleLR, max_lr=0.1, pct_start=0.1),
    augment=RandomAffine(degrees=8, scale=0.1, shift=0.04),
    averaging=ExponentialAverage(decay=0.99, every=5),
)
