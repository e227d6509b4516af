"""Model 40: lower the learning rate when it stops helping.

Target: a schedule that needs no number of epochs.
Change: the learning rate falls to a third when two epochs in a row have brought no lower loss on
    the validation digits, in place of after every 6 epochs. It is trained with SPLIT=validation: on
    the test split this would choose by the test digits.
Expect: a first fall after about ten epochs, and an accuracy like that of model 6.
Analysis: (written after the runs: what was seen, what it suggests next)
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mnist_exp.augment import RandomRotation
from mnist_exp.recipe import Recipe


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, bias=False)  # 28 -> 26
        self.conv2 = nn.Conv2d(8, 16, 3, bias=False)  # 26 -> 24
        self.norm2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 8, 1, bias=False)  # 24 -> 24
        self.maxpool = nn.MaxPool2d(2)  # 24 -> 12
        self.conv4 = nn.Conv2d(8, 16, 3, bias=False)  # 12 -> 10
        self.norm4 = nn.BatchNorm2d(16)
        self.conv5 = nn.Conv2d(16, 8, 3, bias=False)  # 10 -> 8
        self.norm5 = nn.BatchNorm2d(8)
        self.conv6 = nn.Conv2d(8, 16, 3, bias=False)  # 8 -> 6
        self.norm6 = nn.BatchNorm2d(16)
        self.conv7 = nn.Conv2d(16, 16, 3, bias=False)  # 6 -> 4
        self.norm7 = nn.BatchNorm2d(16)
        self.avgpool = nn.AvgPool2d(4, stride=1)  # 4 -> 1
        self.conv8 = nn.Conv2d(16, 10, 1, bias=False)  # 1 -> 1
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.conv1(x))
        x = self.dropout(self.norm2(relu(self.conv2(x))))
        x = self.conv3(x)
        x = self.maxpool(x)
        x = self.dropout(self.norm4(relu(self.conv4(x))))
        x = self.dropout(self.norm5(relu(self.conv5(x))))
        x = self.dropout(self.norm6(relu(self.conv6(x))))
        x = self.dropout(self.norm7(relu(self.conv7(x))))
        x = self.avgpool(x)
        x = self.conv8(x)
        return x.flatten(1)


RECIPE = Recipe(
    network=Network,
    batch_size=128,
    epochs=15,
    optimizer=partial(SGD, lr=0.01, momentum=0.9),
    schedule=partial(ReduceLROnPlateau, factor=1 / 3, patience=1),
    augment=RandomRotation(degrees=7),
)
