"""Model 710: the network of model 16, deslanted, in seven epochs.

Target: a candidate, to be chosen from on the validation split.
Change: model 16 with preprocess=Deslant() and epochs=7.
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
        self.conv1 = nn.Conv2d(1, 32, 3, bias=False)  # 28 -> 26
        self.norm1 = nn.BatchNorm2d(32)
        self.depthwise2 = nn.Conv2d(32, 32, 3, groups=32, bias=False)  # 26 -> 24 -> 22
        self.pointwise2 = nn.Conv2d(32, 32, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.norm3 = nn.BatchNorm2d(32)
        self.maxpool = nn.MaxPool2d(2, stride=1)  # 22 -> 21
        self.depthwise4 = nn.Conv2d(32, 32, 3, dilation=2, groups=32, bias=False)  # 21 -> 17
        self.pointwise4 = nn.Conv2d(32, 48, 1, bias=False)
        self.norm4 = nn.BatchNorm2d(48)
        # 17 -> 13 -> 9 -> 5
        self.depthwise5 = nn.Conv2d(48, 48, 3, dilation=2, groups=48, bias=False)
        self.pointwise5 = nn.Conv2d(48, 48, 1, bias=False)
        self.norm5 = nn.BatchNorm2d(48)
        self.norm6 = nn.BatchNorm2d(48)
        self.norm7 = nn.BatchNorm2d(48)
        self.avgpool = nn.AvgPool2d(5, stride=1)  # 5 -> 1
        self.conv8 = nn.Conv2d(48, 10, 1, bias=False)  # 1 -> 1

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm1(self.conv1(x)))
        x = relu(self.norm2(self.pointwise2(self.depthwise2(x))))
        x = relu(self.norm3(self.pointwise2(self.depthwise2(x))))
        x = self.maxpool(x)
        x = relu(self.norm4(self.pointwise4(self.depthwise4(x))))
        x = relu(self.norm5(self.pointwise5(self.depthwise5(x))))
        x = relu(self.norm6(self.pointwise5(self.depthwise5(x))))
        x = relu(self.norm7(self.pointwise5(self.depthwise5(x))))
        x = self.avgpool(x)
        x = self.conv8(x)
        return x.flatten(1)


RECIPE = Recipe(
    network=Network,
    batch_size=64,
    epochs=7,
    optimizer=partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    batch_schedule=partial(OneCycleLR, max_lr=0.1, pct_start=0.1, final_div_factor=0.2),
    augment=RandomAffine(degrees=8, scale=0.1, shift=0.04),
    preprocess=Deslant(),
    averaging=ExponentialAverage(decay=0.998, every=5),
)
