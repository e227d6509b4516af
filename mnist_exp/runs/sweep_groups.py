"""A sweep in this process: several seeds of an iteration are trained as one network.

That is for a graphics card, which one small network leaves idle. What cannot be trained so is
trained one seed after another.
"""

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import psutil
import torch

from mnist_exp import tracking
from mnist_exp.common import interrupts
from mnist_exp.common.errors import ExpectedError, FullMemoryError
from mnist_exp.runs import group, overrides, resume, run
from mnist_exp.runs.blame import blamed_on
from mnist_exp.runs.group import Group
from mnist_exp.runs.job import Job
from mnist_exp.runs.plan import Plan, settle
from mnist_exp.runs.progress import Pace
from mnist_exp.runs.run import Outcome
from mnist_exp.runs.sweep import Sweep, summarise
from mnist_exp.runs.worker import JobResult, Report
from mnist_exp.training.apart import ApartError
from mnist_exp.training.classifier import EVALUATION_BATCH
from mnist_exp.training.loop import EpochResult, Progress
from mnist_exp.training.together import Together

log = logging.getLogger(__name__)

TRIED = 2
"""Seeds of which the memory of one is measured."""
SHARE = 0.7
"""Of the free memory, what a group may take: what is measured is a step, and not all."""
MOST = 128
"""Seeds in a group that nobody has given a size: their runs are ended one after another."""
PER_SECOND = 1.0


def train_together(
    sweep: Sweep, *, together: int | None, threads: int, on_start: Callable[[int, int], None],
    on_result: Callable[[JobResult], None],
    on_report: Callable[[Report], None] = lambda _: None,
) -> list[JobResult]:  # fmt: skip
    """Train what is missing, `together` seeds at once (None: as many as the memory has room for),
    and gather all runs of the sweep below one parent run. `on_start` hears that one training goes
    on at once, and of how many seeds; the other callables are those of `sweep.train_missing`. An
    interrupt ends the runs under way as KILLED, and is raised again."""
    torch.set_num_threads(threads)
    results: list[JobResult] = []
    with tracking.continue_run(sweep.name) as parent:
        tracking.adopt(sweep.held.values(), parent.run_id)
        # A stable sort: the seeds stay in their order.
        for _, jobs in itertools.groupby(sorted(sweep.missing, key=_network), _network):
            training = _Training(sweep, list(jobs), parent.run_id, on_report)
            start = None if results else on_start
            try:
                for result in training.results(together, start):
                    results.append(result)
                    sweep.ends_with(result)
                    on_result(result)
                    interrupts.check()
            except KeyboardInterrupt as error:
                error.add_note("the same command goes on")
                raise
        summarise(parent, sweep, results)
    return results


def _network(job: Job) -> tuple[int, int, str, str]:
    """What seeds have in common that can be trained as one: the digits, too."""
    return job.model, job.epochs or 0, job.overrides, job.fold or ""


