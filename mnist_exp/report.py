"""Comparisons in, pages and pictures out."""

import base64
import contextlib
import io
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from mnist_exp import ExpectedError, __version__, figures, markdown, tracking
from mnist_exp.common.words import counted, percent
from mnist_exp.evidence import comparison, references
from mnist_exp.evidence.comparison import Comparison
from mnist_exp.evidence.effect import Effect
from mnist_exp.evidence.verdict import pass_rate_bound
from mnist_exp.notebook.entries import Entry
from mnist_exp.recipe import Target
from mnist_exp.showing import one_run, tables
from mnist_exp.showing.style import INK, PAPER
from mnist_exp.showing.tables import plain
from mnist_exp.tracking import names, ui
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
MOST_EMBEDDED = 2_000_000
"""Bytes of a table that the page holds itself; a larger one stays beside it."""


@dataclass(frozen=True)
class Picture:
    """A figure with the words that go with it; `alt` says what it shows to those who can't see."""

    name: str
    figure: Figure
    alt: str
    caption: str

    @property
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


def write(found: Comparison, folder: Path) -> Path:
    """Write the page, its Markdown, figures and tables to `folder`; returns the page."""
    tables = {
        "verdicts.csv": (found.verdicts, "one row per iteration"),
        "runs.csv": (found.runs, "one row per run, with its scores and why it does not count"),
        "history.csv": (found.history, "one row per run and epoch"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (table, _) in tables.items():
        table.to_csv(folder / name, index=False)
    files = [
        {"name": name, "what": what, "uri": _embedded(folder / name)}
        for name, (_, what) in tables.items()
    ]
    shutil.rmtree(folder / "figures", ignore_errors=True)  # those of an earlier report
    content = contents(found)
    write_figures(content["pictures"].values(), folder / "figures", ("svg", "png"))
    (folder / "comparison.md").write_text(as_markdown(content, "figures"), encoding="utf-8")
    page = folder / "comparison.html"
    environment = _templates(autoescape=True, finalize=_unbroken)
    template = environment.get_template("comparison.html.j2")
    page.write_text(template.render(content | {"files": files}), encoding="utf-8")
    return page


def as_markdown(content: dict[str, Any], figure_folder: str) -> str:
    """The report as Markdown, which finds its figures in `figure_folder`."""
    environment = _templates(autoescape=True, finalize=_markdown)
    template = environment.get_template("comparison.md.j2")
    return template.render(content | {"figures": figure_folder})


def write_figures(pictures: Iterable[Picture], folder: Path, formats: Iterable[str]) -> None:
    """Write each picture to `folder` in each of `formats`, "svg" or "png"."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        if "svg" in formats:
            text = svg(picture.figure, picture.name).replace(PAPER, "#ffffff")
            (folder / f"{picture.name}.svg").write_text(text, encoding="utf-8")
        if "png" in formats:
            picture.figure.savefig(folder / f"{picture.name}.png", dpi=130)


def contents(found: Comparison) -> dict[str, Any]:
    """Everything a report says, by the names that the templates use."""
    counting, verdicts = found.counting, found.verdicts
    fields, field_pictures = _fields(found)
    mistakes, mistake_pictures = _mistakes(found)
    steps = found.steps()
    effects = [effect for effect in steps if effect.seeds]
    pictures = [*field_pictures, *mistake_pictures]
    if effects:
        pictures.append(_effects_picture(effects))
    if len(verdicts):
        pictures += _overview(found)
    return {
        "title": "MNIST iterations compared",
        "target": target_text(found.target),
        "summary": summary(found),
        "made": f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by mnist-exp {__version__} from "
        f"{counted(len(found.runs), 'run')}, of which {len(counting):,} "
        f"count{'s' if len(counting) == 1 else ''}.",
        "verdicts": tables.shown(verdicts, found.target).assign(
            **{"made again by": [_command(row) for row in _rows(verdicts)]}
        ),
        "reasons": list(_rows(verdicts)),
        "uncounted": found.uncounted,
        "choices": found.choices,
        "support": SUPPORT,
        "tried": _tried(found),
        "candidates": tables.shown_candidates(found.candidates, found.target),
        "steps": _steps(found, steps),
        "published": _published(found),
        "chance": CHANCE,
        "fields": fields,
        "mistakes": mistakes,
        "no_mistakes": "No run that counts holds its misclassified digits.",
        "origin": _origin(found),
        "pictures": {picture.name: picture for picture in pictures},
    }


def summary(found: Comparison) -> str:
    """How many iterations meet the target, as a sentence."""
    if found.verdicts.empty:
        return "No run counts yet, so nothing is judged."
    met = int(found.verdicts["met"].sum())
    return (
        f"{met} of {counted(len(found.verdicts), 'iteration')} "
        f"meet{'s' if met == 1 else ''} the target on every seed that was run."
    )


def target_text(target: Target) -> str:
    """The target as a sentence without its full stop."""
    return (
        f"test accuracy of at least {percent(target.test_accuracy)} in every one of the last "
        f"{target.last_epochs} epochs, in at most {target.max_epochs} epochs, with fewer than "
        f"{target.parameters_below:,} parameters"
    )


def _command(row: Any) -> str:
    """What trains the runs of a row of verdicts, in a store without them."""
    seeds = row.which_seeds
    seeds = f"{seeds}-{seeds}" if seeds.isdigit() else seeds  # a lone number would be how many
    return f'make sweep MODELS={row.model} SEEDS="{seeds}"'


def _tried(found: Comparison) -> str:
    """How much choosing and computing there was."""
    tested = counted(len(found.verdicts), "iteration")
    recipes = counted(len(found.candidates), "recipe")
    trials = counted(len(found.trials), "run")
    return (
        f"{recipes} tried on the validation split, in {trials}. With those for the verdicts, and "
        f"all that do not count, this took {found.core_hours:.1f} hours of a processor core. "
        f"{tested} in all had their test digits scored: where each is written after the scores of "
        "those before it, what the last of many reaches says less than it would alone."
    )


def _overview(found: Comparison) -> list[Picture]:
    bar = percent(found.target.test_accuracy)
    accuracy = Picture(
        "accuracy",
        figures.accuracy_by_seed(found.counting, found.history, found.target),
        "Train and test accuracy per epoch, one panel per iteration. The figures are in "
        "history.csv; the table above has the best, final and worst.",
        f"Train and test accuracy per epoch: a thin line per seed (a band where there are many), "
        f"and the mean. The dashed line is the {bar} of the target; what is below "
        f"{percent(figures.SHOWN[0])} is cut off.",
    )
    worst = "; ".join(
        f"model {row.model}: {row.parameters:,} parameters, {percent(row.worst_accuracy)}"
        for row in _rows(found.verdicts)
    )
    public = references.public_results()
    reference = "; ".join(
        f"{row.source}: {row.parameters:,} parameters, {percent(row.lowest)}"
        for row in _rows(public)
    )
    price = Picture(
        "price",
        figures.price(found.verdicts, found.target, public),
        f"Parameters against the worst test accuracy. {worst}. Public results: {reference}.",
        f"Parameters against the worst test accuracy in the last {found.target.last_epochs} epochs "
        "over all seeds. No iteration is smaller and better than those on the frontier; the target "
        "is to the left of the dotted and above the dashed line. What is far from it is off the "
        "scale. Diamonds are the best public "
        "results under the same rules, of one seed each (experiments/public.csv).",
    )
    return [accuracy, price]


def _effects_picture(effects: list[Effect]) -> Picture:
    said = "; ".join(f"model {e.model} against {e.baseline}: {e}" for e in effects)
    return Picture(
        "effects",
        figures.effects(effects),
        f"The effect of each step on final test accuracy. {said}.",
        "The difference of final test accuracy to the iteration that each was made from (of those "
        "before it, the one whose code is nearest), mean over the seeds that both have run. The "
        "bars are bootstrap 95 % intervals, which are too narrow with few pairs "
        "(of three: the range of the differences); a hollow point has too few seeds for one.",
    )


def _steps(found: Comparison, effects: list[Effect]) -> list[Step]:
    by_model = {effect.model: effect for effect in effects}
    steps = []
    for number, iteration in found.iterations.items():
        effect = by_model.get(number)
        if effect is None:  # the first has none before it
            steps.append(Step(iteration))
        else:
            before = found.iterations[effect.baseline]
            steps.append(Step(iteration, effect, comparison.changed_lines(before, iteration)))
    return steps


def _published(found: Comparison) -> pd.DataFrame:
    table = references.course_figures(found)
    return pd.DataFrame(
        {
            "model": table["model"].map(str),
            "figure": table["quantity"],
            "published": table["published"].map(percent),
            "seeds": table["seeds"].map(str),
            "measured": [
                percent(row.low)
                if row.low == row.high
                else f"{percent(row.low)} to {percent(row.high)}"
                for row in _rows(table)
            ],
            "published value": [
                "inside" if row.inside else "above" if row.published > row.high else "below"
                for row in _rows(table)
            ],
        }
    )


def _fields(found: Comparison) -> tuple[list[dict[str, Any]], list[Picture]]:
    """The receptive-field tables; iterations with the same one share it."""
    groups: dict[str, dict[str, Any]] = {}
    for model, runs in found.counting.groupby("model"):
        run = runs.iloc[-1]
        table = tracking.table(run["run_id"], Table.RECEPTIVE_FIELD)
        key = table.to_csv() if table is not None else f"none {model}"
        group = groups.setdefault(key, {"numbers": [], "table": table, "run": run})
        group["numbers"].append(model)
    fields, pictures = [], []
    for group in groups.values():
        numbers, table = group["numbers"], group["table"]
        models = f"Model{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
        name = f"receptive_field_{numbers[0]}"
        if table is not None:
            with _evidence(group["run"]):
                texts = _field_texts(table)
                seen = ", ".join(texts["layer"] + " " + texts["r_out"])
                pictures.append(
                    Picture(
                        name,
                        figures.receptive_field_growth(table),
                        f"Pixels that each layer sees: {seen}.",
                        f"{models}: how much of the input each layer sees. The shaded band is the "
                        "input.",
                    )
                )
                table = texts
        known = str(group["run"]["receptive_field"])
        reason = known if known.startswith("unknown") else "the run has none"
        fields.append({"models": models, "name": name, "table": table, "reason": reason})
    return fields, pictures


def _field_texts(table: pd.DataFrame) -> pd.DataFrame:
    """A receptive-field table as it is shown: `3`, or `3x5` where height and width differ."""
    height, width = (
        figures.along(table, side)
        .drop(columns=["dilation", "start", "misaligned"], errors="ignore")
        .astype(object)
        .map(plain)
        for side in ("height", "width")
    )
    return height.where(height == width, height + "x" + width)


def _rows(table: pd.DataFrame) -> Any:
    """Its rows as named tuples."""
    return table.itertuples(index=False)


@contextlib.contextmanager
def _evidence(run: pd.Series) -> Iterator[None]:
    """Tables and images of a run that anyone may have changed are shown in the block."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ExpectedError(
            f"the tables of run {run['run_id']} are not as a run writes them "
            f"({type(error).__name__}: {error}): delete the run in the UI, and train it again"
        ) from error


def _mistakes(found: Comparison) -> tuple[dict[str, Any] | None, list[Picture]]:
    run = found.best_run()
    wrong = None if run is None else tracking.table(run["run_id"], Table.MISCLASSIFIED)
    counts = None if run is None else tracking.table(run["run_id"], Table.CONFUSION_MATRIX)
    if run is None or wrong is None or counts is None:
        return None, []
    with _evidence(run):
        return _shown_mistakes(found, run, wrong, counts)


def _shown_mistakes(
    found: Comparison, run: pd.Series, wrong: pd.DataFrame, counts: pd.DataFrame
) -> tuple[dict[str, Any], list[Picture]]:
    counts = counts.set_index("truth").astype(int).rename_axis(columns="guess")
    name = f"{run['run_name']}"
    what = (
        f"{name}, the run with the highest worst accuracy in the last {found.target.last_epochs} "
        f"epochs ({percent(run['worst_accuracy'])}), misclassifies {len(wrong)} of "
        f"{int(run['test_images']):,} test digits after its last epoch."
    )
    pairs = counts.reset_index().melt("truth", var_name="guess", value_name="digits")
    pairs = pairs[(pairs["truth"].astype(str) != pairs["guess"]) & (pairs["digits"] > 0)]
    pairs = pairs.nlargest(3, "digits", keep="all")
    most = ", ".join(f"{p.truth} for {p.guess} ({p.digits})" for p in _rows(pairs)) or "none"
    confusion = Picture(
        "confusion_matrix",
        one_run.confusion_matrix(counts, name),
        f"Confusion matrix of {name}. Most often taken: {most}.",
        f"How often each digit was taken for which. Most often: {most}.",
    )
    pictures, digits = [confusion], []
    sheet = tracking.image(run["run_id"], names.Image.MISCLASSIFIED)
    if sheet is not None:
        images = one_run.from_rows(sheet, len(wrong))
        wrong = wrong.sort_values("probability", ascending=False, kind="stable")
        images = images[wrong.index]
        pictures.append(
            Picture(
                "misclassified",
                one_run.misclassified(images, wrong),
                f"The {len(wrong)} misclassified digits.",
                "The misclassified digits, the most certain mistakes first: truth → guess, and the "
                "probability that the network gives its guess, in percent.",
            )
        )
        digits = [
            {
                "index": row.index,
                "truth": row.truth,
                "guess": row.guess,
                "probability": percent(row.probability),
                "image": _image_uri(image),
            }
            for image, row in zip(images, _rows(wrong), strict=True)
        ]
    address = ui.run_address(run["experiment_id"], run["run_id"])
    return {"what": what, "address": address, "digits": digits}, pictures


def _origin(found: Comparison) -> dict[str, Any]:
    newest = found.runs.sort_values("start_time", ascending=False, kind="stable").head(MOST_RUNS)
    texts = {
        "run": newest["run_name"],
        "run id": newest["run_id"],
        "started (UTC)": newest["start_time"].dt.strftime("%Y-%m-%d %H:%M"),
        "wall time": (newest["end_time"] - newest["start_time"]).map(_duration),
        "counts": newest["excluded"].where(newest["excluded"] != "", "yes"),
        "commit": newest["git_commit"].astype(str).str[:10],
        "uncommitted changes": newest["git_dirty"].map({"true": "yes", "false": "no"}),
        "code hash": newest["code_sha256"].astype(str).str[:10],
        "machine": newest["machine"],
        "threads": newest["threads"],
        "python": newest["python"],
        "torch": newest["torch"],
        "mlflow": newest["mlflow"],
        "imported from": newest["imported_from"].map(plain).str[:10],
    }
    table = pd.DataFrame({name: column.map(plain) for name, column in texts.items()})
    addresses = [ui.run_address(run.experiment_id, run.run_id) for run in _rows(newest)]
    caption = "The runs, newest first"
    if len(found.runs) > MOST_RUNS:
        caption += f": {MOST_RUNS} of {len(found.runs):,}; runs.csv has all"
    rows = list(zip(addresses, table.itertuples(index=False, name=None), strict=True))
    return {"caption": caption, "table": table, "rows": rows}


def _duration(length: pd.Timedelta) -> str:
    if pd.isna(length):
        return ""
    minutes, seconds = divmod(round(length.total_seconds()), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def svg(figure: Figure, name: str) -> str:
    """A figure as SVG, always the same for the same figure; `name` sets its ids apart on a page."""
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _embedded(file: Path) -> str:
    content = file.read_bytes()
    if len(content) > MOST_EMBEDDED:
        return ""
    return f"data:text/csv;base64,{base64.b64encode(content).decode()}"


def _image_uri(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _templates(**options: Any) -> jinja2.Environment:
    loader = jinja2.PackageLoader("mnist_exp")
    return jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, **options)


def _unbroken(value: Any) -> Any:
    """A percent sign stays on the line of its number."""
    return value.replace(" %", "\N{NO-BREAK SPACE}%") if isinstance(value, str) else value


def _markdown(value: object) -> Markup:
    """Any value as Markdown that shows it as it is."""
    return value if isinstance(value, Markup) else Markup(markdown.escape(str(value)))
