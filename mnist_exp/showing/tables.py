"""Verdicts and candidates as tables of text, which a terminal and a page show alike."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from mnist_exp.common.words import percent, points, ranges
from mnist_exp.data.splits import split_in_short
from mnist_exp.evidence.effect import Effect
from mnist_exp.evidence.listing import Listing
from mnist_exp.evidence.recipes import TriedRecipe
from mnist_exp.evidence.scores import Exclusion
from mnist_exp.evidence.side_by_side import SideBySide
from mnist_exp.evidence.trials import Trial
from mnist_exp.evidence.verdict import EpochScore, Verdict
from mnist_exp.recipe import Target
from mnist_exp.showing import style
from mnist_exp.tracking import names

LONGEST_LABEL = 28
LUCK = "luck alone"
"""What the standard deviation of the final accuracy is called that chance would give."""
SHORT_NAME = 12
"""Characters of the name of a script's idea among the numbers of iterations."""


def label(model: int | None, title: str) -> str:
    """What stands for an iteration beside others, as in "41 Alice"."""
    text = f"{model} {title}"
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1].rstrip()}…"


def shown_verdicts(
    verdicts: Sequence[Verdict], target: Target, *, named: bool = False, judged: bool = True
) -> pd.DataFrame:  # fmt: skip
    """The table of verdicts as it is shown everywhere: text, one row per iteration.

    Scores on another split than "test" say so, and are no verdict; nor are they where they are not
    `judged`. `named` iterations have a label in the place of a number and an idea.
    """
    split = verdicts[0].split if verdicts else "test"
    columns: dict[str, Callable[[Verdict], str]] = {
        "model": _number,
        "verdict": lambda verdict: verdict.answer.value,
        "seeds passing (95 % interval)": _passing,
        f"worst of last {target.last_epochs}": lambda verdict: _reached(verdict.worst),
        f"final {split}": _final,
        LUCK: lambda verdict: f"± {_luck(verdict)} %",
        f"best {split}": lambda verdict: _reached(verdict.best),
        "best train": lambda verdict: percent(verdict.best_train_accuracy),
        "parameters": lambda verdict: f"{verdict.parameters:,}",
        "receptive field": lambda verdict: plain(verdict.receptive_field),
        "epochs": lambda verdict: f"{verdict.epochs}",
        "idea": lambda verdict: verdict.title,
    }
    if named:
        del columns["idea"]
        columns["model"] = lambda verdict: label(verdict.model, verdict.title)
    if split != "test" or not judged:
        del columns["verdict"], columns["seeds passing (95 % interval)"]
        columns = {"model": columns.pop("model"), "which seeds": _seeds} | columns
    if not judged and not any(verdict.worst for verdict in verdicts):
        del columns[f"worst of last {target.last_epochs}"]
    return _table(verdicts, columns)


def brief_verdicts(verdicts: Sequence[Verdict], target: Target) -> pd.DataFrame:
    """What a terminal is wide enough for of the table of verdicts: text, one row per iteration."""
    split = verdicts[0].split if verdicts else "test"
    seeds = {
        "test": ("seeds passing", _passing),
        "validation": ("which seeds", _seeds),
    }
    name, show = seeds[split]
    columns: dict[str, Callable[[Verdict], str]] = {
        "model": _number,
        name: show,
        f"worst of last {target.last_epochs}": _worst,
        f"final {split}": _final,
        "luck": _luck,
        "parameters": lambda verdict: f"{verdict.parameters:,}",
        "idea": lambda verdict: verdict.title,
    }
    return _table(verdicts, columns)


def drawn_verdicts(
    verdicts: Sequence[Verdict], target: Target, *, wide: bool = False
) -> pd.DataFrame:  # fmt: skip
    """The table of verdicts for a terminal, of 80 characters or `wide`: text, one row per
    iteration, with the marks of the report where it is judged."""
    brief = brief_verdicts(verdicts, target)
    columns = {
        "model": brief["model"],
        "seeds": brief.iloc[:, 1].str.partition(" (")[0],
        f"worst of {target.last_epochs}": brief.iloc[:, 2],
    }
    split = verdicts[0].split if verdicts else "test"
    if split == "test":
        marks = [style.mark(verdict.passing, len(verdict.seeds)) for verdict in verdicts]
        columns = {"": pd.Series(marks)} | columns
    if wide:
        columns.pop(f"worst of {target.last_epochs}")
        where = f"worst of {target.last_epochs}, seed/epoch"
        columns[where] = pd.Series(map(_worst_where, verdicts))
        if split == "test":
            columns["95 % interval"] = pd.Series(map(_interval, verdicts))
    columns |= {name: brief[name] for name in (f"final {split}", "luck", "parameters")}
    if wide:
        columns["epochs"] = pd.Series([f"{verdict.epochs}" for verdict in verdicts])
        columns["field"] = pd.Series([plain(verdict.receptive_field) for verdict in verdicts])
        columns["best train"] = pd.Series([percent(x.best_train_accuracy) for x in verdicts])
    return pd.DataFrame(columns | {"idea": brief["idea"]})


