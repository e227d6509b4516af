"""Whether our runs are as accurate as others' of the same seeds: as those by the course's own code,
and as torch's with the same recipes.

`python -m benchmarks agreement` compares the runs in the table. With `--full` it first trains what
the table lacks, for hours, the course's first; stop it at will, the same command goes on.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks import whole_runs
from benchmarks.section import Section
from benchmarks.whole_runs import COURSE, LAST, Run
from mnist_exp.common.words import counted, percent
from mnist_exp.evidence.references import COURSE_FIGURES
from mnist_exp.notebook import loading

OURS = "compiled"
COMPARED = {
    COURSE: {6: range(1, 11), 3: range(1, 6)},
    "torch": {6: range(1, 21), 14: range(101, 111), 21: range(101, 111)},
}
"""What our engine is compared with, on which models and their seeds."""
NAMES = {COURSE: "the course's code", "torch": "ENGINE=torch"}
QUANTITIES = {"final": "final", "worst_of_last_5": f"worst of the last {LAST}"}
MARGIN = 0.05
"""Points that a mean difference may be away from zero, with its whole interval."""
CHANCE = 0.05
"""What is likelier than this may be chance."""
TOLD = 6
"""The model that the README tells of."""
TEXT = f"""\
Test accuracies of whole runs with the kernels, beside those by the course's own code and by
ENGINE=torch on the same seeds: their means, and the mean of the differences seed by seed, in points
(95 % interval, t). The course's code is [course.py](course.py): torchvision's MNIST, transforms of
single PIL images, a DataLoader and torch's own modules, with the recipe of its notebooks. Then, how
many seeds reach the target, and the figures that the course published of one seed; and how many
standard deviations these are above the mean of its code. The runs are in
[{whole_runs.FILE.name}]({whole_runs.FILE.name}).

Goals: intervals within {MARGIN} points of zero, and the course's code meets the target on no more
seeds than ours, but for chance."""


@dataclass(frozen=True)
class Pair:
    """Our runs of a model and another's of the same seeds: a row for each, by seed."""

    model: int
    other: str
    ours: pd.DataFrame
    theirs: pd.DataFrame

    def differences(self) -> list[dict[str, str]]:
        """A row for each quantity."""
        rows = []
        for column, quantity in QUANTITIES.items():
            here, there = 100 * self.ours[column], 100 * self.theirs[column]
            mean, low, high = interval(here - there)
            rows.append(
                {
                    "model": str(self.model), "beside": NAMES[self.other],
                    "seeds": str(len(here)), "accuracy": quantity,
                    "here": f"{here.mean():.3f} %", "there": f"{there.mean():.3f} %",
                    "difference": f"{mean:+.3f} ({low:+.3f} to {high:+.3f})",
                }
            )  # fmt: skip
        return rows

    def heights(self) -> list[dict[str, str]]:
        """How many seeds reach the target, and the course's figures."""
        rows = []
        for of, column, height in [
            ("the target", "worst_of_last_5", loading.load_target().test_accuracy),
            *(("the course's figure", *one) for one in figures(self.model).items()),
        ]:
            there = self.theirs[column]
            above = "–"  # where all are the same
            if np.ptp(there):
                above = f"{(height - there.mean()) / there.std():+.1f} s. d."
            rows.append(
                {
                    "model": str(self.model), "of": of, "accuracy": QUANTITIES[column],
                    "is": percent(height),
                    "reached here": f"{reached(self.ours, column, height)} of {len(self.ours)}",
                    "there": f"{reached(self.theirs, column, height)} of {len(there)}",
                    "above their mean": above,
                }
            )  # fmt: skip
        return rows

    def missed(self) -> list[str]:
        """The goals that were."""
        beside, seeds = f"model {self.model} beside {NAMES[self.other]}", len(self.ours)
        missed, wanted = [], len(COMPARED[self.other][self.model])
        if seeds < wanted:
            missed.append(f"{beside}: {counted(seeds, 'seed')} of {wanted} ran")
        if seeds < 2:
            return missed
        for column, quantity in QUANTITIES.items():
            _, low, high = interval(100 * (self.ours[column] - self.theirs[column]))
            if max(-low, high) > MARGIN:
                away = f"{max(-low, high):.3f} points"
                missed.append(f"{beside}: the mean of the {quantity} may differ by {away}")
        bar = loading.load_target().test_accuracy
        here, there = (reached(runs, "worst_of_last_5", bar) for runs in (self.ours, self.theirs))
        counts = [[there, seeds - there], [here, seeds - here]]
        if stats.fisher_exact(counts, alternative="greater").pvalue < CHANCE:
            missed.append(f"{beside}: {there} of {seeds} meet the target there, {here} here")
        return missed


