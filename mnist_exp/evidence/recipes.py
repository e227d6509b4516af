"""What was tried of an iteration: how its recipe does with other values of its fields."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mnist_exp import tracking
from mnist_exp.data.splits import ALL
from mnist_exp.evidence import scores
from mnist_exp.evidence.effect import Effect, effect
from mnist_exp.evidence.pooling import pooled
from mnist_exp.notebook import loading


@dataclass(frozen=True)
class TriedRecipe:
    """How a recipe does with these `settings` (text): mean and standard deviation of the accuracy
    after the last epoch over the seeds, as fractions. `against_file` is the difference, paired by
    seed, to the recipe as its file has it: None where that was not tried, or where this is it."""

    settings: str
    seeds: tuple[int, ...]
    final_accuracy: float
    final_accuracy_std: float
    against_file: Effect | None


def tried_recipes(
    run_ids: Mapping[str, Collection[str]], as_in_file: str | None, fold: str | None = None
) -> tuple[TriedRecipe, ...]:
    """What comes of the runs with each of several settings of an iteration, best first; a seed has
    one run with each or, where the fold is ALL, one on each fold. `as_in_file` is the settings that
    are those of its file, if they are there."""
    place = {run_id: n for n, ids in enumerate(run_ids.values()) for run_id in ids}
    runs = tracking.runs()
    runs = runs[runs["run_id"].isin(list(place))].astype({"seed": int})
    history, target = tracking.history(runs["run_id"]), loading.load_target()
    runs = runs.assign(group=runs["run_id"].map(place))
    if fold == ALL:
        runs, _ = pooled(runs, history, target, "group")
    else:
        runs = runs.join(scores.scores(runs, history, target))
    own = next((n for n, settings in enumerate(run_ids) if settings == as_in_file), None)
    tried = []
    for number, settings in enumerate(run_ids):
        of_these = runs[runs["group"] == number]
        accuracy = of_these["final_accuracy"]
        if accuracy.notna().any():
            difference = (
                None if own is None or own == number else effect(runs, number, own, by="group")
            )
            seeds = tuple(sorted(of_these["seed"]))
            mean, std = float(accuracy.mean()), float(accuracy.std())
            tried.append(TriedRecipe(settings, seeds, mean, std, difference))
    return tuple(sorted(tried, key=lambda recipe: -recipe.final_accuracy))
