"""Whether an override changes anything, or something else of the recipe sets its field anew."""

import inspect
from functools import partial
from typing import Any

from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.sameness import same_state
from mnist_exp.common.values import name_of
from mnist_exp.notebook.entries import Entry
from mnist_exp.recipe import Recipe
from mnist_exp.runs.blame import blamed_on
from mnist_exp.runs.check import recipe_from
from mnist_exp.runs.fields import Value
from mnist_exp.runs.overrides import RATE, Overrides, differing, value_as_text
from mnist_exp.training import stepping
from mnist_exp.training.loop import build


def check_effects(entry: Entry, seed: int, overrides: Overrides) -> None:
    """Raise ExpectedError, which names what sets it, for an override of the optimizer without
    effect."""
    if not any(name.startswith("optimizer.") for name in overrides):
        return
    overrides = differing(recipe_from(entry, seed), overrides)
    for name in overrides:
        owner, _, key = name.partition(".")
        if owner != "optimizer" or not key:
            continue
        others = {
            other: value for other, value in overrides.items()
            if other != name and not (name == RATE and _is_peak(other, value, overrides[name]))
        }  # fmt: skip
        with blamed_on(entry):
            recipe = recipe_from(entry, seed, overrides)
            groups = _groups(recipe, seed)
            is_idle = key in groups[0] and same_state(
                groups, _groups(recipe_from(entry, seed, others), seed)
            )
        if is_idle:
            raise ExpectedError(
                f"{name}={value_as_text(overrides[name])} changes nothing: {_instead(recipe, key)}"
            )


def _is_peak(name: str, value: Value, rate: Value) -> bool:
    """Whether an override is that of OneCycleLR which goes along with the learning rate."""
    return name.endswith("schedule.max_lr") and value == rate


def _groups(recipe: Recipe, seed: int) -> list[dict[str, Any]]:
    """What the optimizer begins with, once its schedules are there."""
    optimizer = stepping.optimizer_of(recipe, build(recipe, seed))
    for made in (recipe.schedule, recipe.batch_schedule):
        stepping.schedule_of(made, optimizer, 100)
    return [{k: x for k, x in group.items() if k != "params"} for group in optimizer.param_groups]


def _instead(recipe: Recipe, key: str) -> str:
    """What sets a key of the optimizer anew, and what to set for that."""
    for field in ("schedule", "batch_schedule"):
        made = getattr(recipe, field)
        for name in (f"max_{key}", f"base_{key}"):
            if isinstance(made, partial) and name in inspect.signature(made.func).parameters:
                return f"{name_of(made)} sets {key} anew, and {field}.{name}= sets that"
    return "a parameter group or a schedule sets it anew"
