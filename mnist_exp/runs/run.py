"""One run from end to end: an iteration is trained, and the tracking store holds what happened.

Here training and tracking meet; neither knows the other.
"""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from mnist_exp import ExpectedError, data, tracking
from mnist_exp.common import interrupts
from mnist_exp.evidence.verdict import RunVerdict
from mnist_exp.runs import checkpoint, record, resume
from mnist_exp.runs.plan import Plan
from mnist_exp.runs.record import Epochs
from mnist_exp.tracking import names, ui
from mnist_exp.training.loop import EpochResult, NonFiniteLossError, Progress, Training

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
    training = Training(plan.recipe, train, held_out, seed=plan.seed, device=plan.device)
    settings = plan.settings() | {names.images(plan.split): len(held_out)}
    with ExitStack() as stack:
        if plan.run_id:
            kept = stack.enter_context(checkpoint.hold(plan.run_id, resume.checkpoints()))
            training.restore(kept.load()["state"])
            # What else it has recorded stands: versions that decide nothing may be others now.
            again = {} if training.results else settings
            run = stack.enter_context(tracking.resume_run(plan.run_id, again))
            tracking.adopt([plan.run_id] if parent else [], parent)
            run.set_tags({"resumed": f"after epoch {len(training.results)}"})
        else:
            begun = tracking.start_run(
                plan.name, settings, plan.tags(), source=plan.iteration.file, parent=parent
            )
            run = stack.enter_context(begun)
            kept = stack.enter_context(checkpoint.hold(run.run_id, resume.checkpoints()))
            resume.save(kept, plan, training)
        try:
            on_start(run.run_id)
            if not training.results:
                record.beginning(run, plan, train, held_out)
            epochs = Epochs(run, plan.split, deque(training.results), bool(plan.run_id))
            epochs.write()
            for result in training.epochs(watch):
                resume.save(kept, plan, training)  # first, so that the store is never ahead of it
                epochs.add(result)
                on_epoch(result)
            epochs.write()
            judged = record.end(run, plan, training)
            run.end("FINISHED")
        except (ExpectedError, KeyboardInterrupt) as error:
            if isinstance(error, NonFiniteLossError):
                kept.remove()  # it would come to the same again
            else:
                error.add_note(f"make resume RUN={run.run_id} goes on with it")
            raise
        kept.remove()
    address = ui.run_address(run.experiment_id, run.run_id)
    return Outcome(run.run_id, address, training.results[-1].evaluation.accuracy, judged)
