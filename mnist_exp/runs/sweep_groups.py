"""A sweep in this process: several seeds of an iteration are trained as one network.

That is for a graphics card, which is as quick with a hundred small networks as with one. What
cannot be trained so is trained one seed after another.
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
from mnist_exp.common.errors import ExpectedError
from mnist_exp.runs import group, overrides, resume, run
from mnist_exp.runs.job import Job
from mnist_exp.runs.plan import Plan, settle
from mnist_exp.runs.progress import Pace
from mnist_exp.runs.run import Outcome
from mnist_exp.runs.sweep import Sweep, summarise
from mnist_exp.runs.worker import JobResult, Report
from mnist_exp.training.loop import EpochResult, Progress, Training
from mnist_exp.training.together import ApartError, Together

log = logging.getLogger(__name__)

TRIED = 2
"""Seeds of which the memory of one is measured."""
SHARE = 0.7
"""Of the free memory, what a group may take: what is measured is a step, and not all."""
MOST = 128
"""Seeds in a group that nobody has given a size; more are no quicker each."""
PER_SECOND = 1.0


def train_together(
    sweep: Sweep, *, together: int | None, on_start: Callable[[int], None],
    on_result: Callable[[JobResult], None],
    on_report: Callable[[Report], None] = lambda _: None,
) -> list[JobResult]:  # fmt: skip
    """Train what is missing, `together` seeds at once (None: as many as the memory has room for),
    and gather all runs of the sweep below one parent run. The callables are those of
    `sweep.train_missing`; an interrupt ends the runs under way as KILLED, and is raised again."""
    results: list[JobResult] = []
    with tracking.continue_run(sweep.name) as parent:
        tracking.adopt(sweep.held.values(), parent.run_id)
        of_one_network = itertools.groupby(
            sorted(sweep.missing, key=_network), _network
        )  # a stable sort: the seeds stay in their order
        for begun, (_, jobs) in enumerate(of_one_network):
            waiting = list(jobs)
            plan = _plan(sweep, waiting[0])
            size = together or fitting(plan)
            if not begun:
                on_start(min(size, len(waiting)))
            while waiting:
                some, waiting = waiting[:size], waiting[size:]
                for result in _train(plan, some, parent.run_id, on_report):
                    results.append(result)
                    on_result(result)
                interrupts.check()
        summarise(parent, sweep, results)
    return results


def _network(job: Job) -> tuple[int, int, str]:
    return job.model, job.epochs or 0, job.overrides


def _plan(sweep: Sweep, job: Job) -> Plan:
    return settle(
        job.model, seed=job.seed, overrides=overrides.read(job.overrides, job.epochs),
        split=job.split, entry=sweep.entries[job.model], device=sweep.device, engine="torch",
        teacher=sweep.teachers.get((job.model, job.epochs, job.overrides)),
    )  # fmt: skip


def _train(
    plan: Plan, jobs: Sequence[Job], parent: str, on_report: Callable[[Report], None]
) -> Iterator[JobResult]:
    """Train some seeds of a plan as one, or one after another where they cannot be."""
    if len(jobs) > 1:
        begun = time.monotonic()
        said = _Said(jobs, plan, on_report)
        try:
            outcomes = group.carry_out_together(
                group.plans_of(plan, [job.seed for job in jobs]), parent=parent,
                on_batch=said.batch, on_epoch=said.epoch,
            )  # fmt: skip
        except ApartError as error:
            log.warning("%s; they are trained one after another", error)
        else:
            seconds = (time.monotonic() - begun) / len(jobs)
            pairs = zip(jobs, outcomes, strict=True)
            yield from (_result(job, outcome, seconds) for job, outcome in pairs)
            return
    for job in jobs:
        begun = time.monotonic()
        own = plan.of_seed(job.seed)
        own = (None if own.findings.not_exact else resume.unfinished(own)) or own
        said = _Said([job], plan, on_report)
        try:
            outcome: Outcome | ExpectedError = run.carry_out(
                own, parent=parent, on_batch=said.batch, on_epoch=partial(said.epoch, 0)
            )
        except ExpectedError as error:
            outcome = error
        yield _result(job, outcome, time.monotonic() - begun)


class _Said:
    """Tells where the seeds of a group stand, once a second."""

    def __init__(
        self, jobs: Sequence[Job], plan: Plan, on_report: Callable[[Report], None]
    ) -> None:
        self.paces = [Pace(plan.recipe.epochs, PER_SECOND) for _ in jobs]
        self.jobs, self.on_report = jobs, on_report
        self.place = f"here://{plan.device.type}"

    def batch(self, progress: Progress) -> None:
        for job, pace in zip(self.jobs, self.paces, strict=True):
            if standing := pace.batch(progress):
                self.on_report(Report(job, self.place, standing))

    def epoch(self, place: int, result: EpochResult) -> None:
        self.paces[place].epoch(result)


def _result(job: Job, outcome: Outcome | ExpectedError, seconds: float) -> JobResult:
    if isinstance(outcome, ExpectedError):
        return JobResult(job, "", seconds, failure=str(outcome))
    verdict = str(outcome.verdict) if outcome.verdict else "not judged"
    return JobResult(job, outcome.run_id, seconds, outcome.accuracy, verdict)


def fitting(plan: Plan) -> int:
    """How many seeds of a plan the free memory of its device has room for, at most MOST; 1 where
    they cannot be trained together."""
    recipe = dataclasses.replace(plan.recipe, epochs=1)
    some = plan.held_out[: recipe.batch_size]
    trainings = [
        Training(
            recipe, plan.train, some, seed=seed, device=plan.device, network=own.network,
            teacher=plan.teacher.network if plan.teacher else None, batches=1,
        )
        for seed in range(TRIED) if (own := plan.of_seed(seed))
    ]  # fmt: skip
    before, free = _memory(plan.device)
    try:
        list(Together(trainings).epochs())
    except ApartError:
        return 1
    peak, _ = _memory(plan.device)
    of_one = max(1.0, (peak - before) / TRIED)
    return max(1, min(MOST, int(SHARE * free / of_one)))


def _memory(device: torch.device) -> tuple[float, float]:
    """The most that this process has taken of a device's memory so far, and what is free, in
    bytes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return torch.cuda.max_memory_allocated(device), free
    return psutil.Process().memory_info().rss, psutil.virtual_memory().available
