"""What came of the iterations, in sentences."""

from collections.abc import Sequence

from mnist_exp.common.words import counted, percent
from mnist_exp.data.splits import fold_in_words
from mnist_exp.evidence.verdict import Verdict
from mnist_exp.recipe import Target

MOST_NAMED = 8
"""Iterations that a sentence names one by one."""


def summary(verdicts: Sequence[Verdict], judged: Sequence[Verdict]) -> str:
    """What came of the iterations, as a sentence: how many of those that are judged meet the
    target."""
    if not verdicts:
        return "No run counts yet, so nothing is judged."
    if not judged:
        first = verdicts[0]
        digits = f"{first.split} digits{fold_in_words(first.fold)}"
        scored = f"{counted(len(verdicts), 'iteration')}, scored on the {digits}."
        if first.split != "test":
            return f"{scored} They serve to choose, and nothing is judged by them."
        last = counted(first.target.last_epochs, "epoch")
        return f"{scored} None is judged: the target looks at the last {last}, and all ran fewer."
    met = sum(verdict.met for verdict in judged)
    return (
        f"{met} of {counted(len(judged), 'iteration')} "
        f"meet{'s' if met == 1 else ''} the target on every seed that was run."
    )


def smallest(judged: Sequence[Verdict]) -> str:
    """Which meet the target, if they are few, which of them is the smallest, and which comes
    nearest of those that are smaller; or which comes nearest where none meets it. Empty where
    nothing is judged."""
    met = [verdict for verdict in judged if verdict.met]
    if not met:
        others = [verdict for verdict in judged if verdict.worst]
        return f"The nearest is {_nearest(others)}." if others else ""
    best = min(met, key=lambda verdict: (verdict.parameters, -_worst(verdict)))
    said = (
        f"{_named(met)}{best.name.lower()}, with {best.parameters:,} parameters: "
        f"{_seeds(best)}, the worst at {percent(_worst(best))}."
    )
    others = [v for v in judged if v.worst and v.parameters < best.parameters]
    return f"{said} Of the smaller ones, the nearest is {_nearest(others)}." if others else said


def _named(met: Sequence[Verdict]) -> str:
    """How the sentence on the smallest begins."""
    if len(met) == 1:
        return "It is "
    names = [v.name.lower().removeprefix("model ") for v in met]
    all_of_them = f"They are {', '.join(names[:-1])} and {names[-1]}. " * (len(met) <= MOST_NAMED)
    return f"{all_of_them}The smallest is "


def _nearest(verdicts: Sequence[Verdict]) -> str:
    near = max(verdicts, key=_worst)
    below = 100 * (near.target.test_accuracy - _worst(near))
    from_bar = f", {below:.2f} points below the bar" if below > 0 else ""
    return (
        f"{near.name.lower()}, with {near.parameters:,}: {_seeds(near)}, the worst at "
        f"{percent(_worst(near))}{from_bar}"
    )


def _worst(verdict: Verdict) -> float:
    return verdict.worst.accuracy if verdict.worst else 0.0


def _seeds(verdict: Verdict) -> str:
    return f"{verdict.passing} of {counted(len(verdict.seeds), 'seed')}"


def target_text(target: Target) -> str:
    """The target as a sentence without its full stop."""
    return (
        f"test accuracy of at least {percent(target.test_accuracy)} in every one of the last "
        f"{target.last_epochs} epochs, in at most {target.max_epochs} epochs, with fewer than "
        f"{target.parameters_below:,} parameters"
    )
