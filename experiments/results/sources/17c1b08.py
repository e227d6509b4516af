"""Model 620: candidate 8-8-P-8-10-10-10-G dil=1 fdf=0.2 decay=0.998, label smoothing 0.1.

Target: a candidate, to be chosen from on the validation split.
Change: 8-8-P-8-10-10-10-G.
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
        self.conv1 = nn.Conv2d(1, 8, 3, bias=False)  # 28 -> 26
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, bias=False)  # 26 -> 24
        self.norm2 = nn.BatchNorm2d(8)
        self.maxpool = nn.MaxPool2d(2, stride=1)  # 24 -> 23
        self.conv3 = nn.Conv2d(8, 8, 3, dilation=2, bias=False)  # 23 -> 19
        self.norm3 = nn.BatchNorm2d(8)
        self.conv4 = nn.Conv2d(8, 10, 3, dilation=2, bias=False)  # 19 -> 15
        self.norm4 = nn.BatchNorm2d(10)
        self.conv5 = nn.Conv2d(10, 10, 3, dilation=2, bias=False)  # 15 -> 11
        self.norm5 = nn.BatchNorm2d(10)
        self.conv6 = nn.Conv2d(10, 10, 3, dilation=2, bias=False)  # 11 -> 7
        self.norm6 = nn.BatchNorm2d(10)
        self.avgpool = nn.AvgPool2d(7)  # 7 -> 1
        self.conv7 = nn.Conv2d(10, 10, 1, bias=False)  # 1 -> 1

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
    epochs=15,
    optimizer=partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.0001),
    batch_schedule=partial(OneCycleLR, max_lr=0.1, pct_start=0.2, final_div_factor=0.2),
    augment=RandomAffine(degrees=8, scale=0.1, shift=0.04),
    averaging=ExponentialAverage(decay=0.998, every=5),
)
