"""The ideas of scripts of one's own, which have a name and no number, judged as iterations are."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from mnist_exp import tracking
from mnist_exp.data import Split
from mnist_exp.data.splits import ALL
from mnist_exp.evidence import scores
from mnist_exp.evidence.pooling import pooled
from mnist_exp.evidence.verdict import Verdict, judge_runs
from mnist_exp.recipe import Target
from mnist_exp.tracking import names


@dataclass(frozen=True)
class Ideas:
    """The ideas of which the store has runs on a split and fold, in the order of their first
    ones."""

    verdicts: tuple[Verdict, ...] = ()
    """On each that has runs that count: the newest finished one of each seed."""
    uncounted: Mapping[str, str] = field(default_factory=dict)
    """Why there is none on the others, by their names."""

    def __bool__(self) -> bool:
        return bool(self.verdicts or self.uncounted)


def judge_ideas(runs: pd.DataFrame, target: Target, split: Split, fold: str | None) -> Ideas:
    """Judge what scripts tracked, of all `runs` of a store as `tracking.runs` gives them."""
    own = runs[runs[names.TRACKED].notna() & scores.on_fold(runs, split, fold)]
    if own.empty:
        return Ideas()
    own = own.assign(group=own[names.TRACKED].astype(str))
    own = own.assign(exclusion=scores.exclusions_in_groups(own, all_folds=fold == ALL))
    history = tracking.history(own["run_id"])
    own = own.join(scores.scores(own, history, target))
    verdicts, uncounted = [], {}
    for name, tracked in own.groupby("group", sort=False):
        counting = tracked[tracked["exclusion"].isna()].astype({"evaluation_images": int})
        if fold == ALL:
            counting, _ = pooled(counting, history, target, "group")
        if counting.empty:
            reasons = tracked["exclusion"].value_counts().items()
            uncounted[str(name)] = (
                f"no run counts ({', '.join(f'{n} {why}' for why, n in reasons)})"
            )
        else:
            verdicts.append(judge_runs(counting, target, title=str(name)))
    return Ideas(tuple(verdicts), uncounted)
