"""Model 2: shrink the network below 8,000 parameters.

Target: fewer than 8,000 parameters, with a receptive field that covers the whole digit.
Change: narrow layers without biases, a 1x1 convolution before the pooling, and average pooling at
    the end.
Expect: the accuracy falls, but the small network still learns.
Analysis: small enough, and it learns, though on most seeds only after an epoch or two at the level
    of chance. Train and test accuracy then rise together to the end, far below the target and at
    another height for each seed: the network is not too small for more, it is slow to train.
    Next: batch normalisation.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu
from torch.optim import SGD

from mnist_exp.recipe import Recipe


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, bias=False)  # 28 -> 26
        self.conv2 = nn.Conv2d(8, 16, 3, bias=False)  # 26 -> 24
        self.conv3 = nn.Conv2d(16, 8, 1, bias=False)  # 24 -> 24
        self.maxpool = nn.MaxPool2d(2)  # 24 -> 12
        self.conv4 = nn.Conv2d(8, 16, 3, bias=False)  # 12 -> 10
        self.conv5 = nn.Conv2d(16, 8, 3, bias=False)  # 10 -> 8
        self.conv6 = nn.Conv2d(8, 16, 3, bias=False)  # 8 -> 6
        self.conv7 = nn.Conv2d(16, 16, 3, bias=False)  # 6 -> 4
        self.avgpool = nn.AvgPool2d(4, stride=1)  # 4 -> 1
        self.conv8 = nn.Conv2d(16, 10, 1, bias=False)  # 1 -> 1

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.conv1(x))
        x = relu(self.conv2(x))
        x = relu(self.conv3(x))
        x = self.maxpool(x)
        x = relu(self.conv4(x))
        x = relu(self.conv5(x))
        x = relu(self.conv6(x))
        x = relu(self.conv7(x))
        x = self.avgpool(x)
        x = self.conv8(x)
        return x.flatten(1)


RECIPE = Recipe(
    network=Network,
    batch_size=128,
    epochs=15,
    optimizer=partial(SGD, lr=0.01, momentum=0.9),
)
