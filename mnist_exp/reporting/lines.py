"""The iterations of a page: a line each, and what a line opens into."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from mnist_exp.common.words import counted, percent
from mnist_exp.evidence.comparison import Comparison
from mnist_exp.evidence.effect import Effect
from mnist_exp.evidence.verdict import Verdict, judge_run
from mnist_exp.reporting.layout import Layout
from mnist_exp.reporting.networks import Field
from mnist_exp.reporting.steps import Step
from mnist_exp.showing import limits
from mnist_exp.tracking import ui

FEWEST_EPOCHS = 2
"""Of so many a curve can be drawn."""


@dataclass(frozen=True)
class Mark:
    """A run in the strip of its iteration, at the worst of its last epochs, or at its final
    accuracy where nothing is judged."""

    text: str
    """As in "seed 3: 99.41 %"."""
    address: str
    """Where the UI shows the run."""
    place: float
    """From the left end of the strip, 0, to its right end, 1."""
    met: bool
    below: bool
    """Whether it is further to the left than the strip reaches."""


@dataclass(frozen=True)
class Dot:
    """An epoch of a run: its place in the plot, from 0 to 1 (downwards), and what it says."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Curves:
    """The accuracy after each epoch, a line per seed, and the mean of the training accuracies."""

    seeds: tuple[tuple[Dot, ...], ...]
    train: tuple[Dot, ...]
    ticks: tuple[Dot, ...]
    """Of the accuracies."""
    epochs: tuple[Dot, ...]
    """The ticks of the epochs."""
    bar: Dot | None
    """The accuracy of the target, where it is in the plot."""


@dataclass(frozen=True)
class Line:
    """An iteration as a page shows it."""

    step: Step
    verdict: Verdict | None
    """None where no run counts."""
    state: str
    """"all", "some" or "none" of the seeds meet the target; empty where nothing is judged."""
    facts: Mapping[str, str]
    """What is told of it, by the names of the columns of the table of verdicts; or why none of its
    runs counts."""
    marks: tuple[Mark, ...]
    curves: Curves | None
    field: Field | None

    @property
    def number(self) -> int:
        return self.step.iteration.number

    @property
    def seeds(self) -> str:
        """What the strip shows, in words."""
        if self.verdict is None:
            return "no run counts"
        seeds = counted(len(self.verdict.seeds), "seed")
        return f"{self.verdict.passing} of {seeds}" if self.state else seeds

    @property
    def effect(self) -> Effect | None:
        """On what the target looks at or, where nothing is judged, on the final accuracy; None
        where no seed is shared with the other."""
        effect = self.step.on_worst or self.step.effect
        return effect if effect and effect.seeds else None

    @property
    def sign(self) -> str:
        """Whether the effect can be told from none; empty where there is no effect."""
        if self.effect is None:
            return ""
        if self.effect.interval is None:
            return "?"
        return "▲" if self.effect.better else "▼" if self.effect.worse else "○"


def lines_of(
    comparison: Comparison, layout: Layout, steps: tuple[Step, ...], table: pd.DataFrame,
    fields: tuple[Field, ...],
) -> tuple[Line, ...]:  # fmt: skip
    """A row for each iteration; `table` has what is told of those with runs that count."""
    verdicts = {verdict.model: verdict for verdict in comparison.verdicts}
    told = dict(zip(verdicts, table.to_dict("records"), strict=True))
    judged = {verdict.model for verdict in layout.judged(comparison)}
    by_number = {number: field for field in fields for number in field.numbers}
    ends = _strip_limits(comparison, judged=bool(judged))
    rows = []
    for step in steps:
        number = step.iteration.number
        runs = comparison.counting[comparison.counting["model"] == number].sort_values("seed")
        verdict = verdicts.get(number)
        facts: Any = told.get(number) or {"verdict": comparison.uncounted.get(number, "")}
        rows.append(
            Line(
                step=step,
                verdict=verdict,
                state=_state(verdict) if verdict and number in judged else "",
                facts={name: text for name, text in facts.items() if name not in ("model", "idea")},
                marks=_marks(runs, comparison, ends, judged=number in judged),
                curves=_curves(runs, comparison),
                field=by_number.get(number),
            )
        )
    return tuple(rows)


def _state(verdict: Verdict) -> str:
    return "all" if verdict.met else "some" if verdict.passing else "none"


def _strip_limits(comparison: Comparison, *, judged: bool) -> tuple[float, float]:
    """The accuracies at both ends of every strip: of what is near the bar."""
    scores = comparison.counting["worst_accuracy" if judged else "final_accuracy"].dropna()
    if scores.empty:
        return 0.0, 1.0
    bar = comparison.target.test_accuracy if judged else None
    reach = limits.REACH if judged else limits.FURTHEST
    return limits.around(limits.near(scores, bar, reach), bar)


def bar_of_strips(comparison: Comparison, layout: Layout) -> float | None:
    """Where the bar is in every strip, from 0 to 1; None where nothing is judged."""
    if not layout.judged(comparison):
        return None
    low, high = _strip_limits(comparison, judged=True)
    return (comparison.target.test_accuracy - low) / (high - low)


def _marks(
    runs: pd.DataFrame, comparison: Comparison, ends: tuple[float, float], *, judged: bool
) -> tuple[Mark, ...]:
    """A mark for each run, from left to right."""
    score = "worst_accuracy" if judged else "final_accuracy"
    low, high = ends
    marks = []
    for _, run in runs.dropna(subset=score).sort_values(score).iterrows():
        place = (run[score] - low) / (high - low)
        text = f"seed {run['seed']}: {percent(run[score])}"
        address = ui.run_address(run["experiment_id"], run["run_id"])
        met = judge_run(run, comparison.target).met if judged else True
        marks.append(Mark(text, address, min(1, max(0, place)), met, place < 0))
    return tuple(marks)


def _curves(runs: pd.DataFrame, comparison: Comparison) -> Curves | None:
    """Around the bar or, where the accuracies are lower, around them: the second half of the
    training sets the limits, so that its beginning is cut off."""
    accuracy = f"{comparison.split}_accuracy"
    columns = ["run_id", "epoch", "train_accuracy", accuracy]
    history = comparison.counting_history.reindex(columns=columns).merge(runs[["run_id", "seed"]])
    history = history.dropna(subset=accuracy)
    longest = int(history["epoch"].max()) if len(history) else 0
    if longest < FEWEST_EPOCHS:
        return None
    bar = comparison.target.test_accuracy if comparison.split == "test" else None
    low, high = limits.of_curves(history, accuracy, bar)

    def dot(epoch: float, value: float, text: str) -> Dot:
        return Dot((epoch - 1) / (longest - 1), (high - value) / (high - low), text)

    seeds = []
    for seed, epochs in history.groupby("seed"):
        rows: Any = epochs.sort_values("epoch")[["epoch", accuracy]].itertuples(index=False)
        seeds.append(tuple(
            dot(epoch, value, f"seed {seed}, epoch {epoch}: {percent(value)}")
            for epoch, value in rows
        ))  # fmt: skip
    means: Any = history.groupby("epoch")["train_accuracy"].mean().dropna().items()
    values = MaxNLocator(nbins=5).tick_values(low, high)
    return Curves(
        seeds=tuple(seeds),
        train=tuple(dot(epoch, value, f"{epoch}") for epoch, value in means),
        ticks=tuple(dot(1, value, percent(value)) for value in values if low <= value <= high),
        epochs=tuple(dot(e, low, f"{e}") for e in range(1, longest + 1, max(1, longest // 7))),
        bar=dot(1, bar, percent(bar)) if bar is not None and low <= bar <= high else None,
    )
