"""What a person sees: bars and lines while trainings go on, and the table of verdicts."""

from __future__ import annotations

import errno
import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from mnist_exp.common.words import duration, percent, printable

if TYPE_CHECKING:
    import pandas as pd

    from mnist_exp.evidence.effect import Effect
    from mnist_exp.evidence.tried import TriedRecipe
    from mnist_exp.evidence.verdict import Verdict
    from mnist_exp.runs.sweep import Sweep
    from mnist_exp.runs.worker import JobResult
    from mnist_exp.training.loop import EpochResult, Progress


LEAST_TEXT = len("not recorded")
"""Characters that are left of any text in a table."""
LEAST_ROOM, INDENT = 20, 4
"""Characters in which the last column of a table is wrapped; where there is less room, it goes
below the others, so far from the left."""


class ProgressDisplay:
    """A bar over the whole run on a terminal, a plain line per epoch everywhere."""

    def __init__(self, epochs: int, split: str) -> None:
        self.epochs, self.split = epochs, split
        form = "{desc} {bar} {percentage:3.0f} %{postfix}, {remaining} left"
        self.bar = tqdm(disable=not sys.stderr.isatty(), leave=False, bar_format=form, miniters=1)

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def batch(self, progress: Progress) -> None:
        if self.bar.disable:
            return
        done = (progress.epoch - 1) * progress.batches + progress.batch
        if self.bar.n == 0:  # a resumed run has some behind it
            self.bar.initial = self.bar.n = done - 1
        self.bar.total = self.epochs * progress.batches
        train = progress.train
        self.bar.set_description_str(f"epoch {progress.epoch}/{self.epochs}", refresh=False)
        postfix = f"loss {train.loss:.4f}, train {percent(train.accuracy)}"
        self.bar.set_postfix_str(postfix, refresh=False)
        self.bar.update(done - self.bar.n)

    def epoch(self, result: EpochResult) -> None:
        _write(
            self.bar,
            f"epoch {result.epoch:2}/{self.epochs}  loss {result.train.loss:.4f}  "
            f"train {percent(result.train.accuracy)}  "
            f"{self.split} {percent(result.evaluation.accuracy)}  {result.seconds:.1f} s"
            + "".join(f"  {name} {value:.4g}" for name, value in result.metrics.items()),
        )


class SweepDisplay:
    """A bar over the sweep on a terminal, and a line per training that ends, everywhere."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.at_once = sweep, 1
        self.seconds: list[float] = []
        self.bar = tqdm(
            total=len(sweep.missing), disable=not sys.stderr.isatty(), leave=False,
            bar_format="{desc}{bar} {n}/{total}",
        )  # fmt: skip

    def __enter__(self) -> SweepDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def start(self, at_once: int) -> None:
        self.at_once = at_once
        _write(self.bar, f"{len(self.sweep.missing)} to train, {at_once} at once")

    def result(self, result: JobResult) -> None:
        self.seconds.append(result.seconds)
        left = len(self.sweep.missing) - len(self.seconds)
        expected = sum(self.seconds) / len(self.seconds) * math.ceil(left / self.at_once)
        ended = result.failure or f"{self.sweep.split} {percent(result.accuracy)}, {result.verdict}"
        line = f"{result.job.name}: {ended} ({duration(result.seconds)})"
        self.bar.update()
        _write(self.bar, f"{line}; {left} left, about {duration(expected)}" if left else line)


def _write(bar: tqdm, line: str) -> None:
    """Print a line above the bar, which stays at the bottom."""
    try:
        bar.write(line, file=sys.stdout)
        sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EIO:  # the terminal is gone, and its signal went to make alone
            raise KeyboardInterrupt from None
        raise


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
        if row in cut:
            whole = f"{line}  {text}"
            print(whole if len(whole) <= most else f"{whole[: most - 1]}…")
            continue
        indent = len(line) + 2 if len(line) + 2 + LEAST_ROOM <= most else INDENT
        beside = len(line) + 2 + len(text) <= most
        lines = textwrap.wrap(text, max(LEAST_ROOM, most - indent), break_on_hyphens=False)
        if lines and (beside or indent > INDENT):
            line = f"{line}  {lines.pop(0)}"
        print("\n".join([line.rstrip(), *(" " * indent + piece for piece in lines)]))


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
    effects: Sequence[Effect], split: str, named: Callable[[int], str] = "model {}".format
) -> None:
    """A line for each difference of two iterations, or of what else is `named` by number."""
    if not effects:
        return
    print(f"\nFinal {split} accuracy, paired by seed:")
    for effect in effects:
        print(f"  {named(effect.model)} against {named(effect.baseline)}: {effect}")


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """A table of verdicts, and what decides each."""
    from mnist_exp.notebook import loading
    from mnist_exp.showing import tables

    table = tables.brief_verdicts(verdicts, loading.load_target())
    numbered = [row for row, verdict in enumerate(verdicts) if verdict.model is not None]
    print_table(table, ["idea"], cut=numbered)  # the others have no other name
    judged = [verdict for verdict in verdicts if verdict.split == "test"]
    if judged:
        print()
    for verdict in judged:
        print(f"{verdict.name}: {verdict.answer}; {verdict.reason}")


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
