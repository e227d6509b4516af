"""Figures of others, beside which the measured ones stand."""

import pandas as pd

from mnist_exp.evidence.comparison import Comparison
from mnist_exp.notebook.entries import EXPERIMENTS

COURSE_FIGURES = EXPERIMENTS / "course.csv"
"""The log that a public course published of the first six networks: each epoch of one run."""
PUBLIC_RESULTS = EXPERIMENTS / "public.csv"


def public_results() -> pd.DataFrame:
    """The best public results under the same rules (`public.csv`), of one seed each: `source`,
    `parameters`, and the `lowest` accuracy of the last five epochs (a fraction)."""
    return pd.read_csv(PUBLIC_RESULTS, comment="#")


def course_figures(comparison: Comparison) -> pd.DataFrame:
    """Whether the runs reproduce the course's figures, of one seed each (`course.csv`).

    One row per iteration that the course had and quantity (best train, best test, and worst of the
    last epochs). Columns: `model`; `quantity`; `course`, the course's figure; `low` and `high` over
    the `seeds` that count; `inside`, whether the course's figure lies between. Accuracies are
    fractions, to a hundredth of a percent as the course gave them. Of a comparison on another split
    than the course's, which was the test split, there are no rows.
    """
    log = pd.read_csv(COURSE_FIGURES, comment="#")
    last = log.groupby("model").tail(comparison.target.last_epochs).groupby("model")
    quantities = {
        "best train": (log.groupby("model")["train_accuracy"].max(), "best_train_accuracy"),
        "best test": (log.groupby("model")["test_accuracy"].max(), "best_accuracy"),
        f"worst of last {comparison.target.last_epochs}": (
            last["test_accuracy"].min(),
            "worst_accuracy",
        ),
    }
    measured = comparison.counting.groupby("model")
    rows = [
        {
            "model": model,
            "quantity": quantity,
            "course": round(percents[model] / 100, 4),
            "low": round(measured[column].min()[model], 4),
            "high": round(measured[column].max()[model], 4),
        }
        for model in (comparison.iterations if comparison.split == "test" else ())
        for quantity, (percents, column) in quantities.items()
        if model in percents and model in measured.groups
    ]
    table = pd.DataFrame(rows, columns=["model", "quantity", "course", "low", "high"])
    table["seeds"] = table["model"].map(measured.size())
    table["inside"] = table["course"].between(table["low"], table["high"])
    return table
