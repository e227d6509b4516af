"""The canonical MNIST: obtained, proved by its checksums, held as tensors, given out in batches."""

from mnist_exp.data.digits import Digits, Split, check_split, load, normalise
from mnist_exp.data.obtain import ORIGIN, SHA256

__all__ = ["ORIGIN", "SHA256", "Digits", "Split", "check_split", "load", "normalise"]
