"""The pictures of a report, with the words that go with them."""

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from mnist_exp.common.words import percent
from mnist_exp.evidence.comparison import Comparison
from mnist_exp.evidence.effect import Effect
from mnist_exp.evidence.mistakes import Mistakes
from mnist_exp.evidence.references import public_results
from mnist_exp.evidence.verdict import as_frame
from mnist_exp.recipe import Target
from mnist_exp.showing import beside, fields, iterations, one_run
from mnist_exp.showing.style import INK, PAPER
from mnist_exp.showing.tables import label


@dataclass(frozen=True)
class Picture:
    """A figure with the words that go with it; `alt` says what it shows to those who can't see."""

    name: str
    figure: Figure
    alt: str
    caption: str

    @cached_property
    def svg(self) -> Markup:
        """The figure as part of a page: in the page's ink, without a background."""
        text = svg(self.figure, self.name)
        text = text[text.index("<svg") :]
        text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
        text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
        # Ids are a figure's own; on a page they would meet those of the others.
        text = re.sub(r'(\bid="|="#|url\(#)', rf"\1{self.name}-", text)
        label = Markup('<svg role="img" aria-label="{}"').format(self.alt)
        text = text.replace("<svg", label, 1)
        text = text.replace(INK, "currentColor").replace(PAPER, "none")
        return Markup(text)

    def svg_for(self, number: int) -> Markup:
        """The same once more, with ids that are those of an iteration."""
        return Markup(str(self.svg).replace(f"{self.name}-", f"{self.name}-of-{number}-"))


def svg(figure: Figure, name: str) -> str:
    """A figure as SVG, always the same for the same figure; `name` sets its ids apart on a page."""
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), _any_names():
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def write_figures(pictures: Iterable[Picture], folder: Path, formats: Iterable[str]) -> None:
    """Write each picture to `folder` in each of `formats`, "svg" or "png"."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        if "svg" in formats:
            text = svg(picture.figure, picture.name).replace(PAPER, "#ffffff")
            (folder / f"{picture.name}.svg").write_text(text, encoding="utf-8")
        if "png" in formats:
            with _any_names():
                picture.figure.savefig(folder / f"{picture.name}.png", dpi=130)


@contextmanager
def _any_names() -> Iterator[None]:
    """A block that draws names of people, in letters that the font may not have: a page shows them
    in a font of its reader's, and a picture has boxes in their place."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def accuracy_picture(comparison: Comparison, labels: Mapping[int, str]) -> Picture:
    """How the iterations trained, in the runs that count."""
    split, target = comparison.split, _target_of(comparison)
    dashed = (
        f" The dashed line is the {percent(target.test_accuracy)} of the target." if target else ""
    )
    return Picture(
        "accuracy",
        iterations.accuracy_by_seed(
            comparison.counting,
            comparison.counting_history,
            target,
            labels,
            split,
            {effect.model: effect.baseline for effect in comparison.effects},
        ),
        f"Train and {split} accuracy per epoch, a panel per iteration, or per family of many. The "
        "figures are in history.csv; the table above has the best, final and worst.",
        f"Train and {split} accuracy per epoch: a thin line per seed (a band where there are "
        f"many), and the mean.{dashed} Each panel has an axis of its own, and what is below it is "
        "cut off.",
    )


def final_picture(comparison: Comparison, labels: Mapping[int, str]) -> Picture:
    """What each run reached."""
    split, counting = comparison.split, comparison.counting
    words = "; ".join(
        f"{label(verdict.model, verdict.title)}: {percent(verdict.final_accuracy)}"
        for verdict in comparison.verdicts
    )
    return Picture(
        "final",
        beside.final_by_seed(counting, labels, _target_of(comparison), split),
        f"Final {split} accuracy, mean over seeds. {words}.",
        f"The {split} accuracy of each after its last epoch: a point per seed, and their mean.",
    )


def sizes_picture(comparison: Comparison, labels: Mapping[int, str]) -> Picture:
    """How large each is, and what it reached."""
    split, verdicts = comparison.split, as_frame(comparison.verdicts)
    rows: Any = verdicts.itertuples()
    words = "; ".join(
        f"{labels[row.model]}: {row.parameters:,} parameters, {percent(row.final_accuracy)}"
        for row in rows
    )
    return Picture(
        "sizes",
        beside.sizes(verdicts, labels, _target_of(comparison), split),
        f"Parameters against the final {split} accuracy. {words}.",
        f"Parameters against the final {split} accuracy, the mean over seeds.",
    )


