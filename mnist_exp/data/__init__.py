"""The canonical MNIST: obtained, proved by its checksums, held as tensors, given out in batches."""

from mnist_exp.data.digits import Digits, load, normalise
from mnist_exp.data.obtain import ORIGIN, SHA256
from mnist_exp.data.splits import Fold, Split

__all__ = ["ORIGIN", "SHA256", "Digits", "Fold", "Split", "load", "normalise"]
