"""The part of a report that says whose digits are wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mnist_exp.common.words import counted, percent
from mnist_exp.evidence.by_writer import SERIES, ErrorsByWriter, errors_of_seeds, wrong_digits
from mnist_exp.evidence.comparison import Comparison
from mnist_exp.reporting.networks import as_a_run_writes_it

HARDEST = 10
"""Writers that are shown."""
NOTHING = "–"


@dataclass(frozen=True)
class WriterPart:
    """Whose digits are wrong, of the iterations whose runs hold that."""

    table: pd.DataFrame
    """Texts, one row per iteration."""
    what: str
    """Of one of them, how unevenly its errors are spread, in a sentence."""
    hardest: pd.DataFrame
    """Texts, one row per writer, of the same."""


def writers_errors(comparison: Comparison) -> dict[int, ErrorsByWriter]:
    """The errors of each iteration of which runs hold their mistakes on the test digits."""
    if comparison.split != "test":
        return {}
    found = {}
    for number, runs in comparison.counting.groupby("model"):
        if errors := errors_of(runs):
            found[int(str(number))] = errors
    return found


def errors_of(runs: pd.DataFrame) -> ErrorsByWriter | None:
    """The errors of the runs of an iteration that hold their mistakes; None where none does."""
    found = []
    for _, run in runs.iterrows():
        with as_a_run_writes_it(run["run_id"]):
            found.append(wrong_digits(run))
    return errors_of_seeds([wrong for wrong in found if wrong is not None])


def told_interval(errors: ErrorsByWriter | None, seeds: int) -> str:
    """As in "99.21 to 99.53 %"; of some of the `seeds` there is none, since they may have been
    chosen for what they reached."""
    if errors is None or errors.seeds < seeds:
        return NOTHING
    low, high = errors.interval
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def writers_part(
    comparison: Comparison, labels: Mapping[int, str], errors: Mapping[int, ErrorsByWriter]
) -> WriterPart | None:
    """The part on the iterations with these errors; it names the writers of that of the best run,
    or else of the most accurate. None where there is none."""
    best = comparison.best_run()
    if best is None or not errors:
        return None
    accurate = max(errors, key=lambda number: errors[number].accuracy)
    chosen = int(best["model"]) if best["model"] in errors else accurate
    counting = comparison.counting["model"].value_counts()
    rows = [
        {
            "model": labels[number].removeprefix("model "),
            "seeds": f"{own.seeds} of {counting[number]}",
            "final test": percent(own.accuracy),
            "95 % interval by writer": told_interval(own, counting[number]),
            "standard error": f"{100 * own.standard_error:.3f}",
            "by digit": f"{100 * own.of_digits:.3f}",
        }
        | {f"wrong of {who}": percent(own.rate(series)) for series, who in SERIES.items()}
        for number, own in errors.items()
    ]
    return WriterPart(
        pd.DataFrame(rows), _what(errors[chosen], labels[chosen]), _hardest(errors[chosen])
    )


def _what(errors: ErrorsByWriter, label: str) -> str:
    table = errors.writers
    total, sums = table["wrong"].sum(), table["wrong"].cumsum()
    name = f"{label[:1].upper()}{label[1:]}"
    if not total:
        return f"{name} gets no digit wrong."
    half = 1 + int((sums < total / 2).sum())
    return (
        f"{name}: half of the errors of {counted(errors.seeds, 'seed')} are on digits of {half} of "
        f"{counted(len(table), 'writer')}."
    )


def _hardest(errors: ErrorsByWriter) -> pd.DataFrame:
    rows: Any = errors.writers.head(HARDEST).itertuples(index=False)
    return pd.DataFrame(
        {
            "writer": f"{row.writer}",
            "of": SERIES[row.series],
            "digits": f"{row.digits}",
            "wrong, mean of seeds": f"{row.wrong:.1f}",
            "part": percent(row.wrong / row.digits),
        }
        for row in rows
        if row.wrong
    )
