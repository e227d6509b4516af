"""The part of a report that says how far off was what people chose by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from mnist_exp.common.words import counted, percent, points
from mnist_exp.data.splits import LAST
from mnist_exp.evidence.choosing import EffectBeside, ScoreBeside, effects_beside, scores_beside
from mnist_exp.evidence.comparison import Comparison


@dataclass(frozen=True)
class ChoosingPart:
    """What the validation split said of iterations, beside what the test split says."""

    what: str
    """How far apart they are, in sentences."""
    scores: pd.DataFrame
    """Texts, one row per iteration and fold."""
    effects: pd.DataFrame
    """Texts, one row per difference of two iterations and fold."""


def choosing_of(comparison: Comparison, labels: Mapping[int, str]) -> ChoosingPart | None:
    """None where no recipe, as it stands, was run on both splits."""
    scores, effects = scores_beside(comparison), effects_beside(comparison)
    if not scores:
        return None
    names = {number: label.removeprefix("model ") for number, label in labels.items()}
    return ChoosingPart(
        _what(scores, effects),
        pd.DataFrame(
            {
                "model": names[one.model],
                "fold": one.fold,
                "seeds": str(one.seeds),
                "there": percent(one.accuracy),
                "test seeds": str(one.test_seeds),
                "test": percent(one.test_accuracy),
                "difference": points(one.above),
            }
            for one in scores
        ),
        pd.DataFrame(
            {
                "model": names[one.tested.model],
                "against": names[one.tested.baseline],
                "fold": one.fold,
                "there": str(one.chosen),
                "test": str(one.tested),
            }
            for one in effects
        ),
    )


def _what(scores: Sequence[ScoreBeside], effects: Sequence[EffectBeside]) -> str:
    sentences = []
    for fold in dict.fromkeys(one.fold for one in scores):
        where = "the last digits, whose writers are trained on, too"
        where = where if fold == LAST else f"fold {fold}, of writers of its own"
        above = [one.above for one in scores if one.fold == fold]
        said = f"{counted(len(above), 'recipe')} differed from the test digits by "
        said += f"{points(sum(above) / len(above))} points"
        if len(above) > 1:
            said += f" on average, from {points(min(above))} to {points(max(above))}"
        off = [abs(one.chosen.mean - one.tested.mean) for one in effects if one.fold == fold]
        if off:
            mean = 100 * sum(off) / len(off)
            said += f"; {counted(len(off), 'gain')} over another was off by {mean:.2f} points"
            said += " on average" * (len(off) > 1)
        sentences.append(f"On {where}, {said}.")
    return " ".join(sentences)
