"""Iterations that are written for a test: a network, and a recipe around it."""

from mnist_exp.notebook import entries
from mnist_exp.notebook.entries import Entry

NUMBER = 30
HEAD = '''"""Model 30: written for a test.

Target: a known answer.
Change: one thing.
Expect: that answer.
Analysis: none.
"""

import itertools
import random
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import *
from torchvision.transforms import ToTensor, v2

from mnist_exp.augment import RandomRotation, Repeat
from mnist_exp.preprocess import Deslant
from mnist_exp.recipe import ExponentialAverage, Recipe
from mnist_exp.views import Rotations


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 10, 3)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).relu()).mean((2, 3))


'''
PARAMETERS_OF_BASE = (9 + 1) * 8 + 2 * 8 + (8 * 9 + 1) * 10


def network(made: str = "pass", forward: str = "return super().forward(x)") -> str:
    """The source of a class Network(Base): statements of its __init__, and those of its forward."""
    init, body = (
        "\n".join(f"        {line}" for line in part.splitlines()) for part in (made, forward)
    )
    return (
        "class Network(Base):\n"
        f"    def __init__(self):\n        super().__init__()\n{init}\n\n"
        f"    def forward(self, x):\n{body}\n\n\n"
    )


def written(source: str = "", **fields: object) -> Entry:
    """Iteration 30 with this source before its recipe, whose fields are given as source."""
    named = {
        "network": "Network" if "class Network" in source else "Base",
        "optimizer": "partial(SGD, lr=0.05, momentum=0.9)",
        "batch_size": 64,
        "epochs": 2,
    } | fields  # fmt: skip
    recipe = "\n".join(f"    {name}={value}," for name, value in named.items())
    return entries.parse(f"{HEAD}{source}RECIPE = Recipe(\n{recipe}\n)\n", NUMBER)


def line(entry: Entry, text: str) -> int:
    """The number of the last line of an iteration that holds the text."""
    lines = entry.source.splitlines()
    return max(number for number, content in enumerate(lines, start=1) if text in content)
