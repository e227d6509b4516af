"""Model 1: get the set-up right.

Target: a pipeline that learns: data, network, training loop and evaluation fit together.
Change: a plain stack of 3x3 convolutions, far larger than it needs to be.
Expect: close to 100 % on the training set and about 99 % on the test set; far too many parameters.
Analysis: it learns from the first epoch on, and everything fits together. One seed only, since a
    run takes far longer than one of the others. It ends with the training set almost by heart, and
    the test accuracy about where it was after four epochs, near the level expected: with six
    million parameters the network is not too small for the target, it has learned digits and not
    how they vary. Next: shrink it.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu
from torch.optim import SGD

from mnist_exp.recipe import Recipe


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)  # 28 -> 28
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)  # 28 -> 28
        self.maxpool1 = nn.MaxPool2d(2)  # 28 -> 14
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1)  # 14 -> 14
        self.conv4 = nn.Conv2d(128, 256, 3, padding=1)  # 14 -> 14
        self.maxpool2 = nn.MaxPool2d(2)  # 14 -> 7
        self.conv5 = nn.Conv2d(256, 512, 3)  # 7 -> 5
        self.conv6 = nn.Conv2d(512, 1024, 3)  # 5 -> 3
        self.conv7 = nn.Conv2d(1024, 10, 3)  # 3 -> 1

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.conv1(x))
        x = relu(self.conv2(x))
        x = self.maxpool1(x)
        x = relu(self.conv3(x))
        x = relu(self.conv4(x))
        x = self.maxpool2(x)
        x = relu(self.conv5(x))
        x = relu(self.conv6(x))
        x = self.conv7(x)
        return x.flatten(1)


RECIPE = Recipe(
    network=Network,
    batch_size=128,
    epochs=15,
    optimizer=partial(SGD, lr=0.01, momentum=0.9),
)
