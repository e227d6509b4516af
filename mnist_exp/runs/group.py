"""Runs of several seeds that are trained as one network; each is a run of its own in the store.

A group that was interrupted goes on with just the seeds that it began with, in their order: what a
seed draws depends on how many there are. Those that came to nothing, or whose run is finished, are
only computed with the others.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import ranges, read_ranges
from mnist_exp.runs import record, resume, run, trial
from mnist_exp.runs.blame import blamed_on
from mnist_exp.runs.checkpoint import Checkpoint
from mnist_exp.runs.memory import remembered
from mnist_exp.runs.plan import Plan
from mnist_exp.runs.run import Outcome
from mnist_exp.tracking import RunWriter
from mnist_exp.training.apart import APART, ApartError
from mnist_exp.training.loop import EpochResult, Progress, Training
from mnist_exp.training.together import Together


@dataclass(frozen=True)
class Group:
    """Seeds that are trained as one network, by the plan of each, in the order of the seeds.

    `states` are those from which it goes on, by seed; none where it begins. `recorded` are the
    seeds that are runs of this group; the others are only computed with them.
    """

    plans: tuple[Plan, ...]
    recorded: frozenset[int]
    states: Mapping[int, dict[str, Any]] = field(default_factory=dict)


@dataclass
class _Member:
    """One run of a group, from its beginning to its end."""

    plan: Plan
    training: Training
    under_way: ExitStack
    run: RunWriter
    checkpoint: Checkpoint
    epochs: record.Epochs

    def save(self) -> None:
        resume.save(self.checkpoint, self.plan, self.training, keeps_last=True)

    def add(self, result: EpochResult) -> None:
        self.epochs.add(record.epoch_record(result, self.plan.split))

    def fail(self, error: ExpectedError) -> ExpectedError:
        """End the run with the error, which the others do not hear of."""
        try:
            with self.under_way:
                raise error
        except ExpectedError:
            self.checkpoint.remove()  # it would come to the same again
            return error

    def end(self) -> Outcome | ExpectedError:
        """Record what the epochs came to."""
        try:
            with self.under_way:
                self.epochs.write()
                judged = record.end(self.run, self.plan, self.training)
        except ExpectedError as error:  # as of a store that is away: the same sweep goes on
            return error
        self.checkpoint.remove()  # the run is finished
        return run.outcome(self.run, self.training, judged)


def of_seeds(plan: Plan, seeds: Collection[int]) -> Group:
    """A group that begins, of seeds of a plan: what the trial of that found out holds for each."""
    named = ranges(seeds)
    plans = (dataclasses.replace(plan.of_seed(x), seeds_together=named) for x in sorted(seeds))
    return Group(tuple(plans), frozenset(seeds))


def interrupted(plan: Plan, wanted: Collection[int]) -> Iterator[Group]:
    """The groups of a plan that ended early and can go on here, with those of their runs whose
    seeds are `wanted`, each once."""
    left = set(wanted)
    for named in resume.groups(plan):
        if left.isdisjoint(read_ranges(named)):
            continue
        whole = of_seeds(plan, read_ranges(named))
        begun = resume.all_unfinished([x for x in whole.plans if x.seed in left])
        kept = {own.seed: resume.states_of(own) for own in begun}
        if not kept:
            continue
        done = min(len(states[0]["results"]) for states in kept.values())
        states = {
            seed: state
            for seed, both in kept.items()
            for state in both
            if len(state["results"]) == done
        }
        going_on = {own.seed: own for own in begun if own.seed in states}
        plans = tuple(going_on.get(own.seed, own) for own in whole.plans)
        # Before the first epoch has ended, those whose runs had not begun begin with the others.
        recorded = states.keys() if done else whole.recorded & left
        left -= recorded
        yield Group(plans, frozenset(recorded), states if done else {})


def carry_out_together(
    group: Group, *, parent: str = "",
    on_start: Callable[[list[str]], None] = lambda _: None,
    on_batch: Callable[[Progress], None] = lambda _: None,
    on_epoch: Callable[[int, EpochResult], None] = lambda *_: None,
) -> dict[int, Outcome | ExpectedError]:  # fmt: skip
    """Train a group, and record each of its seeds as a run of its own; returns what each came to.

    `on_start` hears the ids of the runs, `on_batch` the mean of all, and `on_epoch` the seed and
    the result of each. Raises ApartError, before a run exists, where the recipe cannot be trained
    so, and FullMemoryError where there is no room for so many.
    """
    tracking.open_store()
    entry = group.plans[0].entry
    with blamed_on(entry):
        together = _together(group)
    came: dict[int, Outcome | ExpectedError] = {}
    with ExitStack() as stack:
        members: dict[int, _Member] = {}
        for plan, training in zip(group.plans, together.trainings, strict=True):
            if plan.seed in group.recorded:
                plan = _less_certain(plan, together.not_deterministic)
                members[plan.seed] = _begin(stack, plan, training, parent)
        measured = next(iter(members.values()))  # the machine is that of all
        measured.under_way.enter_context(tracking.system_metrics(measured.run))
        on_start([member.run.run_id for member in members.values()])
        for epoch in run.blamed(entry, together.epochs(run.watching(on_batch))):
            results = {group.plans[place].seed: result for place, result in epoch.items()}
            # All of them before the store hears of one, which takes its time: whatever happens, no
            # two are more than one epoch apart.
            for seed, result in results.items():
                if isinstance(result, EpochResult):
                    members[seed].save()
            for seed, result in results.items():
                if isinstance(result, EpochResult):
                    members[seed].add(result)
                    on_epoch(seed, result)
                else:
                    came[seed] = members[seed].fail(result)
        return came | {seed: own.end() for seed, own in members.items() if seed not in came}


def _together(group: Group) -> Together:
    """The trainings of a group as one, on digits that lie on the device once."""
    plan = group.plans[0]
    train, held_out = plan.train.to(plan.device), plan.held_out.to(plan.device)
    trainings = [
        run.training_of(dataclasses.replace(own, train=train, held_out=held_out))
        for own in group.plans
    ]
    some = next(iter(group.states.values()), None)
    for own, training in zip(group.plans, trainings, strict=True):
        if some:  # that of another is as good for one that comes to nothing
            training.restore(group.states.get(own.seed, some))
    _check(plan, trainings)
    absent = [place for place, own in enumerate(group.plans) if own.seed not in group.recorded]
    return Together(trainings, absent)


def _check(plan: Plan, trainings: Sequence[Training]) -> None:
    """Raise ApartError where the code of an iteration holds or draws what is not of all seeds, and
    lies where a training does not look."""
    if trial.NOT_RESUMED in plan.findings.not_exact:
        raise ApartError(f"{APART}: its code keeps something where no checkpoint looks")
    if trial.NOT_REPEATED in plan.findings.cautions:
        raise ApartError(f"{APART}: its code draws what no seed sets")
    first, *others = (remembered(plan.entry, training) for training in trainings)
    if any(other != first for other in others):
        raise ApartError(f"{APART}: its code holds something else for each")


def _less_certain(plan: Plan, operation: str) -> Plan:
    """The plan, whose trial may not have met an operation without a deterministic kernel."""
    if not operation or plan.findings.not_exact:
        return plan
    not_exact = trial.NOT_DETERMINISTIC.format(operation)
    return dataclasses.replace(
        plan, findings=dataclasses.replace(plan.findings, not_exact=not_exact)
    )


def _begin(stack: ExitStack, plan: Plan, training: Training, parent: str) -> _Member:
    under_way = stack.enter_context(ExitStack())
    begun = partial(run.resumed, restored=True) if plan.run_id else run.begun
    writer, own_checkpoint = under_way.enter_context(begun(plan, training, parent))
    if not training.results:
        record.beginning(writer, plan)
    trained = [record.epoch_record(result, plan.split) for result in training.results]
    epochs = record.Epochs(writer, trained, resumed=plan.run_id is not None)
    epochs.write()
    return _Member(plan, training, under_way, writer, own_checkpoint, epochs)
