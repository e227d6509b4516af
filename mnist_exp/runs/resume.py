"""Runs that go on: what a checkpoint holds of its run, and the plan that comes out of it."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.data.splits import LAST
from mnist_exp.evidence import scores
from mnist_exp.runs import checkpoint, provenance
from mnist_exp.runs.checkpoint import Checkpoint
from mnist_exp.runs.plan import Plan, settle
from mnist_exp.tracking import names
from mnist_exp.training.loop import Training

log = logging.getLogger(__name__)

OLDER = {"engine": "torch"}
"""What checkpoints do not say that are older than the compiled engine."""
OLDER_ON_VALIDATION = {names.FOLD: LAST}
"""What those on the validation split do not say that are older than its folds."""


def resume(run_id: str) -> Plan:
    """Plan to carry a run on that ended early.

    Raises ExpectedError when the run is finished or is not there, when it has no checkpoint here,
    and when what decides its numbers has changed since: its code, versions, machine, engine or
    threads.
    """
    run_id = tracking.find_run(run_id)["run_id"].item()  # of its beginning
    run_checkpoint = checkpoint.checkpoint_of(run_id, checkpoints())
    refuse_finished(run_checkpoint)
    content = run_checkpoint.load()
    torch.set_num_threads(int(content["identity"]["threads"]))
    plan = dataclasses.replace(settle(**_whole(content["request"])), run_id=run_id)
    named = content["identity"].get("seeds_together")
    if named:
        raise ExpectedError(
            f"run {run_id} was trained as one network with the seeds {named}, and does not go on "
            "alone: the same make sweep goes on with all of them"
        )
    changed = _changes(content, plan.identity())
    if changed:
        raise ExpectedError(
            f"run {run_id} cannot go on as it began: {', '.join(changed)}; make run "
            f"MODEL={plan.entry.number} begins another"
        )
    return plan


def states_of(plan: Plan) -> list[dict[str, Any]]:
    """The states of the training that a plan goes on with: the last, and the one before it where
    its checkpoint has that."""
    assert plan.run_id is not None
    content = checkpoint.checkpoint_of(plan.run_id, checkpoints()).load()
    return [content[name] for name in ("state", "last_state") if name in content]


def refuse_finished(run_checkpoint: Checkpoint) -> None:
    """Raise ExpectedError when the run of a checkpoint is finished, as by another process, and when
    a script tracks it, which has no checkpoint."""
    run_id = run_checkpoint.run_id
    run = tracking.find_run(run_id).iloc[0]
    provenance.refuse_tracked(run)
    if run["status"] == "FINISHED":
        run_checkpoint.remove()  # left behind by a process that was killed at the very end
        raise ExpectedError(f"run {run_id} is finished: there is nothing to resume")


def unfinished(wanted: Plan) -> Plan | None:
    """Plan to carry on the newest run that began as `wanted` would and ended early.

    None if there is no such run, if its checkpoint is not here, or while it is being trained.
    """
    return next(iter(all_unfinished([wanted])), None)


def all_unfinished(wanted: Sequence[Plan]) -> list[Plan]:
    """The same of several plans, of those for which there is such a run."""
    going_on = []
    left = [(plan, plan.identity()) for plan in wanted]
    ended = set(_ended_early()["run_id"]) if left else set()
    for run_checkpoint in checkpoint.all_in(checkpoints()):
        if run_checkpoint.run_id not in ended:
            continue
        try:
            content = run_checkpoint.load()
        except ExpectedError as error:
            log.warning("%s: it is left out", error)
            continue
        for began in left:
            if not _changes(content, began[1]):
                going_on.append(dataclasses.replace(began[0], run_id=run_checkpoint.run_id))
                left.remove(began)
                break
    return going_on


def going_on(plan: Plan) -> Plan:
    """The plan, or the one that goes on with an unfinished run of it where that comes to the same:
    a run that is not resumed exactly would not count."""
    return (None if plan.findings.not_exact else unfinished(plan)) or plan


def groups(plan: Plan) -> list[str]:
    """The seeds of the groups that began with an iteration, ended early and are resumed exactly,
    each as their runs name them, the newest first."""
    if plan.findings.not_exact:
        return []
    named = ["model", "resumes", "seeds_together", "start_time"]
    ended = _ended_early()
    ended = ended.reindex(columns=list(dict.fromkeys([*ended.columns, *named])))
    exact = (ended["model"] == plan.entry.number) & (ended["resumes"] == scores.EXACTLY)
    ended = ended[exact].sort_values("start_time", ascending=False)
    return list(ended["seeds_together"].dropna().astype(str).unique())


def _ended_early() -> pd.DataFrame:
    runs = tracking.runs()
    return runs[runs["status"].isin(["KILLED", "FAILED"])]


def checkpoints() -> Path:
    """The folder of the checkpoints, beside the store."""
    return tracking.local_folder() / "checkpoints"


def _changes(content: dict[str, Any], now: dict[str, str]) -> list[str]:
    """What decides the numbers of a run and is not as it was when its checkpoint was made, each in
    words."""
    before = _whole(content["identity"])
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    absent = "not recorded"
    words = {"training_sha256": "the package's training code"}
    return [
        f"{words.get(name, name)} has changed since" if name in words or name.endswith(".py")
        else f"{name} was {before.get(name, absent)} and is {now.get(name, absent)}"
        for name in changed
    ]  # fmt: skip


def _whole(said: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says, with what older ones leave unsaid."""
    on_validation = said["split"] == "validation"
    return OLDER | (OLDER_ON_VALIDATION if on_validation else {}) | said


def save(
    run_checkpoint: Checkpoint, plan: Plan, training: Training, *, keeps_last: bool = False
) -> None:
    """Replace the checkpoint of a run by one of its training as it stands, if it can have one.

    It `keeps_last` the state that it had, to which a group goes back whose others have not come so
    far."""
    if not plan.findings.resumable:
        return
    request = {
        "number": plan.entry.number, "seed": plan.seed, "overrides": dict(plan.overrides),
        "device": plan.device.type, "split": plan.split, "fold": plan.fold,
        "teacher": plan.teacher.run_id if plan.teacher else None, "engine": plan.engine.name,
    }  # fmt: skip
    content = {"run_id": run_checkpoint.run_id, "request": request, "identity": plan.identity()}
    last = {"last_state": run_checkpoint.load()["state"]} if keeps_last else {}
    run_checkpoint.save(content | {"state": training.state()} | last)
