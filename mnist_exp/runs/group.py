"""Runs of several seeds that are trained as one network; each is a run of its own in the store."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from mnist_exp import tracking
from mnist_exp.common import interrupts
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import ranges
from mnist_exp.runs import record, resume, run
from mnist_exp.runs.blame import blamed_on
from mnist_exp.runs.checkpoint import Checkpoint
from mnist_exp.runs.plan import Plan
from mnist_exp.runs.run import Outcome
from mnist_exp.tracking import RunWriter
from mnist_exp.training.loop import EpochResult, Progress, Training
from mnist_exp.training.together import Together


@dataclass
class _Member:
    """One run of a group, from its beginning to its end."""

    plan: Plan
    training: Training
    under_way: ExitStack
    run: RunWriter
    checkpoint: Checkpoint
    epochs: record.Epochs

    def fail(self, error: ExpectedError) -> ExpectedError:
        """End the run with the error, which the others do not hear of."""
        try:
            with self.under_way:
                raise error
        except ExpectedError:
            self.checkpoint.remove()  # it would come to the same again
        return error


def plans_of(plan: Plan, seeds: Sequence[int]) -> list[Plan]:
    """The plans of a group, from that of one seed: what its trial found out holds for each."""
    named = ranges(seeds)
    return [dataclasses.replace(plan.of_seed(seed), seeds_together=named) for seed in seeds]


def carry_out_together(
    plans: Sequence[Plan], *, parent: str = "",
    on_start: Callable[[list[str]], None] = lambda _: None,
    on_batch: Callable[[Progress], None] = lambda _: None,
    on_epoch: Callable[[int, EpochResult], None] = lambda *_: None,
) -> list[Outcome | ExpectedError]:  # fmt: skip
    """Train the plans of a group, and record each as a run of its own; returns what each came to.

    `on_start` hears the ids of the runs, `on_batch` the mean of all, and `on_epoch` the place and
    the result of each. A group that was interrupted goes on where all of its runs can, and no other
    does. Raises ApartError, before a run exists, where the recipe cannot be trained so.
    """
    tracking.open_store()
    plans = _unfinished(plans)
    trainings = [_training(plan) for plan in plans]
    with blamed_on(plans[0].entry):
        together = Together(trainings)
    came: list[Outcome | ExpectedError | None] = [None] * len(plans)
    with ExitStack() as group:
        members = [_begin(group, *pair, parent) for pair in zip(plans, trainings, strict=True)]
        group.enter_context(tracking.system_metrics(members[0].run))
        on_start([member.run.run_id for member in members])

        def watch(progress: Progress) -> None:
            interrupts.check()
            on_batch(progress)

        for epoch in run.blamed(plans[0].entry, together.epochs(watch)):
            for place, result in epoch.items():
                member = members[place]
                if isinstance(result, ExpectedError):
                    came[place] = member.fail(result)
                    continue
                resume.save(member.checkpoint, member.plan, member.training)
                member.epochs.add(record.epoch_record(result, member.plan.split))
                on_epoch(place, result)
        for place, member in enumerate(members):
            if came[place] is None:
                came[place] = _end(member)
    return [outcome for outcome in came if outcome is not None]


def _training(plan: Plan) -> Training:
    training = Training(
        plan.recipe, plan.train, plan.held_out, seed=plan.seed, device=plan.device,
        network=copy.deepcopy(plan.network), teacher=plan.teacher.network if plan.teacher else None,
    )  # fmt: skip
    if plan.run_id:
        training.restore(resume.state_of(plan))
    return training


def _begin(group: ExitStack, plan: Plan, training: Training, parent: str) -> _Member:
    under_way = group.enter_context(ExitStack())
    begun = run.resumed if plan.run_id else run.begun
    writer, own_checkpoint = under_way.enter_context(begun(plan, training, parent))
    if not training.results:
        record.beginning(writer, plan)
    trained = [record.epoch_record(result, plan.split) for result in training.results]
    epochs = record.Epochs(writer, trained, resumed=plan.run_id is not None)
    epochs.write()
    return _Member(plan, training, under_way, writer, own_checkpoint, epochs)


def _end(member: _Member) -> Outcome:
    member.epochs.write()
    judged = record.end(member.run, member.plan, member.training)
    member.under_way.close()  # the run is finished
    member.checkpoint.remove()
    return run.outcome(member.run, member.training, judged)


def _unfinished(plans: Sequence[Plan]) -> list[Plan]:
    """The plans that go on with the runs of this group, if all of them ended after the same epoch;
    or else those that begin."""
    begun = [resume.unfinished(plan) for plan in plans]
    going_on = [plan for plan in begun if plan]
    epochs = {len(resume.state_of(plan)["results"]) for plan in going_on}
    return going_on if len(going_on) == len(plans) and len(epochs) == 1 else list(plans)
