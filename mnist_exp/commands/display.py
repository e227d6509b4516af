"""What a person sees: bars and lines while trainings go on, and the table of verdicts."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from mnist_exp.commands import terminal
from mnist_exp.common.words import duration, percent, printable
from mnist_exp.evidence.verdict import TARGET_MET
from mnist_exp.runs.progress import Pace, Standing

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from mnist_exp.evidence.effect import Effect
    from mnist_exp.evidence.recipes import TriedRecipe
    from mnist_exp.evidence.verdict import Verdict
    from mnist_exp.runs.job import Job
    from mnist_exp.runs.sweep import Sweep
    from mnist_exp.runs.worker import JobResult, Report
    from mnist_exp.training.loop import EpochResult, Progress, Score


LEAST_TEXT = len("not recorded")
"""Characters that are left of any text in a table."""
LEAST_ROOM, INDENT = 20, 4
"""Characters in which the last column of a table is wrapped; where there is less room, it goes
below the others, so far from the left."""
MODEL = "model {}".format
"""What an iteration is called by its number."""


class ProgressDisplay:
    """The curve of a run and a bar over all of it on a terminal, a plain line per epoch everywhere.

    `bar` is the accuracy that the target asks for; there is no curve without it.
    """

    def __init__(self, epochs: int, split: str, bar: float | None = None) -> None:
        self.epochs, self.split, self.bar = epochs, split, bar
        self.accuracies: dict[int, float] = {}
        self.pace = Pace(epochs, every=1 / terminal.PER_SECOND)
        self.standing: Standing | None = None
        self.train: Score | None = None
        self.screen = terminal.Screen(self._drawn, stays=bar is not None)

    def __enter__(self) -> ProgressDisplay:
        self.screen.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.standing = None
        self.screen.__exit__()

    def batch(self, progress: Progress) -> None:
        if standing := self.pace.batch(progress):
            self.standing, self.train = standing, progress.train
            self.screen.refresh()

    def epoch(self, result: EpochResult) -> None:
        self.pace.epoch(result)
        self.accuracies[result.epoch] = result.evaluation.accuracy
        terminal.tell(
            f"epoch {result.epoch:2}/{self.epochs}  loss {result.train.loss:.4f}  "
            f"train {percent(result.train.accuracy)}  "
            f"{self.split} {percent(result.evaluation.accuracy)}  {result.seconds:.1f} s"
            + "".join(f"  {name} {value:.4g}" for name, value in result.metrics.items())
        )

    def _drawn(self, width: int) -> RenderableType:
        from mnist_exp.commands import drawing

        parts: list[RenderableType] = []
        if self.bar is not None and self.accuracies:
            parts.append(f"{self.split} accuracy by epoch, and the bar of {percent(self.bar)}")
            parts.append(drawing.curve(self.accuracies, self.epochs, self.bar, width))
        if self.standing and self.train:
            note = f"loss {self.train.loss:.4f}, train {percent(self.train.accuracy)}"
            parts.append(drawing.progress(self.standing, note))
        return drawing.below(*parts)


class SweepDisplay:
    """A line per training under way, and the seeds that pass so far, on a terminal; a line per
    training that ends, everywhere. `held` are the verdicts on what was there before."""

    def __init__(self, sweep: Sweep, held: Sequence[Verdict] = ()) -> None:
        self.sweep, self.at_once = sweep, 1
        self.seconds: list[float] = []
        self.under_way: dict[Job, Report] = {}
        self.ended: set[Job] = set()
        self.settled = {number for number in sweep.models if sweep.settled(number)}
        self.workers: list[str] = []
        self.judged = sweep.split == "test" and not sweep.grid
        self.passing = {f"model {number}": (0, 0) for number in sweep.models}
        for verdict in held:
            self.passing[f"model {verdict.model}"] = verdict.passing, len(verdict.seeds)
        self.screen = terminal.Screen(self._drawn, by_itself=True)

    def __enter__(self) -> SweepDisplay:
        self.screen.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.screen.__exit__()

    def start(self, at_once: int, together: int = 1) -> None:
        """So many trainings go on at once, each of so many seeds as one network."""
        self.at_once = at_once
        terminal.tell(f"{len(self.sweep.missing)} to train, {at_once * together} at once")

    def report(self, report: Report) -> None:
        if report.job not in self.ended:
            self.under_way[report.job] = report

    def result(self, result: JobResult) -> None:
        self.ended.add(result.job)
        self.under_way.pop(result.job, None)
        if result.spared:
            return
        self.seconds.append(result.seconds)
        if not result.failure:
            name = f"model {result.job.model}"
            passing, seeds = self.passing[name]
            self.passing[name] = passing + (result.verdict == TARGET_MET), seeds + 1
        left = sum(self._is_left(job) for job in self.sweep.missing)
        expected = sum(self.seconds) / len(self.seconds) * math.ceil(left / self.at_once)
        ended = result.failure or f"{self.sweep.split} {percent(result.accuracy)}, {result.verdict}"
        line = f"{result.job.name}: {ended} ({duration(result.seconds)})"
        terminal.tell(f"{line}; {left} left, about {duration(expected)}" if left else line)
        self._tell_settled(result.job.model)

    def _is_left(self, job: Job) -> bool:
        begun = self.under_way.get(job)
        under_way = begun is not None and begun.standing is not None
        return job not in self.ended and (under_way or not self.sweep.settled(job.model))

    def _tell_settled(self, model: int) -> None:
        """Say of an iteration, once, that no further seed of it is trained."""
        if self.sweep.stopping and self.sweep.settled(model) and model not in self.settled:
            self.settled.add(model)
            seen = self.sweep.stopping.asked(model)
            count = f"{seen.answer}, {seen.passed} of {seen.passed + seen.failed}"
            terminal.tell(f"model {model}: {count}; no further seed of it is trained")

    def _drawn(self, width: int) -> RenderableType:
        from mnist_exp.commands import drawing

        reports = list(self.under_way.values())  # to which another thread adds
        lines = [drawing.UnderWay(x.job.name, self._worker(x), x.standing) for x in reports]
        count = f"{len(self.seconds)} of {len(self.sweep.missing)} trained"
        passing = drawing.passing(self.passing) if self.judged else ""
        return drawing.below(count, passing, drawing.trainings(lines, "training", width))

    def _worker(self, report: Report) -> str:
        """What the worker is called: by a number on this machine, where no port means anything."""
        if report.worker not in self.workers:
            self.workers.append(report.worker)
        place = report.worker.partition("://")[2]
        is_here = place.startswith("127.0.0.1:")
        return f"worker {self.workers.index(report.worker) + 1}" if is_here else place


def print_table(table: pd.DataFrame, words: Collection[str], cut: Collection[int] = ()) -> None:
    """Print a table of texts, of which the columns `words` begin at their left.

    Where it is wider than the terminal, or than 100 characters, the longest of its texts are
    shortened, but no numbers; a last column of words is wrapped instead, or goes below the others,
    but in the rows `cut`, in which it is cut off.
    """
    most = shutil.get_terminal_size((100, 24)).columns
    columns = {name: [printable(text) for text in (name, *table[name])] for name in map(str, table)}
    name = str(table.columns[-1])
    last = columns.pop(name) if name in words else [""] * (len(table) + 1)
    aligned = []
    for name, texts in _shortened(columns, most).items():
        width = max(map(len, texts))
        adjust = str.ljust if name in words else str.rjust
        aligned.append([adjust(text, width) for text in texts])
    rows = zip(map("  ".join, zip(*aligned, strict=True)), last, strict=True)
    for row, (line, text) in enumerate(rows, start=-1):
        style = "bold" if row < 0 else ""
        if row in cut:
            whole = f"{line}  {text}"
            terminal.say(whole if len(whole) <= most else f"{whole[: most - 1]}…", style)
            continue
        indent = len(line) + 2 if len(line) + 2 + LEAST_ROOM <= most else INDENT
        beside = len(line) + 2 + len(text) <= most
        lines = textwrap.wrap(text, max(LEAST_ROOM, most - indent), break_on_hyphens=False)
        if lines and (beside or indent > INDENT):
            line = f"{line}  {lines.pop(0)}"
        for piece in [line.rstrip(), *(" " * indent + piece for piece in lines)]:
            terminal.say(piece, style)


def _shortened(columns: Mapping[str, list[str]], most: int) -> Mapping[str, list[str]]:
    """The columns with their longest texts cut, if need be, but for numbers, names of columns and
    what the first column holds."""

    def cut(text: str, longest: int) -> str:
        is_number = text[:1].isdigit() or text[:1] in "+-"
        return text if is_number or len(text) <= longest else f"{text[: longest - 1]}…"

    first, *others = columns
    for longest in range(most, LEAST_TEXT - 1, -1):
        shortened = {first: columns[first]}
        for name in others:
            head, *texts = columns[name]
            shortened[name] = [head, *(cut(text, longest) for text in texts)]
        if sum(2 + max(map(len, texts)) for texts in shortened.values()) - 2 <= most:
            break
    return shortened


def print_effects(
    effects: Sequence[Effect], split: str, named: Callable[[int], str] = MODEL
) -> None:
    """A line for each difference of two iterations, or of what else is `named` by number."""
    if not effects:
        return
    if terminal.draws(sys.stdout):
        named = "{}".format if named is MODEL else named  # so that a line has room
    print(f"\nFinal {split} accuracy, paired by seed:")
    for effect in effects:
        line = f"  {named(effect.model)} against {named(effect.baseline)}: {effect}"
        terminal.say(line, indent=INDENT)


def print_effects_on_both(effects: Sequence[tuple[Effect, Effect]]) -> None:
    """A table of the differences on the worst of the last epochs and on the final accuracy."""
    from mnist_exp.notebook import loading
    from mnist_exp.showing import tables

    if effects:
        print("\nDifferences of test accuracy in points, paired by seed, with 95 % intervals:")
        print_table(tables.shown_effects(effects, loading.load_target()), [])


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """A table of verdicts, and what decides each."""
    from mnist_exp.notebook import loading
    from mnist_exp.showing import style, tables

    target = loading.load_target()
    judged = [verdict for verdict in verdicts if verdict.split == "test"]
    seen = terminal.draws(sys.stdout)
    if seen:
        table = tables.drawn_verdicts(verdicts, target, wide=terminal.is_wide())
    else:
        table = tables.brief_verdicts(verdicts, target)
    numbered = [row for row, verdict in enumerate(verdicts) if verdict.model is not None]
    print_table(table, ["idea"], cut=numbered)  # the others have no other name
    if judged:
        print()
    if judged and seen:
        every, some, none = style.MARKS
        terminal.say(f"{every} met on every seed  {some} on some  {none} on none")
    if seen and any(verdict.luck > 0 for verdict in verdicts):
        terminal.say("luck: the ± in points if each digit's being wrong were chance alone")
    for verdict in judged:
        if not seen:
            print(f"{verdict.name}: {verdict.answer}; {verdict.reason}")
        elif not verdict.met:  # of the others, the table has it all
            mark = style.mark(verdict.passing, len(verdict.seeds))
            terminal.say(f"{mark} {verdict.name}: {verdict.reason}")


def print_tried(tried: Mapping[int, Sequence[TriedRecipe]], split: str) -> None:
    """A table of what was tried of each iteration, best first."""
    from mnist_exp.showing import tables

    for number, recipes in tried.items():
        if recipes:
            print(f"\nModel {number}:")
            print_table(tables.shown_tried(recipes, split), ["settings"])
    print("What is overridden does not count for its iteration.")


def print_cautions(cautions: Sequence[str]) -> None:
    """What makes numbers less certain, a line each."""
    for caution in cautions:
        print(f"take care: {caution}")
