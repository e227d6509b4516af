"""Runs that go on: what a checkpoint holds of its run, and the plan that comes out of it."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.runs import checkpoint, provenance
from mnist_exp.runs.checkpoint import Checkpoint
from mnist_exp.runs.plan import Plan, settle
from mnist_exp.training.loop import Training

log = logging.getLogger(__name__)

OLDER = {"engine": "torch"}
"""What checkpoints do not say that are older than the compiled engine."""


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
    plan = dataclasses.replace(settle(**OLDER | content["request"]), run_id=run_id)
    changed = _changes(content, plan)
    if changed:
        raise ExpectedError(
            f"run {run_id} cannot go on as it began: {', '.join(changed)}; make run "
            f"MODEL={plan.entry.number} begins another"
        )
    return plan


def state_of(plan: Plan) -> dict[str, Any]:
    """The state of the training that a plan goes on with."""
    assert plan.run_id is not None
    state: dict[str, Any] = checkpoint.checkpoint_of(plan.run_id, checkpoints()).load()["state"]
    return state


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
    runs = tracking.runs()
    ended = set(runs.loc[runs["status"].isin(["KILLED", "FAILED"]), "run_id"])
    for run_checkpoint in checkpoint.all_in(checkpoints()):
        if run_checkpoint.run_id in ended:
            try:
                if not _changes(run_checkpoint.load(), wanted):
                    return dataclasses.replace(wanted, run_id=run_checkpoint.run_id)
            except ExpectedError as error:
                log.warning("%s: it is left out", error)
    return None


def checkpoints() -> Path:
    """The folder of the checkpoints, beside the store."""
    return tracking.local_folder() / "checkpoints"


def _changes(content: dict[str, Any], plan: Plan) -> list[str]:
    """What decides the numbers of a run and is not as it was when its checkpoint was made, each in
    words."""
    before, now = OLDER | content["identity"], plan.identity()
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    absent = "not recorded"
    words = {"training_sha256": "the package's training code"}
    return [
        f"{words.get(name, name)} has changed since" if name in words or name.endswith(".py")
        else f"{name} was {before.get(name, absent)} and is {now.get(name, absent)}"
        for name in changed
    ]  # fmt: skip


def save(run_checkpoint: Checkpoint, plan: Plan, training: Training) -> None:
    """Replace the checkpoint of a run by one of its training as it stands, if it can have one."""
    if not plan.findings.resumable:
        return
    request = {
        "number": plan.entry.number, "seed": plan.seed, "overrides": dict(plan.overrides),
        "device": plan.device.type, "split": plan.split,
        "teacher": plan.teacher.run_id if plan.teacher else None, "engine": plan.engine.name,
    }  # fmt: skip
    content = {"run_id": run_checkpoint.run_id, "request": request, "identity": plan.identity()}
    run_checkpoint.save(content | {"state": training.state()})
