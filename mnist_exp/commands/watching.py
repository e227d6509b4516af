"""The runs under way, of whatever process and machine, as the store hears of them."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from mnist_exp import tracking
from mnist_exp.commands import terminal
from mnist_exp.common import interrupts
from mnist_exp.common.words import duration, percent, printable
from mnist_exp.evidence.verdict import TARGET_MET
from mnist_exp.notebook import loading
from mnist_exp.runs.progress import Standing

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mnist_exp.tracking import Ongoing as Found

EVERY = 2.0
"""Seconds from one look at the store to the next."""
SILENCE = 75.0
"""Seconds after which a run whose process does not say that it is there is called silent: it does
so each half minute."""
NOTHING = "No run is under way."


def watch() -> None:
    """Show what is under way until Ctrl-C, or where there is no terminal, say it once."""
    if not terminal.draws(sys.stdout):
        print("\n".join(_lines(tracking.under_way())))
        return
    shown = Watch()
    try:
        with terminal.Screen(shown.drawn, sys.stdout, stays=True) as screen:
            while True:
                shown.look()
                screen.refresh()
                time.sleep(EVERY)
    except KeyboardInterrupt:  # how one leaves it
        interrupts.heard()


class Watch:
    """What the store says now, and since when it has heard nothing of a run."""

    def __init__(self) -> None:
        self.found: Found | None = None
        self.away = ""
        self.seen: dict[str, tuple[str, float]] = {}

    def look(self) -> None:
        try:
            self.found, self.away = tracking.under_way(), ""
        except tracking.UnreachableError as error:  # it may come back
            self.away = str(error)

    def drawn(self, width: int) -> RenderableType:
        from rich.text import Text

        from mnist_exp.commands import drawing

        if self.found is None:
            return self.away
        lines = [
            drawing.UnderWay(_name(run), run["machine"], self._standing(run), self._note(run))
            for _, run in self.found.runs.iterrows()
        ]
        parts: list[RenderableType] = []
        for sweep, counts in _passing(self.found).items():
            parts += [Text(printable(sweep)), drawing.passing(counts) if counts else ""]
        if len(lines) == 1:
            bar = loading.load_target().test_accuracy
            (run,) = (run for _, run in self.found.runs.iterrows())
            accuracies = _accuracies(self.found, run)
            if lines[0].standing and lines[0].standing.epochs and accuracies:
                parts.append(drawing.curve(accuracies, lines[0].standing.epochs, bar, width))
        parts.append(drawing.trainings(lines, "run", width))
        nothing = "" if lines or self.found.gathered else f"{NOTHING} Ctrl-C ends this."
        return drawing.below(*parts, nothing, self.away)

    def _standing(self, run: pd.Series) -> Standing | None:
        assert self.found
        standing = _standing(self.found, run)
        if standing is None or math.isnan(standing.left):
            return standing
        since = self._since(f"{run['run_id']} epoch", f"{standing.epoch}")
        return dataclasses.replace(standing, left=max(0.0, standing.left - since))

    def _note(self, run: pd.Series) -> str:
        """What is said in the place of the time left: that nobody trains it any more, perhaps."""
        silent = self._since(run["run_id"], run["heartbeat"])
        if run["gone"]:
            return "its process is gone"
        return f"silent for {duration(silent)}" if silent > SILENCE else ""

    def _since(self, what: str, value: str) -> float:
        """For how many seconds this has been seen to have this value."""
        if self.seen.get(what, ("", 0.0))[0] != value:
            self.seen[what] = value, time.monotonic()
        return time.monotonic() - self.seen[what][1]


def _name(run: pd.Series) -> str:
    chosen = run["split"] == "validation"
    return str(run["run_name"]) + (f" · validation, fold {run['fold']}" if chosen else "")


def _accuracies(found: Found, run: pd.Series) -> dict[int, float]:
    """The accuracies on the held-out digits of a run, by epoch."""
    column = f"{run['split']}_accuracy"
    if found.history.empty or column not in found.history:
        return {}
    own = found.history[found.history["run_id"] == run["run_id"]].dropna(subset=[column])
    return dict(zip(own["epoch"].astype(int), own[column].astype(float), strict=True))


def _standing(found: Found, run: pd.Series) -> Standing | None:
    """Where a run stands, as far as the store has heard: None before its first epoch has ended."""
    accuracies = _accuracies(found, run)
    planned = 0 if pd.isna(run.get("epochs")) else int(run["epochs"])
    if not accuracies:
        return Standing(1, planned, 0.0) if planned else None
    ended = max(accuracies)
    left = math.nan
    if planned and "epoch_seconds" in found.history:
        own = found.history["run_id"] == run["run_id"]
        each = float(found.history.loc[own, "epoch_seconds"].mean())
        left = each * _together(found, run) * (planned - ended)
    epoch = min(ended + 1, planned) if planned else ended
    return Standing(epoch, planned, ended / planned if planned else 0.0, accuracies[ended], left)


def _together(found: Found, run: pd.Series) -> int:
    """How many runs go on as one network with this one, and itself: the seconds of its epochs are
    its share of theirs."""
    named = run.get("seeds_together")
    if named is None or pd.isna(named):
        return 1
    same = ["seeds_together", "model", "machine", "split", "fold"]
    both = found.runs[same].fillna("") == run[same].fillna("")
    return int(both.all(axis=1).sum())


def _passing(found: Found) -> dict[str, dict[str, tuple[int, int]]]:
    """How many of how many seeds pass so far, by sweep and model, with the code of the newest run:
    a sweep that was begun before holds what its iterations were then, too."""
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    for sweep, runs in found.gathered.items():
        counts[sweep] = {}
        if "verdict" in runs:  # not on the validation split
            for model, every in runs.dropna(subset=["verdict"]).groupby("model"):
                newest = every.sort_values("start_time").drop_duplicates("seed", keep="last")
                own = newest[newest["code_sha256"] == newest["code_sha256"].iloc[-1]]
                passing = int((own["verdict"] == TARGET_MET).sum())
                counts[sweep][f"model {model}"] = passing, len(own)
    return counts


def _lines(found: Found) -> Iterator[str]:
    """What is under way, as plain text."""
    if found.runs.empty and not found.gathered:
        yield NOTHING
    for sweep, counts in _passing(found).items():
        said = ", ".join(f"{name}: {some} of {every}" for name, (some, every) in counts.items())
        yield printable(sweep) + (f"; seeds that pass so far: {said}" if counts else "")
    for _, run in found.runs.iterrows():
        standing = _standing(found, run)
        words = ["its process is gone"] if run["gone"] else []
        if standing:
            words.append(f"epoch {standing.place}")
            words.append(f"{run['split']} {percent(standing.accuracy)}")
        if standing and not run["gone"] and not math.isnan(standing.left):
            words.append(f"{duration(standing.left)} left")
        yield printable(f"{_name(run)}: {', '.join([*words, 'on ' + run['machine']])}")
