"""Verdicts and candidates as tables of text, which a terminal and a page show alike."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from mnist_exp.common.words import percent
from mnist_exp.recipe import Target


def shown(verdicts: pd.DataFrame, target: Target, split: str = "test") -> pd.DataFrame:
    """The table of verdicts as it is shown everywhere: text, one row per iteration.

    Scores of another `split` say so, and are no verdict.
    """
    columns: dict[str, Callable[[Any], str]] = {
        "model": lambda row: f"{row.model}",
        "verdict": lambda row: row.verdict,
        "seeds passing (95 % interval)": lambda row: (
            f"{row.passing} of {row.seeds} ({100 * row.pass_low:.0f}–{100 * row.pass_high:.0f} %)"
        ),
        f"worst of last {target.last_epochs}": lambda row: _place(
            row.worst_accuracy, row.worst_seed, row.worst_epoch
        ),
        "final test": lambda row: _final(row.final_test_accuracy, row.final_test_accuracy_std),
        "best test": lambda row: _place(row.best_test_accuracy, row.best_seed, row.best_epoch),
        "best train": lambda row: percent(row.best_train_accuracy),
        "parameters": lambda row: f"{row.parameters:,}",
        "receptive field": lambda row: plain(row.receptive_field),
        "epochs": lambda row: f"{row.epochs}",
        "idea": lambda row: row.title,
    }
    if split != "test":
        del columns["verdict"], columns["seeds passing (95 % interval)"]
    rows = list(verdicts.itertuples())
    return pd.DataFrame(
        {name.replace("test", split): [show(row) for row in rows] for name, show in columns.items()}
    )


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


def _place(accuracy: float, seed: int, epoch: float) -> str:
    where = "" if pd.isna(epoch) else f" (seed {seed}, epoch {epoch:.0f})"
    return f"{percent(accuracy)}{where}"


def _final(mean: float, std: float) -> str:
    return percent(mean) if pd.isna(std) else f"{100 * mean:.2f} ± {100 * std:.2f} %"


def plain(value: Any) -> str:
    """A value of a run as it is shown: nothing where it is missing, and whole where it is whole."""
    if pd.isna(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
