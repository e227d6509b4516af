"""Does what people choose by say what the test split says?

The validation split is there to choose by. How far it is off shows afterwards, where a recipe has
runs on both: in what it reaches, and in what it gains over the one that it was made from.
"""

from dataclasses import dataclass

import pandas as pd

from mnist_exp.data.splits import LAST
from mnist_exp.evidence import effect, scores
from mnist_exp.evidence.comparison import Comparison
from mnist_exp.evidence.effect import Effect


@dataclass(frozen=True)
class ScoreBeside:
    """What an iteration reaches on a fold of the validation split and on the test split: the mean
    final accuracies (fractions) over so many seeds."""

    model: int
    fold: str
    seeds: int
    accuracy: float
    test_seeds: int
    test_accuracy: float

    @property
    def above(self) -> float:
        """By how much it is better on the fold (a fraction)."""
        return self.accuracy - self.test_accuracy


@dataclass(frozen=True)
class EffectBeside:
    """What an iteration gains on a fold of the validation split, and on the test split."""

    fold: str
    chosen: Effect
    tested: Effect


def scores_beside(comparison: Comparison) -> tuple[ScoreBeside, ...]:
    """Of each iteration that counts on the test split, and each fold that its recipe was run on."""
    found = []
    tested = {verdict.model: verdict for verdict in comparison.verdicts}
    for fold, runs in _by_fold(comparison).items():
        for model, own in runs.groupby("model")["final_accuracy"]:
            number = int(str(model))
            if verdict := tested.get(number):
                seeds, test_seeds = len(own), len(verdict.seeds)
                accuracies = {"accuracy": own.mean(), "test_accuracy": verdict.final_accuracy}
                found.append(
                    ScoreBeside(number, fold, seeds=seeds, test_seeds=test_seeds, **accuracies)
                )
    return tuple(sorted(found, key=lambda one: (one.model, one.fold != LAST, one.fold)))


def effects_beside(comparison: Comparison) -> tuple[EffectBeside, ...]:
    """Of each iteration, against the one that it was made from, where both have seeds in common on
    the test split and on the fold."""
    found = []
    folds = _by_fold(comparison)
    for tested in comparison.effects:
        for fold, runs in folds.items():
            both = {tested.model, tested.baseline} <= set(runs["model"])
            if both and tested.seeds:
                chosen = effect.effect(runs, tested.model, tested.baseline)
                found.append(EffectBeside(fold, chosen, tested))
    return tuple(one for one in found if one.chosen.seeds)


def _by_fold(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """The runs that would count on each fold of the validation split, the last digits first; none
    where that is what is compared."""
    if comparison.split != "test":
        return {}
    hashes = {number: entry.code_sha256 for number, entry in comparison.iterations.items()}
    folds = sorted(set(comparison.validation_runs["fold"]), key=lambda fold: (fold != LAST, fold))
    return {
        fold: comparison.runs[
            scores.exclusions(comparison.runs, hashes, "validation", fold).isna()
        ]
        for fold in folds
    }  # fmt: skip
