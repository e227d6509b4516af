"""The digits as tensors: split, normalised, given out in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.data import obtain, writers
from mnist_exp.data.obtain import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS
from mnist_exp.data.splits import LAST, Fold, Split, one_fold
from mnist_exp.engine import images as compiled

if TYPE_CHECKING:  # who asks for checksums need not wait for torch
    import torch
    from torch import Tensor

MEAN, STANDARD_DEVIATION = 0.1307, 0.3081
"""The mean and standard deviation of all training pixels, as fractions of 255."""
LAST_IMAGES = 10_000
"""The last so many training digits, by which people chose before there were folds."""


@dataclass(frozen=True)
class Digits:
    """Images, uint8 (N, 1, 28, 28), and their labels, int64 (N,), on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> Digits:
        return Digits(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> Digits:
        return Digits(self.images.to(device), self.labels.to(device))

    def sha256(self) -> str:
        """The SHA-256 of the images' bytes followed by the labels' (int64), hexadecimal."""
        content = hashlib.sha256()
        for part in (self.images, self.labels):
            content.update(part.cpu().contiguous().numpy().data)
        return content.hexdigest()

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Digits]:
        """All digits in batches of `size`, of which the last holds the rest: in their order, or
        shuffled by `generator` (CPU)."""
        import torch

        if generator is None:
            order = torch.arange(len(self), device=self.labels.device)
        else:
            order = torch.randperm(len(self), generator=generator).to(self.labels.device)
        for index in order.split(size):  # index_select takes a tenth of the time of self[index]
            yield Digits(*(each.index_select(0, index) for each in (self.images, self.labels)))


def load(
    split: Split = "test", fold: Fold | int | None = None, folder: Path | None = None
) -> tuple[Digits, Digits]:
    """The digits to train on and those to evaluate on, after checking every byte.

    `test`: the 60,000 training digits and the 10,000 test digits. `validation`: five folds of the
    training digits and the sixth, `fold` 1 to 6 (1 where it is left out), which share no writer; or
    with the fold "last" the first 50,000 and the last 10,000, which do. The test set stays closed.

    What is missing, truncated or altered in `folder` is fetched first (default: `default_folder`).
    Raises ExpectedError when that fails.
    """
    chosen = one_fold(split, fold)
    contents = obtain.obtain(folder or obtain.default_folder())
    train = _parse(contents[TRAIN_IMAGES], contents[TRAIN_LABELS])
    if chosen is None:
        return train, _parse(contents[TEST_IMAGES], contents[TEST_LABELS])
    if chosen == LAST:
        return train[:-LAST_IMAGES], train[-LAST_IMAGES:]
    import torch

    held_out = torch.from_numpy(writers.folds(train.labels.numpy()) == int(chosen))
    return train[~held_out], train[held_out]


def normalise(images: Tensor) -> Tensor:
    """Pixels 0..255, of any dtype and shape, as float32 with mean 0 and standard deviation 1."""
    images = images.float()
    if compiled.takes(images):
        return compiled.rescale(images, 1 / (255 * STANDARD_DEVIATION), -MEAN / STANDARD_DEVIATION)
    return (images / 255 - MEAN) / STANDARD_DEVIATION


def _parse(images: bytes, labels: bytes) -> Digits:
    import torch

    # Both files are verified, so their headers (16 and 8 bytes) are known.
    pixels = torch.frombuffer(bytearray(images), dtype=torch.uint8, offset=16)
    classes = torch.frombuffer(bytearray(labels), dtype=torch.uint8, offset=8)
    return Digits(pixels.view(-1, 1, 28, 28), classes.long())
