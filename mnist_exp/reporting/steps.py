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
    diff: tuple[tuple[str, str], ...] = ()
    """("plus" or "minus", line of code)."""

    @property
    def fence(self) -> str:
        """What encloses the diff in Markdown: longer than any backticks in it."""
        runs = re.findall("`+", "".join(line for _, line in self.diff))
        return "`" * max(3, 1 + max(map(len, runs), default=0))


def steps_of(comparison: Comparison, layout: Layout) -> tuple[Step, ...]:
    """Each iteration with its effect and, in a chain, with what it changed."""
    by_model = {effect.model: effect for effect in layout.effects(comparison)}
    steps = []
    for number, iteration in comparison.iterations.items():
        effect = by_model.get(number)
        if effect is None or layout.side_by_side:  # the first of a chain has none before it
            steps.append(Step(iteration, effect))
        else:
            before = comparison.iterations[effect.baseline]
            steps.append(Step(iteration, effect, changed_lines(before, iteration)))
    return tuple(steps)
