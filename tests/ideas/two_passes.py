"""Model 40: agree with oneself.

Target: a smaller gap between train and test accuracy than model 6 has.
Change: each batch goes through the network twice, with other activations dropped. The loss asks
    that both outputs are right, and that they are alike.
Expect: epochs that take nearly twice as long, a lower train accuracy, and a higher test accuracy.
Analysis: (written after the runs: what was seen, what it suggests next)
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, relu
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

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


class TwoPasses(Recipe):
    """After Liang et al. (2021), R-Drop: `likeness` is how much it counts that two passes agree."""

    likeness: float

    def step(
        self, network: nn.Module, images: Tensor, labels: Tensor, teacher_output: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        first, second = network(images), network(images)
        right = (cross_entropy(first, labels) + cross_entropy(second, labels)) / 2
        return right + self.likeness * difference(first, second), first


def difference(first: Tensor, second: Tensor) -> Tensor:
    """The mean of both Kullback-Leibler divergences, in nats."""
    logs = first.log_softmax(dim=1), second.log_softmax(dim=1)
    there, back = (
        kl_div(one, other, reduction="batchmean", log_target=True)
        for one, other in (logs, reversed(logs))
    )
    return (there + back) / 2


RECIPE = TwoPasses(
    network=Network,
    batch_size=128,
    epochs=15,
    likeness=1.0,
    optimizer=partial(SGD, lr=0.01, momentum=0.9),
    schedule=partial(StepLR, step_size=6, gamma=0.1),
    augment=RandomRotation(degrees=7),
)
