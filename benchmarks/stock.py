"""What people use today, in its best form: torchvision's MNIST with transforms of single images,
behind a DataLoader, and a plain loop."""

import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from mnist_exp.augment import RandomRotation
from mnist_exp.data import obtain
from mnist_exp.data.digits import MEAN, STANDARD_DEVIATION
from mnist_exp.recipe import Recipe

CPU = torch.device("cpu")
EVALUATION_BATCH = 1000
ENVIRONMENT = {"GOMP_SPINCOUNT": "300000"}
"""OpenMP's own default, for a process that has this project's setting."""


def mnist(
    of_training: transforms.Compose, of_evaluation: transforms.Compose
) -> tuple[MNIST, MNIST]:
    """torchvision's MNIST, the training and the test digits, with their transforms."""
    with tempfile.TemporaryDirectory() as folder:  # MNIST reads all of it at once
        raw = Path(folder) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name, content in obtain.obtain(obtain.default_folder()).items():
            (raw / name).write_bytes(content)
        train = MNIST(folder, transform=of_training)
        return train, MNIST(folder, train=False, transform=of_evaluation)


class Stock:
    """A recipe in training on MNIST; `workers` processes of their own prepare the images."""

    def __init__(
        self, recipe: Recipe, *, workers: int, seed: int = 1, device: torch.device = CPU
    ) -> None:
        torch.manual_seed(seed)
        self.device = device
        self.network = recipe.network().to(device)
        self.optimizer = recipe.optimizer(self.network.parameters())
        self.schedule = recipe.schedule(self.optimizer) if recipe.schedule else None
        plain = [
            transforms.ToTensor(), transforms.Normalize((MEAN,), (STANDARD_DEVIATION,)),
        ]  # fmt: skip
        augmented = list(plain)
        if recipe.augment:
            assert isinstance(recipe.augment, RandomRotation)
            augmented.insert(0, transforms.RandomRotation(recipe.augment.degrees))
        train, test = mnist(transforms.Compose(augmented), transforms.Compose(plain))
        self.train = DataLoader(
            train, recipe.batch_size, shuffle=True, num_workers=workers,
            persistent_workers=workers > 0,
        )  # fmt: skip
        self.test = DataLoader(
            test, EVALUATION_BATCH, num_workers=workers, persistent_workers=workers > 0
        )

    def epoch(self, batches: int | None = None) -> float:
        """Train one epoch and evaluate, or train only so many batches; returns the seconds."""
        start = time.perf_counter()
        self.network.train()
        correct = 0
        for number, (images, labels) in enumerate(self.train, start=1):
            images, labels = images.to(self.device), labels.to(self.device)
            output = self.network(images)
            loss = F.cross_entropy(output, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()  # which a plain loop shows, as the train accuracy
            correct += _correct(output, labels)
            if number == batches:
                return time.perf_counter() - start
        self.evaluate()
        if self.schedule:
            self.schedule.step()
        return time.perf_counter() - start

    @torch.inference_mode()
    def evaluate(self) -> int:
        """Test digits that are classified rightly."""
        self.network.eval()
        return sum(
            _correct(self.network(images.to(self.device)), labels.to(self.device))
            for images, labels in self.test
        )


def _correct(output: Tensor, labels: Tensor) -> int:
    return int((output.argmax(dim=1) == labels).sum())
