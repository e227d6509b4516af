"""A run is deleted, with what only it needs."""

from dataclasses import dataclass

import pandas as pd

from mnist_exp import tracking
from mnist_exp.runs import checkpoint, resume


@dataclass(frozen=True)
class Deletion:
    """What was deleted."""

    run: pd.Series
    """Its row of `tracking.runs`."""
    versions: tuple[str, ...]
    """Of registered models, in words: those that were its network."""
    had_checkpoint: bool
    below: int
    """How many runs the UI showed below it, as below that of a sweep: they stay."""
    pupils: int
    """How many runs learned from its network: they cannot be trained again without it."""


def delete(run_id: str) -> Deletion:
    """Delete the run whose id is this or begins so, with its checkpoint and the versions of
    registered models that are its network.

    Raises ExpectedError when the store does not hold it, and while it is under way.
    """
    run = tracking.find_run(run_id, groups=True).iloc[0]
    with checkpoint.claim(run["run_id"], resume.checkpoints()) as run_checkpoint:
        had_checkpoint = run_checkpoint.path.exists()
        versions = tracking.delete_run(run["run_id"])
        run_checkpoint.remove()
    rest = tracking.runs().reindex(columns=["parent", "teacher_run"])
    below, pupils = (int((rest[name] == run["run_id"]).sum()) for name in rest)
    return Deletion(run, versions, had_checkpoint, below, pupils)
