"""What networks see and get wrong, as a report shows it: from the tables that their runs hold."""

import base64
import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import percent
from mnist_exp.evidence import mistakes
from mnist_exp.evidence.comparison import Comparison
from mnist_exp.evidence.mistakes import Mistakes
from mnist_exp.reporting import pictures
from mnist_exp.reporting.pictures import Picture
from mnist_exp.showing import fields
from mnist_exp.tracking import ui
from mnist_exp.tracking.names import Table


@dataclass(frozen=True)
class Field:
    """What the layers of some iterations see, which is the same for all of them."""

    numbers: tuple[int, ...]
    models: str
    """The same in words."""
    table: pd.DataFrame
    """Their receptive-field table, as the store holds it."""
    texts: pd.DataFrame
    """The same as it is shown: `3`, or `3x5` where height and width differ."""
    stops: str
    """Why the table ends before the network does; empty where it does not."""
    picture: Picture


@dataclass(frozen=True)
class WrongDigit:
    """A misclassified digit as a page shows it."""

    index: int
    truth: int
    guess: int
    probability: str
    """That the network gives its guess, in percent."""
    image: str
    """As an address that holds it."""


@dataclass(frozen=True)
class BestRun:
    """The run with the highest worst accuracy in its last epochs, and what it gets wrong."""

    run_id: str
    address: str
    """Where the UI shows it."""
    what: str
    """How many digits it gets wrong, as a sentence."""
    mistakes: Mistakes
    digits: tuple[WrongDigit, ...]
    """The most certain first."""
    confusion: Picture
    sheet: Picture | None
    """The digits; None where none is wrong."""


def fields_of(
    counting: pd.DataFrame, labels: Mapping[int, str]
) -> tuple[tuple[Field, ...], dict[int, str]]:
    """What the layers of each iteration see, once for all that see the same; and of those of which
    the store has no table, why."""
    alike: dict[str, list[int]] = {}
    newest: dict[str, tuple[str, pd.DataFrame, str]] = {}
    unknown = {}
    for _, runs in counting.groupby("model"):
        run = runs.iloc[-1]
        words = str(run["receptive_field"])
        stops = words.removeprefix("unknown: ") if words.startswith("unknown") else ""
        table = tracking.table(run["run_id"], Table.RECEPTIVE_FIELD)
        if table is None:
            unknown[int(run["model"])] = words if stops else "the run has none"
        else:
            with as_a_run_writes_it(run["run_id"]):
                # As they are shown: tables of before lack the columns that have come since.
                key = fields.shown_fields(table).to_csv() + stops
            alike.setdefault(key, []).append(int(run["model"]))
            newest[key] = run["run_id"], table, stops
    return tuple(_field(tuple(alike[key]), labels, *newest[key]) for key in alike), unknown


def _field(
    numbers: tuple[int, ...], labels: Mapping[int, str], run_id: str, table: pd.DataFrame,
    stops: str,
) -> Field:  # fmt: skip
    """What the layers of some iterations see, from the table of a run of one of them."""
    models = _joined([labels[number] for number in numbers])
    with as_a_run_writes_it(run_id):
        texts = fields.shown_fields(table)
        seen = ", ".join(texts["layer"] + " " + texts["r_out"])
        name = f"receptive_field_{numbers[0]}"
        picture = pictures.growth(name, models, table, seen, stops)
        return Field(numbers, models, table, texts, stops, picture)


def _joined(labels: list[str]) -> str:
    """As in "Models 3, 4" and "41 Alice, 42 Bob"."""
    numbers = [label.removeprefix("model ") for label in labels]
    if numbers == labels:
        return ", ".join(labels)
    return f"Model{'s' * (len(labels) > 1)} {', '.join(numbers)}"


def best_run_of(comparison: Comparison, labels: Mapping[int, str]) -> BestRun | None:
    """What the best run gets wrong; None when no run counts, or the best does not hold it."""
    run = comparison.best_run()
    if run is None:
        return None
    with as_a_run_writes_it(run["run_id"]):
        wrong = mistakes.mistakes_of(run["run_id"])
        if wrong is None:
            return None
        ordered = wrong.most_certain_first()
        digits = zip(_rows(ordered.misclassified), ordered.images, strict=True)
        name = f"{labels[run['model']]}, seed {run['seed']}"
        return BestRun(
            run["run_id"],
            ui.run_address(run["experiment_id"], run["run_id"]),
            f"{name[:1].upper()}{name[1:]}, the run with {_why_best(run, comparison)}, "
            f"misclassifies {len(wrong.images)} of {int(run['evaluation_images']):,} "
            f"{comparison.split} digits after its last epoch.",
            wrong,
            tuple(_digit(row, image) for row, image in digits),
            pictures.confusion_picture(name, wrong),
            pictures.misclassified_picture(ordered) if len(wrong.images) else None,
        )


def _why_best(run: pd.Series, comparison: Comparison) -> str:
    if pd.isna(run["worst_accuracy"]):
        return f"the highest accuracy after the last epoch ({percent(run['final_accuracy'])})"
    return (
        f"the highest worst accuracy in the last {comparison.target.last_epochs} epochs "
        f"({percent(run['worst_accuracy'])})"
    )


def _digit(row: Any, image: np.ndarray) -> WrongDigit:
    guess = percent(row.probability)
    return WrongDigit(row.index, row.truth, row.guess, guess, digit_address(image))


def digit_address(image: np.ndarray) -> str:
    """A digit, uint8 (28, 28), as an address that holds it all."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@contextlib.contextmanager
def as_a_run_writes_it(run_id: str) -> Iterator[None]:
    """The block shows tables and images of a run, which anyone may have changed.

    Raises ExpectedError in the place of what is raised by those that have other columns, other
    values or other shapes than a run writes.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ExpectedError(
            f"the tables of run {run_id} are not as a run writes them "
            f"({type(error).__name__}: {error}): make delete RUN={run_id}, and train it again"
        ) from error


def _rows(table: pd.DataFrame) -> Any:
    """Its rows as named tuples."""
    return table.itertuples(index=False)
