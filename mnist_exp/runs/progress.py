"""How far a training is, and how long it will still take."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_exp.training.loop import EpochResult, Progress


@dataclass(frozen=True)
class Standing:
    """Where a training stands: in which `epoch` of `epochs` (0 where nobody knows); which share of
    it all is `done`; the `accuracy` (a fraction) on the held-out digits after the last whole epoch,
    and the seconds that are `left`, both NaN as long as nobody knows."""

    epoch: int
    epochs: int
    done: float
    accuracy: float = math.nan
    left: float = math.nan

    @property
    def place(self) -> str:
        """As in "3/15"."""
        return f"{self.epoch}/{self.epochs}" if self.epochs else f"{self.epoch}"


class Pace:
    """Follows a training of so many epochs, and says where it stands after a batch, but not again
    within `every` seconds."""

    def __init__(self, epochs: int, every: float) -> None:
        self.epochs, self.every = epochs, every
        self.accuracy = math.nan
        self.said = -math.inf
        self.first: tuple[float, float] | None = None  # a resumed training has some behind it

    def batch(self, progress: Progress) -> Standing | None:
        now = time.monotonic()
        done = (progress.epoch - 1 + progress.batch / progress.batches) / self.epochs
        self.first = self.first or (now, done)
        if now - self.said < self.every:
            return None
        self.said = now
        begun, before = self.first
        left = (now - begun) * (1 - done) / (done - before) if done > before else math.nan
        return Standing(progress.epoch, self.epochs, done, self.accuracy, left)

    def epoch(self, result: EpochResult) -> None:
        self.accuracy = result.evaluation.accuracy
