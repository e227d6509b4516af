"""Verdicts and candidates as tables of text, which a terminal and a page show alike."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from mnist_exp.common.words import percent, ranges
from mnist_exp.evidence.verdict import EpochScore, Verdict
from mnist_exp.recipe import Target


def shown_verdicts(verdicts: Sequence[Verdict], target: Target) -> pd.DataFrame:
    """The table of verdicts as it is shown everywhere: text, one row per iteration.

    Scores on another split than "test" say so, and are no verdict.
    """
    split = verdicts[0].split if verdicts else "test"
    columns: dict[str, Callable[[Verdict], str]] = {
        "model": lambda verdict: f"{verdict.model}",
        "verdict": lambda verdict: verdict.answer.value,
        "seeds passing (95 % interval)": _passing,
        f"worst of last {target.last_epochs}": lambda verdict: _reached(verdict.worst),
        f"final {split}": _final,
        f"best {split}": lambda verdict: _reached(verdict.best),
        "best train": lambda verdict: percent(verdict.best_train_accuracy),
        "parameters": lambda verdict: f"{verdict.parameters:,}",
        "receptive field": lambda verdict: plain(verdict.receptive_field),
        "epochs": lambda verdict: f"{verdict.epochs}",
        "idea": lambda verdict: verdict.title,
    }
    if split != "test":
        del columns["verdict"], columns["seeds passing (95 % interval)"]
    return _table(verdicts, columns)


def brief_verdicts(verdicts: Sequence[Verdict], target: Target) -> pd.DataFrame:
    """What a terminal is wide enough for of the table of verdicts: text, one row per iteration."""
    split = verdicts[0].split if verdicts else "test"
    seeds = {
        "test": ("seeds passing", _passing),
        "validation": ("seeds", lambda verdict: ranges(verdict.seeds)),
    }
    name, show = seeds[split]
    columns: dict[str, Callable[[Verdict], str]] = {
        "model": lambda verdict: f"{verdict.model}",
        name: show,
        f"worst of last {target.last_epochs}": _worst,
        f"final {split}": _final,
        "parameters": lambda verdict: f"{verdict.parameters:,}",
        "idea": lambda verdict: verdict.title,
    }
    return _table(verdicts, columns)


def _table(
    verdicts: Sequence[Verdict], columns: Mapping[str, Callable[[Verdict], str]]
) -> pd.DataFrame:
    return pd.DataFrame(
        {name: [show(verdict) for verdict in verdicts] for name, show in columns.items()}
    )


def _passing(verdict: Verdict) -> str:
    low, high = (100 * bound for bound in verdict.pass_rate)
    return f"{verdict.passing} of {len(verdict.seeds)} ({low:.0f}–{high:.0f} %)"


def _reached(score: EpochScore | None) -> str:
    return "–" if score is None else str(score)


def _worst(verdict: Verdict) -> str:
    return "–" if verdict.worst is None else percent(verdict.worst.accuracy)


def _final(verdict: Verdict) -> str:
    mean, std = verdict.final_accuracy, verdict.final_accuracy_std
    return percent(mean) if math.isnan(std) else f"{100 * mean:.2f} ± {100 * std:.2f} %"


def short(code_sha256: object) -> str:
    """What tables call a recipe; `make new` takes it as the name of a candidate."""
    return str(code_sha256)[:7]


def shown_candidates(candidates: pd.DataFrame, target: Target) -> pd.DataFrame:
    """`Comparison.candidates` as they are shown: text, one row per recipe, smallest first."""
    ordered = candidates.sort_values("parameters", kind="stable")
    return pd.DataFrame(
        {
            "recipe": ordered["code_sha256"].map(short),
            "parameters": ordered["parameters"].map("{:,.0f}".format),
            "epochs": ordered["epochs"].map(str),
            "seeds": ordered["seeds"].map(str),
            f"worst of last {target.last_epochs}": ordered["worst_accuracy"].map(percent),
            "final, mean": ordered["final_accuracy"].map(percent),
            "idea": ordered["idea"].map(plain),
        }
    )


def plain(value: Any) -> str:
    """A value of a run as it is shown: nothing where it is missing, and whole where it is whole."""
    if pd.isna(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
