"""One run from end to end: an iteration is trained, and the tracking store holds what happened.

Here training and tracking meet; neither knows the other.
"""

import dataclasses
import logging
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mnist_exp import ExpectedError, checkpoint, data, record, tracking
from mnist_exp.checkpoint import Checkpoint
from mnist_exp.common import interrupts
from mnist_exp.evidence.verdict import RunVerdict
from mnist_exp.plan import Plan, settle
from mnist_exp.tracking import ui
from mnist_exp.training import EpochResult, NonFiniteLossError, Progress, Training

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A run that has ended: its id, where a UI shows it, the accuracy after the last epoch (a
    fraction) and the verdict (None on the validation split, which the target says nothing about).
    """

    run_id: str
    address: str
    accuracy: float
    verdict: RunVerdict | None


def resume(run_id: str) -> Plan:
    """The plan of a run that ended early, to be carried out to its end.

    Raises ExpectedError when the run is finished or is not there, when it has no checkpoint here,
    and when what decides its numbers has changed since: its code, versions, machine or threads.
    """
    kept = checkpoint.of_run(run_id, _checkpoints())
    if tracking.find_run(run_id)["status"].item() == "FINISHED":
        kept.remove()  # left behind by a process that was killed at the very end
        raise ExpectedError(f"run {run_id} is finished: there is nothing to resume")
    content = kept.load()
    torch.set_num_threads(int(content["identity"]["threads"]))
    again = dataclasses.replace(settle(**content["request"]), run_id=run_id)
    changed = _changes(content, again)
    if changed:
        raise ExpectedError(
            f"run {run_id} cannot go on as it began: {', '.join(changed)}; make run "
            f"MODEL={again.iteration.number} begins another"
        )
    return again


def unfinished(wanted: Plan) -> Plan | None:
    """The newest run that began as `wanted` would and has not been finished, as a plan to go on
    with it; None if there is none whose checkpoint is here, or another process trains it."""
    runs = tracking.runs()
    ended = set(runs.loc[runs["status"].isin(["KILLED", "FAILED"]), "run_id"])
    for kept in checkpoint.all_in(_checkpoints()):
        if kept.path.stem in ended:
            try:
                if not _changes(kept.load(), wanted):
                    return dataclasses.replace(wanted, run_id=kept.path.stem)
            except ExpectedError as error:
                log.warning("%s: it is left out", error)
    return None


def _checkpoints() -> Path:
    return tracking.local_folder() / "checkpoints"


def _changes(content: dict[str, Any], plan: Plan) -> list[str]:
    """What decides the numbers of a run and is not as it was when its checkpoint was made."""
    before, now = content["identity"], plan.identity()
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    absent = "not recorded"
    words = {"code_sha256": plan.iteration.file, "training_sha256": "the package's training code"}
    return [
        f"{words[name]} has changed since" if name in words
        else f"{name} was {before.get(name, absent)} and is {now.get(name, absent)}"
        for name in changed
    ]  # fmt: skip


def carry_out(
    plan: Plan,
    *,
    on_batch: Callable[[Progress], None],
    on_epoch: Callable[[EpochResult], None],
    on_start: Callable[[str], None] = lambda _: None,
    parent: str = "",
) -> Outcome:
    """Train as planned and record the run, as a child of the run `parent` if there is one.

    `on_start` hears the run's id, `on_batch` and `on_epoch` how it goes. A tracking server that
    goes away does not stop the training: what it misses is written when it is back.
    """

    def watch(progress: Progress) -> None:
        interrupts.check()
        on_batch(progress)

    train, held_out = data.load(plan.split)
    tracking.open_store()
    job = Training(plan.recipe, train, held_out, seed=plan.seed, device=plan.device)
    settings = plan.settings() | {f"{plan.split}_images": len(held_out)}
    with ExitStack() as stack:
        if plan.run_id:
            kept = stack.enter_context(checkpoint.hold(plan.run_id, _checkpoints()))
            job.restore(kept.load()["state"])
            # What else it has recorded stands: versions that decide nothing may be others now.
            again = {} if job.results else settings
            run = stack.enter_context(tracking.resume_run(plan.run_id, again))
            tracking.adopt([plan.run_id] if parent else [], parent)
            run.set_tags({"resumed": f"after epoch {len(job.results)}"})
        else:
            begun = tracking.start_run(
                plan.name, settings, plan.tags(), source=plan.iteration.file, parent=parent
            )
            run = stack.enter_context(begun)
            kept = stack.enter_context(checkpoint.hold(run.run_id, _checkpoints()))
            _save(kept, plan, job)
        try:
            on_start(run.run_id)
            if not job.results:
                record.beginning(run, plan, train, held_out)
            epochs = record.Epochs(run, plan.split, deque(job.results), bool(plan.run_id))
            epochs.write()
            for result in job.epochs(watch):
                _save(kept, plan, job)  # first, so that the store is never ahead of it
                epochs.add(result)
                on_epoch(result)
            epochs.write()
            judged = record.end(run, plan, job)
            run.end("FINISHED")
        except (ExpectedError, KeyboardInterrupt) as error:
            if isinstance(error, NonFiniteLossError):
                kept.remove()  # it would come to the same again
            else:
                error.add_note(f"make resume RUN={run.run_id} goes on with it")
            raise
        kept.remove()
    address = ui.run_address(run.experiment_id, run.run_id)
    return Outcome(run.run_id, address, job.results[-1].evaluation.accuracy, judged)


def _save(kept: Checkpoint, plan: Plan, job: Training) -> None:
    request = {
        "number": plan.iteration.number, "seed": plan.seed, "epochs": plan.recipe.epochs,
        "device": plan.device.type, "split": plan.split,
    }  # fmt: skip
    content = {"run_id": kept.path.stem, "request": request, "identity": plan.identity()}
    kept.save(content | {"state": job.state()})