def shown_effects(effects: Sequence[tuple[Effect, Effect]], target: Target) -> pd.DataFrame:
    """What is told of differences of two iterations on the worst of the last epochs, and on the
    final accuracy: text, one row per pair of iterations."""
    return pd.DataFrame(
        {
            "model": [f"{final.model}" for _, final in effects],
            "against": [f"{final.baseline}" for _, final in effects],
            f"worst of last {target.last_epochs}": [_briefly_told(worst) for worst, _ in effects],
            "final test": [_briefly_told(final) for _, final in effects],
            "seeds": [f"{len(final.seeds)}" for _, final in effects],
        }
    )


def _briefly_told(effect: Effect) -> str:
    if not effect.seeds:
        return "–"
    if effect.interval is None:
        return f"{points(effect.mean)} (too few seeds)"
    low, high = map(points, effect.interval)
    return f"{points(effect.mean)} ({low} to {high})"


def _table(
    verdicts: Sequence[Verdict], columns: Mapping[str, Callable[[Verdict], str]]
) -> pd.DataFrame:
    return pd.DataFrame(
        {name: [show(verdict) for verdict in verdicts] for name, show in columns.items()}
    )


def _number(verdict: Verdict) -> str:
    return "–" if verdict.model is None else f"{verdict.model}"


def _seeds(verdict: Verdict) -> str:
    return ranges(verdict.seeds)


def _interval(verdict: Verdict) -> str:
    low, high = (100 * bound for bound in verdict.pass_rate)
    return f"{low:.0f}–{high:.0f} %"


def _passing(verdict: Verdict) -> str:
    return f"{verdict.passing} of {len(verdict.seeds)} ({_interval(verdict)})"


def _worst_where(verdict: Verdict) -> str:
    """As in "99.42 %, 104/14", of which the seed comes first and then the epoch."""
    if verdict.worst is None:
        return "–"
    return f"{percent(verdict.worst.accuracy)}, {verdict.worst.seed}/{verdict.worst.epoch}"


def _reached(score: EpochScore | None) -> str:
    return "–" if score is None else str(score)


def _worst(verdict: Verdict) -> str:
    return "–" if verdict.worst is None else percent(verdict.worst.accuracy)


def _final(verdict: Verdict) -> str:
    return shown_spread(verdict.final_accuracy, verdict.final_accuracy_std)


def _luck(verdict: Verdict) -> str:
    """In points, beside a spread that has the same unit."""
    return "–" if math.isnan(verdict.luck) else f"{100 * verdict.luck:.2f}"


def shown_spread(mean: float, std: float) -> str:
    """A mean and a standard deviation, of which the latter may be missing, as in 99.40 ± 0.04 %."""
    return percent(mean) if math.isnan(std) else f"{100 * mean:.2f} ± {100 * std:.2f} %"


def shown_tried(tried: Sequence[TriedRecipe], split: str) -> pd.DataFrame:
    """What was tried of an iteration on a split, as it is shown: text, best first."""
    compared = any(recipe.against_file for recipe in tried)
    rows = [
        {
            f"final {split}": shown_spread(recipe.final_accuracy, recipe.final_accuracy_std),
            "seeds": ranges(recipe.seeds),
        }
        | ({"against the file, points": _against_file(recipe)} if compared else {})
        | {"settings": recipe.settings}
        for recipe in tried
    ]
    return pd.DataFrame(rows)


def shown_trials(trials: Sequence[Trial]) -> pd.DataFrame:
    """The trials of a study, as they are shown: text, best first, and then those that were ended
    early."""
    ordered = sorted(trials, key=lambda trial: (not trial.finished, -trial.accuracy))
    return pd.DataFrame(
        {
            "trial": [f"{trial.number}" for trial in ordered],
            "final validation": [
                percent(trial.accuracy) if trial.finished else trial.why for trial in ordered
            ],
            "settings": [trial.settings for trial in ordered],
        }
    )


def _against_file(recipe: TriedRecipe) -> str:
    """As in "+0.12 (-0.02 to +0.26)", of which the brackets hold the 95 % interval."""
    difference = recipe.against_file
    if difference is None:
        return "the file's own"
    if not difference.seeds:
        return "–"
    if difference.interval is None:
        return points(difference.mean)
    low, high = map(points, difference.interval)
    return f"{points(difference.mean)} ({low} to {high})"


def short(code_sha256: object) -> str:
    """What tables call a recipe; `make new` takes it as the name of a candidate."""
    return str(code_sha256)[:7]


