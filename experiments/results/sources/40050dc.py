"""Model 406: candidate muon 0.2 32-d32x3-P-d32x3-G dil=1.

Target: a candidate, to be chosen from on the validation split.
Change: 32-d32x3-P-d32x3-G.
Expect: to be seen.
Analysis: see the report.
"""

from functools import partial

from torch import Tensor, nn, no_grad, zeros_like
from torch.nn.functional import relu
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from mnist_exp.augment import RandomAffine
from mnist_exp.recipe import ExponentialAverage, Recipe


class Muon(Optimizer):
    def __init__(self, params, lr, momentum, weight_decay):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
            for p in group["params"]:
                g = p.grad
                muon = p.ndim == 4 and p.shape[0] > 10 and (p.shape[1] > 1)
                if not muon:
                    g = g.add(p, alpha=decay)
                buffer = self.state[p].setdefault("momentum_buffer", zeros_like(p))
                buffer.mul_(momentum).add_(g)
                g = g.add(buffer, alpha=momentum)
                if muon:
                    m = g.flatten(1)
                    m = m / (m.norm() + 1e-7)
                    tall = m.shape[0] > m.shape[1]
                    m = m.T if tall else m
                    for _ in range(5):
                        a = m @ m.T
                        m = 3.4445 * m + (-4.7750 * a + 2.0315 * a @ a) @ m
                    m = m.T if tall else m
                    size = min(m.shape) ** 0.5
                    p.mul_(size / p.norm()).sub_(m.view_as(p), alpha=lr * 0.2)
                else:
                    p.sub_(g, alpha=lr)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, bias=False)  # 28 -> 26
        self.norm1 = nn.BatchNorm2d(32)
        self.depth2 = nn.Conv2d(32, 32, 3, groups=32, bias=False)  # 26 -> 24
        self.point2 = nn.Conv2d(32, 32, 1, bias=False)  # 24 -> 24
        self.norm2 = nn.BatchNorm2d(32)
        self.norm3 = nn.BatchNorm2d(32)
        self.norm4 = nn.BatchNorm2d(32)
        self.maxpool = nn.MaxPool2d(2, stride=1)  # 20 -> 19
        self.depth5 = nn.Conv2d(32, 32, 3, dilation=2, groups=32, bias=False)  # 19 -> 15
        self.point5 = nn.Conv2d(32, 32, 1, bias=False)  # 15 -> 15
        self.norm5 = nn.BatchNorm2d(32)
        self.norm6 = nn.BatchNorm2d(32)
        self.norm7 = nn.BatchNorm2d(32)
        self.avgpool = nn.AvgPool2d(7)  # 7 -> 1
        self.conv8 = nn.Conv2d(32, 10, 1, bias=False)  # 1 -> 1

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm1(self.conv1(x)))
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
    optimizer=partial(Muon, lr=0.1, momentum=0.9, weight_decay=0.0001),
    batch_schedule=partial(OneCycleLR, max_lr=0.1, pct_start=0.2),
    augment=RandomAffine(degrees=8, scale=0.1, shift=0.04),
    averaging=ExponentialAverage(decay=0.99, every=5),
)
