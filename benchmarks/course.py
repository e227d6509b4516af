"""The course's own code of models 3 and 6, written anew to the letter: nothing of it is from the
files of the iterations, nor from the package but the files of MNIST, byte for byte.

So it stands beside ours as a measure. What cannot be the same is where random numbers come from:
the course drew masks of dropout on a graphics card, and angles in four processes.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, Subset
from torchvision import transforms

from benchmarks.stock import mnist

EPOCHS = 15
BATCH = 128
PLAIN = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))],
)  # fmt: skip
ROTATED = transforms.Compose([transforms.RandomRotation((-7.0, 7.0), fill=(1,)), PLAIN])
"""What turns in at the corners has a grey value of 1 of 255."""


def accuracies(model: int, seed: int, epochs: int, digits: int = 60_000) -> Iterator[float]:
    """Train on MNIST's first digits; the test accuracy after each epoch, a fraction."""
    torch.manual_seed(seed)
    train, test = mnist(ROTATED if model == 6 else PLAIN, PLAIN)
    train_loader: Loader = DataLoader(Subset(train, range(digits)), batch_size=BATCH, shuffle=True)
    test_loader: Loader = DataLoader(test, batch_size=BATCH, shuffle=True)
    if model == 3:
        next(iter(train_loader))  # the notebook shows a batch
    NETWORKS[model](), torch.rand(2, 1, 28, 28)  # it sums up a network, and trains another
    network = NETWORKS[model]()
    optimizer, schedule = optimizing(model, network)
    for _ in range(epochs):
        _train(network, train_loader, optimizer)
        if schedule:
            schedule.step()
        yield _correct(network, test_loader) / len(test)


Loader = DataLoader[tuple[torch.Tensor, torch.Tensor]]


def optimizing(model: int, network: nn.Module) -> tuple[SGD, StepLR | None]:
    """What changes a network, and the learning rate."""
    optimizer = SGD(network.parameters(), lr=0.01, momentum=0.9)
    return optimizer, StepLR(optimizer, step_size=6, gamma=0.1) if model == 6 else None


def _train(network: nn.Module, loader: Loader, optimizer: SGD) -> None:
    """Train an epoch."""
    network.train()
    for images, labels in loader:
        optimizer.zero_grad()
        F.nll_loss(network(images), labels).backward()
        optimizer.step()


@torch.no_grad()
def _correct(network: nn.Module, loader: Loader) -> int:
    """Digits that are classified rightly."""
    network.eval()
    return sum(
        int((network(images).argmax(dim=1) == labels).sum()) for images, labels in loader
    )  # fmt: skip


def network_3() -> nn.Module:
    """Each convolution is normalised, then rectified."""

    def block(inputs: int, outputs: int, size: int = 3) -> list[nn.Module]:
        return [_conv(inputs, outputs, size), nn.BatchNorm2d(outputs), nn.ReLU()]

    first = [*block(1, 8), *block(8, 16), *block(16, 8, size=1)]
    return nn.Sequential(*first, nn.MaxPool2d(2, 2), *_second_half(block))


def network_6() -> nn.Module:
    """Convolutions are rectified, then normalised, then some of their numbers dropped; but for the
    first and the pointwise one."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [_conv(inputs, outputs), nn.ReLU(), nn.BatchNorm2d(outputs), nn.Dropout(0.1)]

    first = [_conv(1, 8), nn.ReLU(), *block(8, 16), _conv(16, 8, size=1)]
    return nn.Sequential(*first, nn.MaxPool2d(2, 2), *_second_half(block))


NETWORKS = {3: network_3, 6: network_6}


def _second_half(block: Callable[[int, int], list[nn.Module]]) -> list[nn.Module]:
    """From 12 x 12 pixels to logarithms of probabilities."""
    blocks = [*block(8, 16), *block(16, 8), *block(8, 16), *block(16, 16)]
    end = [nn.AvgPool2d(4), _conv(16, 10, size=1), nn.Flatten(), nn.LogSoftmax(dim=-1)]
    return [*blocks, *end]


def _conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, bias=False)
