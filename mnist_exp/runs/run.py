"""One run from end to end: an iteration is trained, and the tracking store holds what happened.

Here training and tracking meet; neither knows the other.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from mnist_exp import tracking
from mnist_exp.common import interrupts
from mnist_exp.common.copying import copied
from mnist_exp.common.errors import ExpectedError
from mnist_exp.evidence.verdict import RunVerdict
from mnist_exp.notebook.entries import Entry
from mnist_exp.runs import checkpoint, record, resume
from mnist_exp.runs.blame import IterationError, blamed_on
from mnist_exp.runs.checkpoint import Checkpoint
from mnist_exp.runs.plan import Plan
from mnist_exp.tracking import PrunedError, RunWriter, names, ui
from mnist_exp.training.loop import EpochResult, NonFiniteLossError, Progress, Training

Result = TypeVar("Result")


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
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Outcome:
    """Train as planned and record the run, with these `tags` and as a child of `parent` if given.

    `on_start` hears the run's id, `on_batch` and `on_epoch` how it goes. A tracking server that
    goes away does not stop the training: what it misses is written when it is back.
    """
    tracking.open_store()
    training = training_of(plan)
    under_way = begun if plan.run_id is None else resumed
    run_id = ""
    try:
        with under_way(plan, training, parent) as (run, run_checkpoint):
            run_id = run.run_id
            run.set_tags(tags)
            on_start(run_id)
            if not training.results:
                record.beginning(run, plan)
            with tracking.system_metrics(run):
                _train(run, run_checkpoint, plan, training, on_batch, on_epoch)
            judged = record.end(run, plan, training)
    except (ExpectedError, KeyboardInterrupt) as error:
        over = NonFiniteLossError | IterationError | PrunedError
        if run_id and plan.findings.resumable and not isinstance(error, over):
            error.add_note(f"make resume RUN={run_id} goes on with it")
        raise
    run_checkpoint.remove()  # not before the store says that the run is finished
    return outcome(run, training, judged)


def training_of(plan: Plan, *, batches: int | None = None) -> Training:
    """The training of a plan, which stays as it is; with `batches`, of epochs of so many."""
    return Training(
        plan.recipe, plan.train, plan.held_out, seed=plan.seed, device=plan.device,
        network=copied(plan.network), teacher=plan.teacher.network if plan.teacher else None,
        engine=plan.engine.name, batches=batches,
    )  # fmt: skip


def watching(on_batch: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """What a training tells of its batches, at which it can be interrupted."""

    def watch(progress: Progress) -> None:
        interrupts.check()
        on_batch(progress)

    return watch


def outcome(run: RunWriter, training: Training, judged: RunVerdict | None) -> Outcome:
    """What a run came to that is finished."""
    address = ui.run_address(run.experiment_id, run.run_id)
    return Outcome(run.run_id, address, training.results[-1].evaluation.accuracy, judged)


@contextmanager
def begun(plan: Plan, training: Training, parent: str) -> Iterator[tuple[RunWriter, Checkpoint]]:
    """A new run, and its checkpoint, from which it can go on before its first epoch is over."""
    started = tracking.start_run(
        plan.name, _settings(plan, training), plan.tags(), source=plan.entry.file, parent=parent
    )
    with started as run, checkpoint.claim(run.run_id, resume.checkpoints()) as run_checkpoint:
        resume.save(run_checkpoint, plan, training)
        yield run, run_checkpoint


@contextmanager
def resumed(
    plan: Plan, training: Training, parent: str, *, restored: bool = False
) -> Iterator[tuple[RunWriter, Checkpoint]]:
    """The run that the plan goes on with, and its checkpoint, whose state the training takes unless
    it is `restored` already."""
    assert plan.run_id is not None
    with checkpoint.claim(plan.run_id, resume.checkpoints()) as run_checkpoint:
        resume.refuse_finished(run_checkpoint)  # meanwhile, while this process began
        if not restored:
            _restore(training, run_checkpoint)
        # After an epoch, what it has recorded stands: versions that decide nothing may be others.
        settings = {} if training.results else _settings(plan, training)
        with tracking.resume_run(plan.run_id, settings) as run:
            if parent:
                tracking.adopt([plan.run_id], parent)
            run.set_tags({"resumed": f"after epoch {len(training.results)}"})
            yield run, run_checkpoint


def _restore(training: Training, run_checkpoint: Checkpoint) -> None:
    state = run_checkpoint.load()["state"]
    try:
        training.restore(state)
    except Exception as error:  # of torch, or of what an iteration defines
        raise ExpectedError(
            f"run {run_checkpoint.run_id} cannot go on: its checkpoint does not fit the network "
            f"that its file makes now: {' '.join(str(error).split())[:200]}"
        ) from error


def _settings(plan: Plan, training: Training) -> dict[str, object]:
    return plan.settings() | {names.images(plan.split): len(training.evaluation)}


def blamed(entry: Entry, results: Iterator[Result]) -> Iterator[Result]:
    """The results; what a step raises that a trial did not reach names its line of the file."""
    while True:
        with blamed_on(entry):
            result = next(results, None)
        if result is None:
            return
        yield result


def _train(
    run: RunWriter, run_checkpoint: Checkpoint, plan: Plan, training: Training,
    on_batch: Callable[[Progress], None], on_epoch: Callable[[EpochResult], None],
) -> None:  # fmt: skip
    """Train the epochs that are left, and write all of them that the store lacks."""
    trained = [record.epoch_record(result, plan.split) for result in training.results]
    epochs = record.Epochs(run, trained, resumed=plan.run_id is not None)
    epochs.write()
    try:
        for result in blamed(plan.entry, training.epochs(watching(on_batch))):
            # First, so that the store is never ahead of the checkpoint.
            resume.save(run_checkpoint, plan, training)
            epochs.add(record.epoch_record(result, plan.split))
            on_epoch(result)
    except (NonFiniteLossError, PrunedError):
        run_checkpoint.remove()  # it would come to the same again
        raise
    epochs.write()