def measure() -> Section:
    """The differences seed by seed, and where the target and the published runs lie."""
    pairs = [paired(model, other) for other, models in COMPARED.items() for model in models]
    compared = [pair for pair in pairs if len(pair.ours) > 1]
    differences = [row for pair in compared for row in pair.differences()]
    heights = [row for pair in compared if pair.other == COURSE for row in pair.heights()]
    tables = [pd.DataFrame(rows) for rows in (differences, heights) if rows]
    missed = [line for pair in pairs for line in pair.missed()]
    return Section("The same accuracy", TEXT, tables, missed, sentence(paired(TOLD, COURSE)))


def sentence(pair: Pair) -> str:
    """What came of a model by the course's code, for the README; nothing before all seeds ran."""
    seeds, final = len(pair.ours), figures(pair.model)["final"]
    if seeds < len(COMPARED[pair.other][pair.model]):
        return ""
    bar = loading.load_target().test_accuracy
    there, here = (
        (
            percent(runs["final"].mean()),
            reached(runs, "worst_of_last_5", bar),
            reached(runs, "final", final),
        )
        for runs in (pair.theirs, pair.ours)
    )
    mean, low, high = interval(100 * (pair.ours["final"] - pair.theirs["final"]))
    return (
        f"The course's own code: over {seeds} seeds here, model {pair.model} ends at {there[0]} on "
        f"average and meets the target on {there[1]} of them, ours at {here[0]} and on {here[1]} "
        f"({mean:+.2f} points, {low:+.2f} to {high:+.2f}); the {percent(final)} that the course "
        f"published of one seed is reached by {there[2]} of its seeds here, and by {here[2]} of "
        "ours ([more](benchmarks/RESULTS.md#the-same-accuracy))."
    )


def paired(model: int, other: str) -> Pair:
    """The runs in the table."""
    runs = whole_runs.recorded()
    runs = runs[(runs["model"] == model) & runs["seed"].isin(COMPARED[other][model])]
    ours, theirs = (
        runs[runs["engine"] == engine].drop_duplicates("seed").set_index("seed").sort_index()
        for engine in (OURS, other)
    )
    both = ours.index.intersection(theirs.index)
    return Pair(model, other, ours.loc[both], theirs.loc[both])


def figures(model: int) -> dict[str, float]:
    """What the course published of its one run: each quantity, as a fraction."""
    log = pd.read_csv(COURSE_FIGURES, comment="#")
    last = log[log["model"] == model].sort_values("epoch")["test_accuracy"].tail(LAST) / 100
    return {"final": last.iloc[-1], "worst_of_last_5": last.min()}


def reached(runs: pd.DataFrame, column: str, height: float) -> int:
    """How many runs are at least as accurate, to the digit."""
    return int((runs[column] > height - 1e-6).sum())


def interval(differences: pd.Series) -> tuple[float, float, float]:
    """The mean, and where it lies with 95 % confidence."""
    if np.ptp(differences) == 0:
        return (float(differences.mean()),) * 3
    found = stats.ttest_1samp(differences, 0).confidence_interval()
    return float(differences.mean()), float(found.low), float(found.high)


def missing() -> list[Run]:
    """The runs that the table lacks, those of a seed side by side."""
    runs = whole_runs.recorded()[["model", "seed", "engine"]]
    there = set(runs.itertuples(index=False, name=None))
    wanted = (
        (model, seed, engine)
        for other, models in COMPARED.items()
        for model, seeds in models.items() for seed in seeds for engine in (OURS, other)
    )  # fmt: skip
    return [run for run in dict.fromkeys(wanted) if run not in there]


def complete() -> None:
    """Enter what the table lacks: what was published of it, and what is trained now."""
    for row in whole_runs.published(missing()):
        whole_runs.enter(row)
    whole_runs.train_all(missing())
