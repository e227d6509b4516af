"""The trials of a study: what each tried, and how far it came."""

import itertools
from dataclasses import dataclass
from typing import Any

from mnist_exp import tracking
from mnist_exp.tracking import names
from mnist_exp.tracking.names import column_name


@dataclass(frozen=True)
class Trial:
    """A trial that is over: its `settings` as text, the id of its run, and the accuracy after each
    epoch on the validation digits (fractions). It is `finished`, or was ended early: `why`."""

    number: int
    settings: str
    run_id: str
    accuracies: tuple[float, ...]
    finished: bool
    why: str = ""

    @property
    def accuracy(self) -> float:
        """After its last epoch; 0 where it has none."""
        return self.accuracies[-1] if self.accuracies else 0.0


def trials_of(study: str) -> tuple[Trial, ...]:
    """The trials of the study with this id, the first first: those that are finished, were pruned,
    or would fail again. A run that was killed is none yet: it goes on."""
    columns = [names.STUDY, names.TRIAL, names.SETTINGS, names.PRUNED, names.FAILURE]
    runs = tracking.runs()
    runs = runs.reindex(columns=list(dict.fromkeys([*runs.columns, *columns])))
    runs = runs[runs[names.STUDY] == study]
    diverged = runs[names.FAILURE].astype(str).str.startswith("NonFiniteLossError")
    over = runs[(runs["status"] == "FINISHED") | runs[names.PRUNED].notna() | diverged]
    ids, metric = over["run_id"].tolist(), names.accuracy("validation")
    history = tracking.history(ids, [metric]).reindex(columns=["run_id", column_name(metric)])
    accuracies = history.groupby("run_id")[column_name(metric)].agg(tuple)
    trials = {}
    rows: Any = over.itertuples()
    for run in rows:
        values = accuracies.get(run.run_id, ())
        finished = run.status == "FINISHED"
        why = "" if finished else run.pruned if isinstance(run.pruned, str) else run.failure
        settings, number = run.trial_settings, int(run.trial)
        trials[number] = Trial(number, settings, run.run_id, tuple(values), finished, why)
    # What a trial tried follows from those before it: behind one that was deleted, none counts yet.
    numbers = itertools.takewhile(trials.__contains__, itertools.count(1))
    return tuple(trials[number] for number in numbers)
