"""Model 40: see each digit four times in a step.

Target: a small network that has seen enough after 15 epochs.
Change: a step takes four copies of each of its 16 digits, and each is varied for itself.
Expect: what four times the epochs bring, in as much time as they take.
Analysis: (written after the runs: what was seen, what it suggests next)
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from mnist_exp.augment import RandomAffine, Repeat
from mnist_exp.recipe import ExponentialAverage, Recipe


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 3, bias=False)  # 28 -> 26
        self.norm1 = nn.BatchNorm2d(10)
        self.conv2 = nn.Conv2d(10, 12, 3, bias=False)  # 26 -> 24
        self.norm2 = nn.BatchNorm2d(12)
        self.maxpool = nn.MaxPool2d(2)  # 24 -> 12
        self.conv3 = nn.Conv2d(12, 12, 3, bias=False)  # 12 -> 10
        self.norm3 = nn.BatchNorm2d(12)
        self.conv4 = nn.Conv2d(12, 14, 3, bias=False)  # 10 -> 8
        self.norm4 = nn.BatchNorm2d(14)
        self.conv5 = nn.Conv2d(14, 14, 3, bias=False)  # 8 -> 6
        self.norm5 = nn.BatchNorm2d(14)
        self.conv6 = nn.Conv2d(14, 14, 3, bias=False)  # 6 -> 4
        self.norm6 = nn.BatchNorm2d(14)
        self.avgpool = nn.AvgPool2d(4, stride=1)  # 4 -> 1
        self.conv7 = nn.Conv2d(14, 10, 1, bias=False)  # 1 -> 1

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
    batch_size=16,
    epochs=15,
    optimizer=partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    batch_schedule=partial(OneCycleLR, max_lr=0.1, pct_start=0.2, final_div_factor=0.2),
    augment=[Repeat(4), RandomAffine(degrees=8, scale=0.1, shift=0.04)],
    averaging=ExponentialAverage(decay=0.998, every=5),
)
