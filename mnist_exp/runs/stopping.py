"""A sweep that stops by the rate at which seeds pass: what they came to, asked after each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mnist_exp.evidence.sequential import PassRate, Settled
from mnist_exp.evidence.verdict import TARGET_MET, Verdict
from mnist_exp.runs.worker import JobResult


@dataclass
class Stopping:
    """How many seeds of each iteration of a sweep `passed` and `failed` so far, to be asked whether
    they pass at the `rate` (a fraction) or more often."""

    rate: float
    passed: dict[int, int] = field(default_factory=dict)
    failed: dict[int, int] = field(default_factory=dict)

    @classmethod
    def after(cls, rate: float, verdicts: Iterable[Verdict]) -> Stopping:
        """With what is in the store."""
        counts = {v.model: (v.passing, len(v.seeds)) for v in verdicts if v.model is not None}
        passed = {model: passing for model, (passing, _) in counts.items()}
        return cls(rate, passed, {model: n - passing for model, (passing, n) in counts.items()})

    def add(self, result: JobResult) -> None:
        """Count a training that has ended; one that came to nothing says nothing of the rate."""
        if not (result.failure or result.spared):
            counts = self.passed if result.verdict == TARGET_MET else self.failed
            counts[result.job.model] = counts.get(result.job.model, 0) + 1

    def asked(self, model: int) -> PassRate:
        return PassRate(self.rate, self.passed.get(model, 0), self.failed.get(model, 0))

    def settled(self, model: int) -> bool:
        return self.asked(model).answer is not Settled.GO_ON
