"""Model 701: candidate with deslanted digits, 28-d28x3-P-d28x3-G dil=1 fdf=0.2 decay=0.998.

Target: a candidate, to be chosen from on the validation split.
Change: digits without slant (see deslant).
Expect: to be seen.
Analysis: see the report.
"""

from functools import partial

from torch import Tensor, arange, nn, ones_like, stack, zeros_like
from torch.nn.functional import affine_grid, grid_sample, relu
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from mnist_exp.augment import RandomAffine
from mnist_exp.recipe import ExponentialAverage, Recipe


def deslant(x: Tensor) -> Tensor:
    """Shear each digit so that its ink has no slant."""
    ink = x * 0.3081 + 0.1307
    y = arange(28) - 13.5
    mass = ink.sum((1, 2, 3)).clamp(min=1)
    cx = (ink.sum(2) * y).sum((1, 2)) / mass
    cy = (ink.sum(3) * y).sum((1, 2)) / mass
    rows = y - cy.unsqueeze(1)
    columns = y - cx.unsqueeze(1)
    image = ink.squeeze(1)
    slant = (image * rows.unsqueeze(2) * columns.unsqueeze(1)).sum((1, 2)) / (image.sum(2) * rows**2).sum(1).clamp(min=1)
    one, zero = ones_like(slant), zeros_like(slant)
    theta = stack([one, slant, zero, zero, one, zero], 1).view(-1, 2, 3)
    ink = grid_sample(ink, affine_grid(theta, [len(x), 1, 28, 28], align_corners=False), align_corners=False)
    return (ink - 0.1307) / 0.3081


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 28, 3, bias=False)  # 28 -> 26
        self.norm1 = nn.BatchNorm2d(28)
        self.depth2 = nn.Conv2d(28, 28, 3, groups=28, bias=False)  # 26 -> 24
        self.point2 = nn.Conv2d(28, 28, 1, bias=False)  # 24 -> 24
        self.norm2 = nn.BatchNorm2d(28)
        self.norm3 = nn.BatchNorm2d(28)
        self.norm4 = nn.BatchNorm2d(28)
        self.maxpool = nn.MaxPool2d(2, stride=1)  # 20 -> 19
        self.depth5 = nn.Conv2d(28, 28, 3, dilation=2, groups=28, bias=False)  # 19 -> 15
        self.point5 = nn.Conv2d(28, 28, 1, bias=False)  # 15 -> 15
        self.norm5 = nn.BatchNorm2d(28)
        self.norm6 = nn.BatchNorm2d(28)
        self.norm7 = nn.BatchNorm2d(28)
        self.avgpool = nn.AvgPool2d(7)  # 7 -> 1
        self.conv8 = nn.Conv2d(28, 10, 1, bias=False)  # 1 -> 1

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm1(self.conv1(deslant(x))))
        x = relu(self.norm2(self.point2(self.depth2(x))))
        x = relu(self.norm3(self.point2(self.depth2(x))))
        x = relu(self.norm4(self.point2(self.depth2(x))))
        x = self.maxpool(x)
        x = relu(self.norm5(self.point5(self.depth5(x))))
        x = relu(self.norm6(self.point5(self.depth5(x))))
        x = relu(self.norm7(self.point5(self.depth5(x))))
        x = self.avgpool(x)
        x = self.conv8(x)
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
