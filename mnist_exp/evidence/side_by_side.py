"""Any runs side by side, whether they count or not: how they differ, and by how much.

Runs that differ in nothing but their seeds, and in what they were trained on, are a group.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.data.splits import split_in_words
from mnist_exp.evidence import effect, scores
from mnist_exp.evidence.effect import Effect
from mnist_exp.notebook import loading
from mnist_exp.recipe import Target
from mnist_exp.tracking import names

CODE = ("code_sha256", "overrides", "teacher_sha256", names.TRACKED)
"""Tags by which recipes differ, beside their parameters."""
SURROUNDINGS = (
    *(name for name in names.SURROUNDINGS if name not in ("mlflow", "mnist-exp")),
    "training_sha256",
)
"""What else decides the numbers of a run, beside its seed."""

UNKNOWN = "not recorded"


@dataclass(frozen=True)
class SideBySide:
    """Runs on one split and fold, in the order in which they were named.

    Columns of `runs`: those of `tracking.find_runs` and `scores.scores`; `group`, the number of
    their group, from 0, in the order of the first run of each; and `exclusion`, why a run does not
    speak for its group and seed (an Exclusion, or None where it does).
    """

    target: Target
    runs: pd.DataFrame

    @property
    def split(self) -> str:
        return str(self.runs["split"].iloc[0])

    @property
    def fold(self) -> str | None:
        """Of the validation split: what was held out."""
        fold = self.runs["fold"].iloc[0]
        return None if pd.isna(fold) else str(fold)

    @cached_property
    def differences(self) -> pd.DataFrame:
        """The settings in which the runs differ, but for the seed, as texts: one row each, named by
        the index, and one column per group. That nothing is known of it is no difference to
        "none"."""
        recipe = self.runs.reindex(columns=[*_recipe(self.runs), *CODE]).astype(object)
        # What a script did not say of its training, it may have done.
        unsaid = recipe.isna().mul(recipe[names.TRACKED].notna(), axis=0)
        unsaid["model"] = False  # it has none
        recipe = _texts(recipe.mask(unsaid, UNKNOWN), "none")
        texts = recipe.join(_texts(self.runs.reindex(columns=SURROUNDINGS), UNKNOWN))
        said = texts.isin(["none", UNKNOWN]).sum() < len(texts)
        differing = texts.loc[:, said & (texts.nunique() > 1)]
        return differing.groupby(self.runs["group"]).agg(_each_once).T

    @cached_property
    def effects(self) -> tuple[Effect, ...]:
        """The effect of each other group against the first, by their numbers."""
        others = range(1, int(self.runs["group"].max()) + 1)
        return tuple(effect.effect(self.speaking, group, 0, by="group") for group in others)

    @property
    def speaking(self) -> pd.DataFrame:
        """The runs that speak for their groups: one of each and seed."""
        return self.runs[self.runs["exclusion"].isna()]


def compare_runs(run_ids: Collection[str]) -> SideBySide:
    """Put the runs with these ids, or with ids that begin so, side by side.

    Raises ExpectedError for an id of no run, and for runs on different splits or folds, whose
    numbers say nothing of each other.
    """
    runs = tracking.find_runs(run_ids)
    runs["split"] = runs["split"].fillna("unknown")
    first: Any = runs.drop_duplicates(["split", "fold"]).itertuples()
    named = [
        f"{run.short_id} ({split_in_words(run.split, None if pd.isna(run.fold) else run.fold)})"
        for run in first
    ]
    if len(named) > 1:
        raise ExpectedError(
            f"runs {' and '.join(named)} were scored on different digits, so that their numbers "
            "say nothing of each other: name runs of one split, which make runs lists"
        )
    target = loading.load_target()
    runs = runs.join(scores.scores(runs, tracking.history(runs["run_id"]), target))
    recipes = _texts(runs.reindex(columns=[*_recipe(runs), *CODE]), "none")
    runs["group"] = pd.factorize(recipes.agg(tuple, axis=1))[0]
    return SideBySide(target, runs.assign(exclusion=scores.exclusions_in_groups(runs)))


def _recipe(runs: pd.DataFrame) -> list[str]:
    """The columns that say what was trained: every parameter of the runs, but for the seed and what
    they were trained on."""
    others = {"seed", *names.SURROUNDINGS}
    return [name for name in map(str, runs) if name not in others and names.is_parameter(name)]


def _each_once(texts: pd.Series) -> str:
    return ", ".join(dict.fromkeys(texts))


def _texts(table: pd.DataFrame, absent: str) -> pd.DataFrame:
    """Values as texts. Where a run lacks a whole number, those of the others are floats."""

    def text(value: object) -> str:
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    return table.astype(object).where(table.notna(), absent).map(text)