def shown_candidates(candidates: pd.DataFrame, target: Target) -> pd.DataFrame:
    """`Comparison.candidates` as they are shown: text, one row per recipe, smallest first."""
    ordered = candidates.sort_values("parameters", kind="stable")
    return pd.DataFrame(
        {
            "recipe": ordered["code_sha256"].map(short),
            "fold": ordered["fold"].map(str),
            "parameters": ordered["parameters"].map("{:,.0f}".format),
            "epochs": ordered["epochs"].map(str),
            "seeds": ordered["seeds"].map(str),
            f"worst of last {target.last_epochs}": ordered["worst_accuracy"].map(percent),
            "final, mean": ordered["final_accuracy"].map(percent),
            "idea": ordered["idea"].map(plain),
        }
    )


def group_name(number: int) -> str:
    """A, B, ..., Z, AA, AB, ...: what a group is called, so that it is no iteration's number."""
    before, letter = divmod(number, 26)
    return (group_name(before - 1) if before else "") + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[letter]


def shown_runs(listing: Listing) -> pd.DataFrame:
    """The newest runs as they are listed: text, one row per run."""
    return _runs(listing.runs, listing.target).assign(
        counts=[_counts(run) for _, run in listing.runs.iterrows()]
    )


def shown_side_by_side(side: SideBySide) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs side by side: text, one row per run; and the settings in which their groups differ, one
    row per setting and one column per group, beside what they come to."""
    runs = _runs(side.runs, side.target).drop(columns="split")
    runs.insert(0, "group", [group_name(number) for number in side.runs["group"]])
    runs["not paired"] = [_briefly(why) for why in side.runs["exclusion"]]
    speaking = side.speaking.groupby("group")
    groups = {}
    for number in range(int(side.runs["group"].max()) + 1):
        seeds, final = "none", "–"
        if number in speaking.groups:
            own = speaking.get_group(number)
            seeds = ranges(own["seed"].astype(int))
            final = shown_spread(own["final_accuracy"].mean(), own["final_accuracy"].std())
        settings = {
            name: re.sub("[0-9a-f]{64}", lambda found: short(found[0]), text)
            for name, text in side.differences[number].items()
        }
        groups[group_name(number)] = {"seeds": seeds, f"final {side.split}": final} | settings
    table = pd.DataFrame(groups).rename_axis(index="group").reset_index()
    return runs, table


def _runs(runs: pd.DataFrame, target: Target) -> pd.DataFrame:
    """What is shown of any run, whatever it is of."""
    rows = [run for _, run in runs.iterrows()]
    columns: dict[str, Callable[[Any], str]] = {
        "run": lambda run: run["short_id"],
        "model": _of_what,
        "seed": lambda run: plain(run["seed"]),
        "split": lambda run: split_in_short(plain(run["split"]), plain(run["fold"])),
        "status": lambda run: run["status"],
        "epochs": _epochs,
        f"worst of {target.last_epochs}": lambda run: percent(run["worst_accuracy"]),
        "final": lambda run: percent(run["final_accuracy"]),
    }
    shown = pd.DataFrame({name: [show(run) for run in rows] for name, show in columns.items()})
    worst = f"worst of {target.last_epochs}"
    return shown.drop(columns=worst) if (shown[worst] == "–").all() else shown


def _of_what(run: pd.Series) -> str:
    """The number of a run's iteration, the name of its idea, or else its own."""
    name = _whole_name(run)
    return name if len(name) <= SHORT_NAME else f"{name[: SHORT_NAME - 1].rstrip()}…"


def _whole_name(run: pd.Series) -> str:
    number = plain(run["model"])
    return number if number.isdigit() else plain(run[names.TRACKED]) or str(run["run_name"])


def _epochs(run: pd.Series) -> str:
    """How many there are, and of how many where that is known."""
    planned = plain(run.get("epochs"))
    return f"{run['epochs_run']}/{planned}" if planned else f"{run['epochs_run']}"


def _counts(run: pd.Series) -> str:
    """Whether a run counts, and what tells it apart that stands nowhere else."""
    whole = _whole_name(run)
    name = [whole] if len(whole) > SHORT_NAME else []
    if not run["judged"]:
        return ", ".join(["no iteration", *name])
    if run["exclusion"] is None:
        return ", ".join(["yes" if run["split"] == "test" else "to choose by", *name])
    words = [] if run["exclusion"] is Exclusion.OVERRIDDEN else [_briefly(run["exclusion"])]
    words += name
    if trial := plain(run.get(names.TRIAL)):
        words.insert(0, f"trial {trial}")
    if not pd.isna(run["overrides"]) and pd.isna(run[names.TRACKED]):
        # How many epochs there were is what tells runs apart least.
        words.append(re.sub(r"(^|.* )(epochs=\d+) (.+)", r"\1\3 \2", run["overrides"]))
    return ", ".join(words)


def _briefly(why: Exclusion | None) -> str:
    """The first words of an exclusion."""
    return re.split("[:,]", why)[0] if why else ""


def plain(value: Any) -> str:
    """A value of a run as it is shown: nothing where it is missing, and whole where it is whole."""
    if pd.isna(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
