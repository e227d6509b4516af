"""What a report says: a comparison as texts, tables and pictures, section by section."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from mnist_exp import __version__
from mnist_exp.common.words import counted, duration, percent, ranges
from mnist_exp.data.splits import split_as_set, split_in_words
from mnist_exp.evidence.by_writer import ErrorsByWriter
from mnist_exp.evidence.comparison import Comparison
from mnist_exp.evidence.ideas import Ideas
from mnist_exp.evidence.references import course_figures
from mnist_exp.evidence.verdict import Verdict, pass_rate_bound
from mnist_exp.reporting import pictures
from mnist_exp.reporting.answer import smallest, summary, target_text
from mnist_exp.reporting.by_writer import (
    NOTHING,
    WriterPart,
    told_interval,
    writers_errors,
    writers_part,
)
from mnist_exp.reporting.choosing import ChoosingPart, choosing_of
from mnist_exp.reporting.forecasts import ForecastPart, forecasts_of
from mnist_exp.reporting.hard_digits import HardPart, hard_digits_of
from mnist_exp.reporting.layout import CHAIN, Layout
from mnist_exp.reporting.lines import Line, bar_of_strips, lines_of
from mnist_exp.reporting.networks import BestRun, Field, best_run_of, fields_of
from mnist_exp.reporting.pictures import Picture
from mnist_exp.reporting.steps import Step, steps_of
from mnist_exp.showing import tables
from mnist_exp.showing.tables import plain
from mnist_exp.tracking import ui

MOST_RUNS = 500
"""Rows of the page's table of runs; `runs.csv` has them all."""
CHANCE = (
    "By chance alone, one more run of the very same recipe lies outside the range of n others with "
    "probability 2/(n + 1): with few seeds, outside says little."
)
LUCK = (
    "Luck alone is the standard deviation that seeds would have if each digit were wrong by "
    "chance, independently of the others and as likely as any other. All are scored on the same "
    "digits, of which some are wrong for every seed and most for none, so that chance scatters "
    "them by less: over many seeds, a deviation above it is no luck."
)
SUPPORT = "With every seed passing, 95 % one-sided confidence supports a pass rate of at least " + (
    ", ".join(f"{100 * pass_rate_bound(n, n):.0f} % ({n} of {n})" for n in (1, 3, 5, 10, 20)) + "."
)


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
    split: str
    headings: Mapping[str, str]
    """The question that each section answers, by its name; without those that are left out."""
    target: str
    """As a sentence without its full stop; empty where nothing is judged."""
    summary: str
    """What came of it."""
    smallest: str
    """Which is the smallest that meets the target, and how near the next is; may be empty."""
    made: str
    """When, with which version and from how many runs."""
    verdicts: pd.DataFrame
    """Texts, one row per iteration with runs that count."""
    judged: tuple[Verdict, ...]
    """The verdicts that those texts show; none where they show scores alone."""
    uncounted: Mapping[int, str]
    """Why the others are not among them."""
    choices: Mapping[int, str]
    """Which seeds served to choose an iteration."""
    tried: str
    """How much choosing and computing there was."""
    candidates: pd.DataFrame
    """Texts, one row per recipe that was tried on the validation split."""
    choosing: ChoosingPart | None
    """How far off the validation split was; None where no recipe was run on both splits."""
    scripts: pd.DataFrame
    """Texts, one row per idea of a script with runs that count."""
    ideas: Ideas
    """What those texts show, and why other ideas are not among them."""
    forecasts: ForecastPart | None
    """None where nobody foretold anything in numbers."""
    steps: tuple[Step, ...]
    rows: tuple[Line, ...]
    """The iterations as a page shows them, with what is said of them elsewhere here."""
    bar: float | None
    """Where the bar is in the strips of the rows, from 0 to 1; None where nothing is judged."""
    course: pd.DataFrame
    """Texts, one row per figure of the public course."""
    fields: tuple[Field, ...]
    unknown_fields: Mapping[int, str]
    """Why some iterations are not among them."""
    best_run: BestRun | None
    """None when no run that counts holds what it gets wrong."""
    hard_digits: HardPart | None
    """What all seeds of the iteration of that run get wrong; None with fewer than two of them."""
    writers: WriterPart | None
    """Whose digits are wrong; None when no run that counts holds that."""
    origin: Origin
    final: Picture | None
    """None, as the next three, where there is nothing to draw."""
    accuracy: Picture | None
    price: Picture | None
    effects: Picture | None
    support: str = SUPPORT
    chance: str = CHANCE
    luck: str = LUCK

    @property
    def pictures(self) -> list[Picture]:
        """All of them."""
        pictures = [self.final, self.accuracy, self.price, self.effects]
        pictures += [field.picture for field in self.fields]
        if self.best_run:
            pictures += [self.best_run.confusion, self.best_run.sheet]
        return [picture for picture in pictures if picture]


