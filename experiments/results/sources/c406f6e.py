"""Model 412: candidate muon 0.2 10-12-P-12-14-14-14-G epochs=10 pct=0.1.

Target: a candidate, to be chosen from on the validation split.
Change: 10-12-P-12-14-14-14-G.
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
        self.avgpool = nn.AvgPool2d(4)  # 4 -> 1
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
    batch_size=64,
    epochs=10,
    optimizer=partial(Muon, lr=0.1, momentum=0.9, weight_decay=0.0001),
    batch_schedule=partial(OneCycleLR, max_lr=0.1, pct_start=0.1),
    augment=RandomAffine(degrees=8, scale=0.1, shift=0.04),
    averaging=ExponentialAverage(decay=0.99, every=5),
)
