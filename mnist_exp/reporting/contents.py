"""What a report says: a comparison as texts, tables and pictures, section by section."""

import base64
import contextlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mnist_exp import __version__, tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import counted, duration, percent, ranges
from mnist_exp.evidence import mistakes
from mnist_exp.evidence.comparison import Comparison, changed_lines
from mnist_exp.evidence.effect import Effect
from mnist_exp.evidence.ideas import Ideas
from mnist_exp.evidence.mistakes import Mistakes
from mnist_exp.evidence.references import course_figures
from mnist_exp.evidence.verdict import Verdict, pass_rate_bound
from mnist_exp.notebook.entries import Entry
from mnist_exp.recipe import Target
from mnist_exp.reporting import pictures
from mnist_exp.reporting.pictures import Picture
from mnist_exp.showing import fields, tables
from mnist_exp.showing.tables import plain
from mnist_exp.tracking import ui
from mnist_exp.tracking.names import Table

MOST_RUNS = 500
"""Rows of the page's table of runs; `runs.csv` has them all."""
CHANCE = (
    "By chance alone, one more run of the very same recipe lies outside the range of n others with "
    "probability 2/(n + 1): with few seeds, outside says little."
)
SUPPORT = "With every seed passing, 95 % one-sided confidence supports a pass rate of at least " + (
    ", ".join(f"{100 * pass_rate_bound(n, n):.0f} % ({n} of {n})" for n in (1, 3, 5, 10, 20)) + "."
)


@dataclass(frozen=True)
class Step:
    """An iteration, and what it changed and did against the one it was made from."""

    iteration: Entry
    effect: Effect | None = None
    diff: tuple[tuple[str, str], ...] = ()
    """("plus" or "minus", line of code)."""

    @property
    def fence(self) -> str:
        """What encloses the diff in Markdown: longer than any backticks in it."""
        runs = re.findall("`+", "".join(line for _, line in self.diff))
        return "`" * max(3, 1 + max(map(len, runs), default=0))


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


@dataclass(frozen=True)
class Origin:
    """Where the numbers came from: the runs, newest first."""

    caption: str
    table: pd.DataFrame
    """One row of texts per run."""
    addresses: tuple[str, ...]
    """Where the UI shows each."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Everything that a report says."""

    title: str
    target: str
    """As a sentence without its full stop."""
    summary: str
    """How many iterations meet the target."""
    made: str
    """When, with which version and from how many runs."""
    verdicts: pd.DataFrame
    """Texts, one row per iteration with runs that count."""
    judged: tuple[Verdict, ...]
    """The verdicts that those texts show."""
    uncounted: Mapping[int, str]
    """Why the others are not among them."""
    choices: Mapping[int, str]
    """Which seeds served to choose an iteration."""
    tried: str
    """How much choosing and computing there was."""
    candidates: pd.DataFrame
    """Texts, one row per recipe that was tried on the validation split."""
    scripts: pd.DataFrame
    """Texts, one row per idea of a script with runs that count."""
    ideas: Ideas
    """What those texts show, and why other ideas are not among them."""
    steps: tuple[Step, ...]
    course: pd.DataFrame
    """Texts, one row per figure of the public course."""
    fields: tuple[Field, ...]
    unknown_fields: Mapping[int, str]
    """Why some iterations are not among them."""
    best_run: BestRun | None
    """None when no run that counts holds what it gets wrong."""
    origin: Origin
    accuracy: Picture | None
    """None, as the next two, where there is nothing to draw."""
    price: Picture | None
    effects: Picture | None
    support: str = SUPPORT
    chance: str = CHANCE

    @property
    def pictures(self) -> list[Picture]:
        """All of them."""
        pictures = [self.accuracy, self.price, self.effects]
        pictures += [field.picture for field in self.fields]
        if self.best_run:
            pictures += [self.best_run.confusion, self.best_run.sheet]
        return [picture for picture in pictures if picture]