class _Training:
    """What is trained of one network: the jobs that are left of its seeds."""

    def __init__(
        self, sweep: Sweep, jobs: Sequence[Job], parent: str, on_report: Callable[[Report], None]
    ) -> None:
        self.sweep, self.parent, self.on_report = sweep, parent, on_report
        self.model, self.left = jobs[0].model, {job.seed: job for job in jobs}
        self.size = 1

    def results(
        self, together: int | None, on_start: Callable[[int, int], None] | None
    ) -> Iterator[JobResult]:
        """Train all of them, so many together; whatever goes wrong with some is their result."""
        first = next(iter(self.left.values()))
        try:
            plan = _settled(self.sweep, first)
            self.size = together or fitting(plan)
        except ExpectedError as error:
            yield from [self._result(seed, error, 0.0) for seed in list(self.left)]
            return
        if on_start:
            on_start(1, min(self._most(), len(self.left)))
        if self.size > 1:
            # First what an earlier sweep left half done, whose groups may have been others.
            for begun in group.interrupted(plan, list(self.left)):
                if self._most():
                    yield from self._together(begun)
        while seeds := list(self.left)[: self._most()]:
            if len(seeds) > 1:
                yield from self._together(group.of_seeds(plan, seeds))
            else:
                yield self._alone(*seeds)

    def _most(self) -> int:
        """How many seeds are trained next at most: no more than may settle how often they pass."""
        stopping = self.sweep.stopping
        if stopping is None:
            return self.size
        further = stopping.asked(self.model).further
        return 0 if stopping.settled(self.model) else min(self.size, further or self.size)

    def _together(self, some: Group) -> Iterator[JobResult]:
        """Train seeds as one. Where they cannot be, they are left, and fewer are trained at once
        from now on."""
        begun = time.monotonic()
        started: list[str] = []
        said = _Said([self.left[seed] for seed in some.recorded], some.plans[0], self.on_report)
        try:
            outcomes = group.carry_out_together(
                some, parent=self.parent, on_start=started.extend, on_batch=said.batch,
                on_epoch=said.epoch,
            )  # fmt: skip
        except ExpectedError as error:
            if isinstance(error, ApartError):
                self.size = 1
                log.warning("%s; they are trained one after another", error)
                return
            if isinstance(error, FullMemoryError) and not started:
                self.size = max(1, len(some.plans) // 2)
                log.warning("%s; %s seeds are trained together instead", error, self.size)
                return
            outcomes = dict.fromkeys(some.recorded, error)
        seconds = (time.monotonic() - begun) / len(outcomes)
        yield from [self._result(seed, outcomes[seed], seconds) for seed in sorted(outcomes)]

    def _alone(self, seed: int) -> JobResult:
        begun, job = time.monotonic(), self.left[seed]
        try:
            plan = _settled(self.sweep, job)
            said = _Said([job], plan, self.on_report)
            outcome: Outcome | ExpectedError = run.carry_out(
                resume.going_on(plan), parent=self.parent, on_batch=said.batch,
                on_epoch=partial(said.epoch, seed),
            )  # fmt: skip
        except ExpectedError as error:
            outcome = error
        return self._result(seed, outcome, time.monotonic() - begun)

    def _result(self, seed: int, outcome: Outcome | ExpectedError, seconds: float) -> JobResult:
        """What a seed came to, in its share of the time of all that were trained with it."""
        job = self.left.pop(seed)
        if isinstance(outcome, ExpectedError):
            return JobResult(job, "", seconds, failure=str(outcome))
        verdict = str(outcome.verdict) if outcome.verdict else "not judged"
        return JobResult(job, outcome.run_id, seconds, outcome.accuracy, verdict)


def _settled(sweep: Sweep, job: Job) -> Plan:
    return settle(
        job.model, seed=job.seed, overrides=overrides.read(job.overrides, job.epochs),
        split=job.split, fold=job.fold, entry=sweep.entries[job.model], device=sweep.device,
        engine="torch", teacher=sweep.teacher(job),
    )  # fmt: skip


class _Said:
    """Tells where the seeds of a group stand, once a second."""

    def __init__(
        self, jobs: Sequence[Job], plan: Plan, on_report: Callable[[Report], None]
    ) -> None:
        self.paces = {job.seed: Pace(plan.recipe.epochs, PER_SECOND) for job in jobs}
        self.jobs, self.on_report = jobs, on_report
        self.place = f"here://{plan.device.type}"

    def batch(self, progress: Progress) -> None:
        for job in self.jobs:
            if standing := self.paces[job.seed].batch(progress):
                self.on_report(Report(job, self.place, standing))

    def epoch(self, seed: int, result: EpochResult) -> None:
        self.paces[seed].epoch(result)


def fitting(plan: Plan) -> int:
    """How many seeds of a plan the free memory of its device has room for, at most MOST; 1 where
    they cannot be trained together."""
    train = plan.train.to(plan.device)
    held_out = plan.held_out[:EVALUATION_BATCH].to(plan.device)
    short = [
        dataclasses.replace(
            own, recipe=dataclasses.replace(own.recipe, epochs=1), train=train, held_out=held_out
        )
        for own in map(plan.of_seed, range(TRIED))
    ]

    def step() -> None:
        trainings = [run.training_of(own, batches=1) for own in short]
        list(Together(trainings).epochs())

    try:
        with blamed_on(plan.entry):
            taken, free = memory_taken(plan.device, step)
    except (ApartError, FullMemoryError):
        return 1
    return max(1, min(MOST, int(SHARE * free * TRIED / max(1, taken))))


def memory_taken(device: torch.device, do: Callable[[], object]) -> tuple[int, int]:
    """The most memory of a device that something takes while it is done, and what was free before
    it, in bytes."""
    if device.type != "cuda":  # memory stays with the process (`faster.keep_memory`)
        before, free = psutil.Process().memory_info().rss, psutil.virtual_memory().available
        do()
        return psutil.Process().memory_info().rss - before, free
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    free, _ = torch.cuda.mem_get_info(device)
    do()
    return torch.cuda.max_memory_allocated(device) - before, free