def contents_of(comparison: Comparison, layout: Layout = CHAIN) -> Contents:
    """Gather everything that a report on the comparison says. Raises ExpectedError when the store
    cannot be read, or holds tables of a run that are not as a run writes them."""
    labels, verdicts = layout.labels(comparison), comparison.verdicts
    judged, by_writer = layout.judged(comparison), writers_errors(comparison)
    followed, unknown_fields = fields_of(comparison.counting, labels)
    steps, told = steps_of(comparison, layout), _told(comparison, layout, by_writer)
    return Contents(
        title=layout.title,
        split=comparison.split,
        headings=layout.headings(comparison),
        target=target_text(comparison.target) if judged else "",
        summary=summary(verdicts, judged),
        smallest=smallest(judged),
        made=_made(len(comparison.runs_on_split), len(comparison.counting)),
        verdicts=told,
        judged=judged,
        uncounted=_uncounted(comparison),
        choices=comparison.choices if judged else {},
        tried=_tried(comparison),
        candidates=tables.shown_candidates(comparison.candidates, comparison.target),
        choosing=choosing_of(comparison, labels),
        scripts=_scripts(comparison),
        ideas=comparison.ideas,
        forecasts=forecasts_of(comparison, labels),
        steps=steps,
        rows=lines_of(comparison, layout, steps, told, followed),
        bar=bar_of_strips(comparison, layout),
        course=_course(comparison),
        fields=followed,
        unknown_fields=unknown_fields,
        best_run=best_run_of(comparison, labels),
        hard_digits=hard_digits_of(comparison, labels),
        writers=writers_part(comparison, labels, by_writer),
        origin=_origin(comparison.runs_on_split),
        final=_final(comparison, layout),
        accuracy=pictures.accuracy_picture(comparison, labels) if verdicts else None,
        price=_price(comparison, layout) if verdicts else None,
        effects=_effects(comparison, layout),
    )


def _price(comparison: Comparison, layout: Layout) -> Picture:
    """What accuracy costs: as the target has it or, where nothing is judged, as it is."""
    labels = layout.labels(comparison)
    if not layout.judged(comparison):
        return pictures.sizes_picture(comparison, labels)
    return pictures.price_picture(comparison, labels if layout.side_by_side else None)


def _told(
    comparison: Comparison, layout: Layout, by_writer: Mapping[int, ErrorsByWriter]
) -> pd.DataFrame:
    """The table of verdicts, with what makes their runs again and, of those whose runs all hold
    their mistakes, the intervals of their accuracies."""
    verdicts = comparison.verdicts
    table = tables.shown_verdicts(
        verdicts, comparison.target, named=layout.side_by_side,
        judged=bool(layout.judged(comparison)),
    )  # fmt: skip
    texts = [told_interval(by_writer.get(each.model or 0), len(each.seeds)) for each in verdicts]
    if set(texts) - {NOTHING}:
        place = 1 + list(table).index(tables.LUCK)
        table.insert(place, "95 % interval by writer", texts)
    return table.assign(**{"made again by": [_command(verdict) for verdict in verdicts]})


def _final(comparison: Comparison, layout: Layout) -> Picture | None:
    """Drawn side by side alone: a chain has the strips of its lines."""
    if not comparison.verdicts or not layout.side_by_side:
        return None
    return pictures.final_picture(comparison, layout.labels(comparison))


def _effects(comparison: Comparison, layout: Layout) -> Picture | None:
    effects = [effect for effect in layout.effects(comparison) if effect.seeds]
    if not effects:
        return None
    labels = layout.labels(comparison) if layout.side_by_side else None
    return pictures.effects_picture(effects, comparison.split, labels)


def _made(runs: int, counting: int) -> str:
    return (
        f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by mnist-exp {__version__} from "
        f"{counted(runs, 'run')}, of which {counting:,} count{'s' if counting == 1 else ''}."
    )


def _command(verdict: Verdict) -> str:
    """What trains the runs that were judged, in a store without them."""
    seeds = ranges(verdict.seeds)
    seeds = f"{seeds}-{seeds}" if seeds.isdigit() else seeds  # a lone number would be how many
    split = split_as_set(verdict.split, verdict.fold)
    return f'make sweep MODELS={verdict.model} SEEDS="{seeds}"{split}'


def _uncounted(comparison: Comparison) -> dict[int, str]:
    """Why iterations, or seeds of them, are not among the verdicts."""
    lacking = {n: f"compared without {what}" for n, what in comparison.lacking.items()}
    return dict(sorted((lacking | comparison.uncounted).items()))


def _tried(comparison: Comparison) -> str:
    """How much choosing and computing there was."""
    tried = counted(comparison.validation_runs["code_sha256"].nunique(), "recipe")
    trials = counted(len(comparison.validation_runs), "run")
    where = split_in_words("validation", comparison.fold)
    choosing = f"{tried} tried on the {where}, in {trials}"
    overridden = comparison.overridden_validation_runs
    if not overridden.empty:
        values = counted(len(overridden.drop_duplicates(["code_sha256", "overrides"])), "time")
        choosing += f", and {values} with other values, in {counted(len(overridden), 'run')}"
    if comparison.split != "test":
        return f"{choosing}."
    tested = counted(len(comparison.verdicts), "iteration")
    return (
        f"{choosing}. With those "
        f"for the verdicts, the {counted(len(comparison.runs), 'run')} of the store took "
        f"{comparison.core_hours:.1f} hours of a processor core. {tested} in all had their test "
        "digits scored. Later ones were written after the test scores of earlier ones had been "
        "seen, so theirs are somewhat optimistic."
    )


def _scripts(comparison: Comparison) -> pd.DataFrame:
    """The verdicts on the ideas of scripts, which have no number: the idea comes first."""
    table = tables.shown_verdicts(comparison.ideas.verdicts, comparison.target)
    return table.set_index("idea").drop(columns="model").reset_index()


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
        "engine": newest["engine"].astype(object).fillna("torch"),  # which older runs do not name
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
