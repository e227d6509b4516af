"""What is said where a comparison lacks runs, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_exp.evidence.comparison import Comparison


def print_lacking(compared: Comparison) -> None:
    """Which seeds are left out of a comparison, since they lack a fold."""
    from mnist_exp.data.splits import split_as_set

    for number, lacking in compared.lacking.items():
        if number not in compared.uncounted:  # which says so
            split = split_as_set(compared.split, compared.fold)
            print(
                f"Model {number} is compared without {lacking}: "
                f"make sweep MODELS={number} SEEDS=..{split}"
            )


def why_uncounted(compared: Comparison, number: int | None = None) -> str:
    """Why nothing can be judged, and what to do about it."""
    from mnist_exp.data.splits import split_as_set
    from mnist_exp.evidence import comparison
    from mnist_exp.evidence.scores import Exclusion

    split, fold = compared.split, compared.fold
    if number is None:
        run = set(compared.uncounted) - set(compared.unrun)
        if not run:
            todo = comparison.to_run(6, split, fold)
            return f"the store holds only candidates that are not in the notebook: {todo}"
        number = min(run, key=lambda number: (not compared.other_folds(number), number))
    todo = ""
    chosen = compared.validation_runs
    folds = chosen.loc[chosen["model"] == number, "fold"]
    if split == "test" and not folds.empty:  # who chooses isn't sent to the test
        todo = f":{split_as_set('validation', folds.min())} compares the runs there"
    elif number in compared.iterations:
        todo = f": {comparison.to_run(number, split, fold)}"
        if others := compared.other_folds(number):
            todo += f", or compare{split_as_set(split, min(others))}"
    if Exclusion.OVERRIDDEN in compared.uncounted[number]:
        todo += '; make compare RUNS="3f2a 9c1d" compares any runs, and make runs lists their ids'
    return f"model {number}: {compared.uncounted[number]}{todo}"