def _target_of(comparison: Comparison) -> Target | None:
    """The target, where the runs can be judged by it."""
    return comparison.target if comparison.split == "test" else None


def price_picture(comparison: Comparison, labels: Mapping[int, str] | None = None) -> Picture:
    """What accuracy costs in parameters; beside public results, unless iterations have `labels`."""
    verdicts, target = as_frame(comparison.verdicts), comparison.target
    public = public_results()
    if labels:
        public = public[:0]
    rows: Any = verdicts.itertuples()
    worst = "; ".join(
        f"model {row.model}: {row.parameters:,} parameters, {percent(row.worst_accuracy)}"
        for row in rows
    )
    rows = public.itertuples()
    reference = "; ".join(
        f"{row.source}: {row.parameters:,} parameters, {percent(row.lowest)}" for row in rows
    )
    about_public = (
        " Squares are the best public results under the same rules, of one seed each "
        "(experiments/public.csv)."
    )
    return Picture(
        "price",
        iterations.price(verdicts, target, public, labels),
        f"Parameters against the worst test accuracy. {worst}."
        + f" Public results: {reference}." * (not labels),
        f"Parameters against the worst test accuracy in the last {target.last_epochs} epochs over "
        "all seeds; below the break on another scale, and by an arrow where there are far more "
        "parameters. No iteration is smaller and better than those on the frontier."
        + about_public
        * (not labels),
    )


def effects_picture(
    steps: Sequence[Effect], split: str, labels: Mapping[int, str] | None = None
) -> Picture:
    """What each step did to the accuracy; with `labels`, against one that is the same for all."""
    words = "; ".join(f"model {step.model} against {step.baseline}: {step}" for step in steps)
    origin = (
        f"model {steps[0].baseline}" if labels
        else "the iteration that each was made from (of those before it, the one whose code is "
        "nearest)"
    )  # fmt: skip
    also = " That on the worst of the last epochs is told with each." if split == "test" else ""
    return Picture(
        "effects",
        iterations.effects(steps, labels, split),
        f"Differences of final {split} accuracy. {words}.",
        f"The difference of final {split} accuracy to {origin}, mean over the seeds that both have "
        "run. The bars are bootstrap 95 % intervals, which are too narrow with few pairs "
        "(of three: the range of the differences); a hollow point has too few seeds for one."
        + also,
    )


def growth(name: str, models: str, table: pd.DataFrame, seen: str, stops: str) -> Picture:
    """How much each layer of `models` sees, from their receptive-field table; `seen` says it in
    words, and `stops` why the table ends before the network does, if it does."""
    end = f" It is not known from there on: {stops}." if stops else ""
    return Picture(
        name,
        fields.receptive_field_growth(table, stops),
        f"Pixels that each layer sees: {seen}.{end}",
        f"{models}: how much of the input each layer sees. The shaded band is the input.{end}",
    )


def confusion_picture(run_name: str, mistakes: Mistakes) -> Picture:
    """What a run takes for what."""
    pairs = mistakes.counts.melt(value_name="digits", ignore_index=False).reset_index()
    pairs = pairs[(pairs["truth"] != pairs["guess"]) & (pairs["digits"] > 0)]
    rows: Any = pairs.nlargest(3, "digits", keep="all").itertuples()
    most = ", ".join(f"{row.truth} for {row.guess} ({row.digits})" for row in rows) or "none"
    return Picture(
        "confusion_matrix",
        one_run.confusion_matrix(mistakes.counts, run_name),
        f"Confusion matrix of {run_name}. Most often taken: {most}.",
        f"How often each digit was taken for which. Most often: {most}.",
    )


def misclassified_picture(mistakes: Mistakes) -> Picture:
    """Each digit that is wrong."""
    return Picture(
        "misclassified",
        one_run.misclassified(mistakes.images, mistakes.misclassified),
        f"The {len(mistakes.images)} misclassified digits.",
        "The misclassified digits, the most certain mistakes first: truth → guess, and the "
        "probability that the network gives its guess, in percent.",
    )
