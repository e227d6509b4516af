"""How a report is laid out: as a chain of steps, or side by side."""

from dataclasses import dataclass

from mnist_exp.evidence.comparison import Comparison
from mnist_exp.evidence.effect import Effect
from mnist_exp.evidence.verdict import Answer, Verdict
from mnist_exp.showing.tables import label


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a report is laid out.

    By default the iterations are a chain: each is compared with the one that it was made from, of
    which it shows the lines that changed. `side_by_side` they are of several people, none is made
    from another, and each is compared with the `baseline`, if there is one.
    """

    title: str = "MNIST iterations compared"
    side_by_side: bool = False
    baseline: int | None = None

    def labels(self, comparison: Comparison) -> dict[int, str]:
        """What figures and tables call each iteration."""
        return {
            number: label(number, entry.title) if self.side_by_side else f"model {number}"
            for number, entry in comparison.iterations.items()
        }

    def effects(self, comparison: Comparison) -> tuple[Effect, ...]:
        """What is compared with what."""
        if not self.side_by_side:
            return comparison.effects
        if self.baseline is None:
            return ()
        others = [number for number in comparison.iterations if number != self.baseline]
        return tuple(comparison.effect(number, self.baseline) for number in others)

    def judged(self, comparison: Comparison) -> tuple[Verdict, ...]:
        """The verdicts that it tells: none on the validation split and, side by side, none where no
        training is as long as the target asks."""
        verdicts = comparison.verdicts
        short = all(verdict.answer is Answer.TOO_FEW_EPOCHS for verdict in verdicts)
        return () if comparison.split != "test" or (self.side_by_side and short) else verdicts

    def headings(self, comparison: Comparison) -> dict[str, str]:
        """The question that each section answers, by its name, in their order."""
        judged = self.judged(comparison)
        headings = {
            "verdicts": "Which iterations meet the target, and on how many seeds?" if judged
            else "What did each reach?",
            "training": "How did they train?",
            "price": "How large is each?" if self.side_by_side else "What is the price?",
            "tried": "How much was tried?",
            "scripts": "What did own scripts do?",
            "steps": "What did each step do?",
            "forecasts": "What was foretold, and what came?",
            "course": "Does it reproduce the public course?",
            "fields": "What does each layer see?",
            "mistakes": "Where does the best run still fail?",
            "origin": "Where did it come from?",
        }  # fmt: skip
        if not comparison.forecasts:
            del headings["forecasts"]
        if self.side_by_side or not comparison.ideas:
            del headings["scripts"]
        if self.side_by_side or comparison.split != "test":
            del headings["course"]
        if self.side_by_side:
            del headings["tried"]
            headings["steps"] = "What is each?"
            if self.baseline is not None:
                headings["steps"] = f"How does each compare with model {self.baseline}?"
        return headings


CHAIN = Layout()
