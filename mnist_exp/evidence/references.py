"""Figures of others, beside which the measured ones stand."""

import pandas as pd

from mnist_exp.evidence.comparison import Comparison
from mnist_exp.notebook.entries import EXPERIMENTS

COURSE = EXPERIMENTS / "published.csv"
PUBLIC_RESULTS = EXPERIMENTS / "public.csv"


def public_results() -> pd.DataFrame:
    """The best public results under the same rules (`public.csv`), of one seed each: `source`,
    `parameters`, and the `lowest` accuracy of the last five epochs (a fraction)."""
    return pd.read_csv(PUBLIC_RESULTS, comment="#")


def course_figures(comparison: Comparison) -> pd.DataFrame:
    """Whether the runs reproduce the published figures, of one seed each (`published.csv`).

    One row per iteration that was published and quantity (best train, best test, and worst of the
    last epochs): `published`, and `low` and `high` over the seeds that count (fractions, to a
    hundredth of a percent, as published), and `inside`, whether the published value lies there.
    """
    table = pd.read_csv(COURSE, comment="#")
    last = table.groupby("model").tail(comparison.target.last_epochs)
    figures = {
        "best train": (table.groupby("model")["train_accuracy"].max(), "best_train_accuracy"),
        "best test": (table.groupby("model")["test_accuracy"].max(), "best_test_accuracy"),
        f"worst of last {comparison.target.last_epochs}": (
            last.groupby("model")["test_accuracy"].min(),
            "worst_accuracy",
        ),
    }
    measured = comparison.counting.groupby("model")
    rows = [
        {
            "model": model,
            "quantity": quantity,
            "published": round(values[model] / 100, 4),
            "low": round(measured[column].min()[model], 4),
            "high": round(measured[column].max()[model], 4),
        }
        for model in comparison.verdicts["model"]
        for quantity, (values, column) in figures.items()
        if model in values
    ]
    result = pd.DataFrame(rows, columns=["model", "quantity", "published", "low", "high"])
    result["seeds"] = result["model"].map(measured.size())
    result["inside"] = result["published"].between(result["low"], result["high"])
    return result
