"""Model 19: fewer than 2,500 parameters.

Target: as many of ten seeds as fewer than 2,500 parameters allow.
Change: 24 channels in place of 28, the most that fit. Chosen on the validation split, where 20 were
    well below the bar and these just below it.
Expect: at the bar: above it on some seeds.
Analysis: three of ten seeds hold the bar; the others are a little below it in some or all of the
    last five epochs. It fits the training digits as well as model 15 did, which did better on the
    test digits: upright digits are easier to fit, and no easier to generalise from. The seed that
    models 17 and 18 failed is among the best here, so no seed is unlucky as such. Bent images,
    tried on the validation split afterwards, gained nothing. Next: something else that generalises
    better.
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
        self.conv1 = nn.Conv2d(1, 24, 3, bias=False)  # 28 -> 26
        self.norm1 = nn.BatchNorm2d(24)
        self.depthwise2 = nn.Conv2d(24, 24, 3, groups=24, bias=False)  # 26 -> 24 -> 22 -> 20
        self.pointwise2 = nn.Conv2d(24, 24, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(24)
        self.norm3 = nn.BatchNorm2d(24)
        self.norm4 = nn.BatchNorm2d(24)
        self.maxpool = nn.MaxPool2d(2, stride=1)  # 20 -> 19
        # 19 -> 15 -> 11 -> 7
        self.depthwise5 = nn.Conv2d(24, 24, 3, dilation=2, groups=24, bias=False)
        self.pointwise5 = nn.Conv2d(24, 24, 1, bias=False)
        self.norm5 = nn.BatchNorm2d(24)
        self.norm6 = nn.BatchNorm2d(24)
        self.norm7 = nn.BatchNorm2d(24)
        self.avgpool = nn.AvgPool2d(7, stride=1)  # 7 -> 1
        self.conv8 = nn.Conv2d(24, 10, 1, bias=False)  # 1 -> 1

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
    augment=RandomAffine(degrees=8, scale=0.1, shift=0.04),
    preprocess=Deslant(),
    averaging=ExponentialAverage(decay=0.998, every=5),
)
