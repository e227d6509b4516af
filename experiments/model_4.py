"""Model 4: add dropout.

Target: a network that does not fit the training set better than the test set.
Change: dropout of 0.1 after each of the ReLUs.
Expect: a lower train accuracy; the gap to the test accuracy closes or turns round.
Analysis: the gap is gone, but not as hoped: train accuracy fell below the test's, and test accuracy
    fell a little, too. A network this small is not regularised too little. Next: more varied
    images instead of more noise.
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
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, bias=False)  # 26 -> 24
        self.norm2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 8, 1, bias=False)  # 24 -> 24
        self.norm3 = nn.BatchNorm2d(8)
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
        x = self.dropout(relu(self.norm1(self.conv1(x))))
        x = self.dropout(relu(self.norm2(self.conv2(x))))
        x = self.dropout(relu(self.norm3(self.conv3(x))))
        x = self.maxpool(x)
        x = self.dropout(relu(self.norm4(self.conv4(x))))
        x = self.dropout(relu(self.norm5(self.conv5(x))))
        x = self.dropout(relu(self.norm6(self.conv6(x))))
        x = self.dropout(relu(self.norm7(self.conv7(x))))
        x = self.avgpool(x)
        x = self.conv8(x)
        return x.flatten(1)


RECIPE = Recipe(
    network=Network,
    batch_size=128,
    epochs=15,
    optimizer=partial(SGD, lr=0.01, momentum=0.9),
)