def contents_of(comparison: Comparison) -> Contents:
    """Gather everything that a report on the comparison says.

    Raises ExpectedError when the store cannot be read, or holds tables of a run that are not as a
    run writes them.
    """
    verdicts, target, counting = comparison.verdicts, comparison.target, comparison.counting
    candidates = comparison.candidates
    effects = [effect for effect in comparison.effects if effect.seeds]
    followed, unknown_fields = _fields(counting)
    made_again = [_command(verdict) for verdict in verdicts]
    return Contents(
        title="MNIST iterations compared",
        target=target_text(target),
        summary=summary(verdicts),
        made=_made(len(comparison.runs), len(counting)),
        verdicts=tables.shown_verdicts(verdicts, target).assign(**{"made again by": made_again}),
        judged=verdicts,
        uncounted=comparison.uncounted,
        choices=comparison.choices,
        tried=_tried(comparison, len(candidates)),
        candidates=tables.shown_candidates(candidates, target),
        scripts=_scripts(comparison),
        ideas=comparison.ideas,
        steps=_steps(comparison),
        course=_course(comparison),
        fields=followed,
        unknown_fields=unknown_fields,
        best_run=_best_run(comparison),
        origin=_origin(comparison.runs),
        accuracy=pictures.accuracy_picture(comparison, counting) if verdicts else None,
        price=pictures.price_picture(comparison) if verdicts else None,
        effects=pictures.effects_picture(effects) if effects else None,
    )


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many iterations meet the target, as a sentence."""
    if not verdicts:
        return "No run counts yet, so nothing is judged."
    met = sum(verdict.met for verdict in verdicts)
    return (
        f"{met} of {counted(len(verdicts), 'iteration')} "
        f"meet{'s' if met == 1 else ''} the target on every seed that was run."
    )


def target_text(target: Target) -> str:
    """The target as a sentence without its full stop."""
    return (
        f"test accuracy of at least {percent(target.test_accuracy)} in every one of the last "
        f"{target.last_epochs} epochs, in at most {target.max_epochs} epochs, with fewer than "
        f"{target.parameters_below:,} parameters"
    )


def _made(runs: int, counting: int) -> str:
    return (
        f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by mnist-exp {__version__} from "
        f"{counted(runs, 'run')}, of which {counting:,} count{'s' if counting == 1 else ''}."
    )


def _command(verdict: Verdict) -> str:
    """What trains the runs that were judged, in a store without them."""
    seeds = ranges(verdict.seeds)
    seeds = f"{seeds}-{seeds}" if seeds.isdigit() else seeds  # a lone number would be how many
    return f'make sweep MODELS={verdict.model} SEEDS="{seeds}"'


def _tried(comparison: Comparison, candidates: int) -> str:
    """How much choosing and computing there was."""
    tested = counted(len(comparison.verdicts), "iteration")
    trials = counted(len(comparison.trials), "run")
    return (
        f"{counted(candidates, 'recipe')} tried on the validation split, in {trials}. With those "
        f"for the verdicts, the {counted(len(comparison.runs), 'run')} of the store took "
        f"{comparison.core_hours:.1f} hours of a processor core. {tested} in all had their test "
        "digits scored. Later ones were written after the test scores of earlier ones had been "
        "seen, so theirs are somewhat optimistic."
    )


def _scripts(comparison: Comparison) -> pd.DataFrame:
    """The verdicts on the ideas of scripts, which have no number: the idea comes first."""
    table = tables.shown_verdicts(comparison.ideas.verdicts, comparison.target)
    return table.set_index("idea").drop(columns="model").reset_index()


def _steps(comparison: Comparison) -> tuple[Step, ...]:
    by_model = {effect.model: effect for effect in comparison.effects}
    steps = []
    for number, iteration in comparison.iterations.items():
        effect = by_model.get(number)
        if effect is None:  # the first has none before it
            steps.append(Step(iteration))
        else:
            before = comparison.iterations[effect.baseline]
            steps.append(Step(iteration, effect, changed_lines(before, iteration)))
    return tuple(steps)


def _course(comparison: Comparison) -> pd.DataFrame:
    table = course_figures(comparison)
    measured = [
        percent(row.low) if row.low == row.high else f"{percent(row.low)} to {percent(row.high)}"
        for row in _rows(table)
    ]
    places = [
        "inside" if row.inside else "above" if row.course > row.high else "below"
        for row in _rows(table)
    ]
    return pd.DataFrame(
        {
            "model": table["model"].map(str),
            "figure": table["quantity"],
            "course": table["course"].map(percent),
            "seeds": table["seeds"].map(str),
            "measured": measured,
            "the course is": places,
        }
    )


def _fields(counting: pd.DataFrame) -> tuple[tuple[Field, ...], dict[int, str]]:
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
            with _as_a_run_writes_it(run["run_id"]):
                # As they are shown: tables of before lack the columns that have come since.
                key = fields.shown_fields(table).to_csv() + stops
            alike.setdefault(key, []).append(int(run["model"]))
            newest[key] = run["run_id"], table, stops
    return tuple(_field(tuple(alike[key]), *newest[key]) for key in alike), unknown


def _field(numbers: tuple[int, ...], run_id: str, table: pd.DataFrame, stops: str) -> Field:
    """What the layers of some iterations see, from the table of a run of one of them."""
    models = f"Model{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
    with _as_a_run_writes_it(run_id):
        texts = fields.shown_fields(table)
        seen = ", ".join(texts["layer"] + " " + texts["r_out"])
        name = f"receptive_field_{numbers[0]}"
        picture = pictures.growth(name, models, table, seen, stops)
        return Field(numbers, models, table, texts, stops, picture)


def _best_run(comparison: Comparison) -> BestRun | None:
    """What the best run gets wrong; None when no run counts, or the best does not hold it."""
    run = comparison.best_run()
    if run is None:
        return None
    with _as_a_run_writes_it(run["run_id"]):
        wrong = mistakes.mistakes_of(run["run_id"])
        if wrong is None:
            return None
        ordered = wrong.most_certain_first()
        digits = zip(_rows(ordered.misclassified), ordered.images, strict=True)
        return BestRun(
            run["run_id"],
            ui.run_address(run["experiment_id"], run["run_id"]),
            f"{run['run_name']}, the run with the highest worst accuracy in the last "
            f"{comparison.target.last_epochs} epochs ({percent(run['worst_accuracy'])}), "
            f"misclassifies {len(wrong.images)} of {int(run['evaluation_images']):,} test digits "
            "after its last epoch.",
            wrong,
            tuple(_digit(row, image) for row, image in digits),
            pictures.confusion_picture(run["run_name"], wrong),
            pictures.misclassified_picture(ordered) if len(wrong.images) else None,
        )


def _digit(row: Any, image: np.ndarray) -> WrongDigit:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return WrongDigit(row.index, row.truth, row.guess, percent(row.probability), address)


@contextlib.contextmanager
def _as_a_run_writes_it(run_id: str) -> Iterator[None]:
    """The block shows tables and images of a run, which anyone may have changed.

    Raises ExpectedError in the place of what is raised by those that have other columns, other
    values or other shapes than a run writes.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ExpectedError(
            f"the tables of run {run_id} are not as a run writes them "
            f"({type(error).__name__}: {error}): delete the run in the UI, and train it again"
        ) from error


