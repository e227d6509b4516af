"""Model 40: train with AdamW, a warm-up and a cosine.

Target: the accuracy of model 6 in fewer epochs.
Change: AdamW in place of SGD. Its learning rate rises from a tenth over the first tenth of all
    steps, and then falls along half a cosine to nothing.
Expect: a steep first half, and last epochs that hardly differ.
Analysis: (written after the runs: what was seen, what it suggests next)
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

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


def warm_up_and_cosine(optimizer: Optimizer, total_steps: int) -> SequentialLR:
    first = max(1, total_steps // 10)
    warm_up = LinearLR(optimizer, start_factor=0.1, total_iters=first)
    cosine = CosineAnnealingLR(optimizer, T_max=total_steps - first)
    return SequentialLR(optimizer, [warm_up, cosine], milestones=[first])


RECIPE = Recipe(
    network=Network,
    batch_size=128,
    epochs=15,
    optimizer=partial(AdamW, lr=0.005, weight_decay=0.01),
    batch_schedule=warm_up_and_cosine,
    augment=RandomRotation(degrees=7),
)
