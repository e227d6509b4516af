"""What each iteration changed, and did, against the one it was made from."""

import re
from dataclasses import dataclass

from mnist_exp.evidence.comparison import Comparison, changed_lines
from mnist_exp.evidence.effect import Effect
from mnist_exp.notebook.entries import Entry
from mnist_exp.reporting.layout import Layout


@dataclass(frozen=True)
class Step:
    """An iteration, and what it changed and did against the one it was made from."""

    iteration: Entry
    effect: Effect | None = None
    """On the final accuracy."""
    on_worst: Effect | None = None
    """On the worst of the last epochs, which is what the target looks at; None where nothing is
    judged."""
    diff: tuple[tuple[str, str], ...] = ()
    """("plus" or "minus", line of code)."""

    @property
    def told_effect(self) -> str:
        """The effect in words; empty for what is compared with nothing."""
        if self.effect is None:
            return ""
        final = f"on the final accuracy {self.effect}" if self.effect.seeds else f"{self.effect}"
        told = self.on_worst is not None and self.on_worst.seeds
        worst = f"on the worst of the last epochs {self.on_worst}; " if told else ""
        return f"against model {self.effect.baseline}, {worst}{final}"

    @property
    def fence(self) -> str:
        """What encloses the diff in Markdown: longer than any backticks in it."""
        runs = re.findall("`+", "".join(line for _, line in self.diff))
        return "`" * max(3, 1 + max(map(len, runs), default=0))


def steps_of(comparison: Comparison, layout: Layout) -> tuple[Step, ...]:
    """Each iteration with its effect and, in a chain, with what it changed."""
    by_model = {effect.model: effect for effect in layout.effects(comparison)}
    judged = bool(layout.judged(comparison))
    steps = []
    for number, iteration in comparison.iterations.items():
        effect = by_model.get(number)
        if effect is None:  # the first of a chain has none before it
            steps.append(Step(iteration))
            continue
        on_worst = comparison.effect(number, effect.baseline, "worst_accuracy") if judged else None
        before = comparison.iterations[effect.baseline]
        diff = () if layout.side_by_side else changed_lines(before, iteration)
        steps.append(Step(iteration, effect, on_worst, diff))
    return tuple(steps)