def _origin(runs: pd.DataFrame) -> Origin:
    newest = runs.sort_values("start_time", ascending=False, kind="stable").head(MOST_RUNS)
    texts = {
        "run": newest["run_name"],
        "run id": newest["run_id"],
        "started (UTC)": newest["start_time"].dt.strftime("%Y-%m-%d %H:%M"),
        "wall time": (newest["end_time"] - newest["start_time"]).map(_wall_time),
        "counts": newest["exclusion"].fillna("yes"),
        "commit": newest["git_commit"].astype(str).str[:10],
        "uncommitted changes": newest["git_dirty"].map({"true": "yes", "false": "no"}),
        "code hash": newest["code_sha256"].astype(str).str[:10],
        "machine": newest["machine"],
        "threads": newest["threads"],
        "python": newest["python"],
        "torch": newest["torch"],
        "mlflow": newest["mlflow"],
        "imported from": newest["imported_from"].map(plain).astype(str).str[:10],
    }
    table = pd.DataFrame({name: column.map(plain) for name, column in texts.items()})
    addresses = [ui.run_address(run.experiment_id, run.run_id) for run in _rows(newest)]
    caption = "The runs, newest first"
    if len(runs) > MOST_RUNS:
        caption += f": {MOST_RUNS} of {len(runs):,}; runs.csv has all"
    return Origin(caption, table, tuple(addresses))


def _wall_time(length: pd.Timedelta) -> str:
    return "" if pd.isna(length) else duration(length.total_seconds())


def _rows(table: pd.DataFrame) -> Any:
    """Its rows as named tuples."""
    return table.itertuples(index=False)
