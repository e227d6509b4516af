"""Many runs on dask.distributed: every pair of iteration and seed that the store does not hold yet.

A training is a process of its own under its worker, so that a crash ends one run. A worker that is
lost takes its training with it, and the scheduler gives the job to another.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import distributed
import pandas as pd
from distributed import CancelledError, Client, Event, Future, KilledWorker, as_completed

from mnist_exp import data, tracking
from mnist_exp.common import interrupts, markdown
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import counted, ranges
from mnist_exp.data.splits import LAST, asked_fold, each_fold, split_in_words
from mnist_exp.evidence import comparison, scores
from mnist_exp.evidence.recipes import TriedRecipe, tried_recipes
from mnist_exp.notebook import entries, loading
from mnist_exp.notebook.entries import Entry
from mnist_exp.runs import cluster, engines, environment, worker
from mnist_exp.runs import grid as grids
from mnist_exp.runs import overrides as overriding
from mnist_exp.runs.grid import Point
from mnist_exp.runs.job import Job, Order
from mnist_exp.runs.plan import check_request
from mnist_exp.runs.progress import Standing
from mnist_exp.runs.stopping import Stopping
from mnist_exp.runs.worker import PATIENCE, JobResult, Report
from mnist_exp.showing import tables
from mnist_exp.training.computing import Engine

JOB = "mnist_exp.runs.job"


@dataclass(frozen=True)
class Sweep:
    """What a sweep asks for, what of it the store holds already, and what is left to train."""

    models: tuple[int, ...]
    seeds: tuple[int, ...]
    split: data.Split
    epochs: int | None
    """None for those of each recipe."""
    points: Mapping[Job, Point]
    """All that is asked for, in the order of training, with its place in the grid."""
    held: dict[Job, str]
    """The ids of finished runs, by what they were trained for."""
    missing: tuple[Job, ...]
    entries: Mapping[int, Entry]
    """The iterations as they were read: what is trained, wherever a worker is."""
    grid: str = ""
    """The lists of overrides that it tries, as text."""
    teachers: Mapping[Job, str] = field(default_factory=dict)
    """By a job of the first seed, the run whose network it and the others of its kind learn from,
    whatever is trained meanwhile."""
    engine: Engine = "torch"
    """What computes the steps of all that is trained."""
    device: str = "cpu"
    """Where it is trained in this process: `cpu`, `cuda` or `mps`."""
    of_workers: str = "auto"
    """Where workers train, as it was asked for: each may have another."""
    stopping: Stopping | None = None
    """By what no further seeds of an iteration are trained; None where all are."""
    fold: str | None = None
    """Of the validation split: what is held out, which may be ALL."""

    @property
    def name(self) -> str:
        """The name of the parent run: the same for the same request, also of before there were
        folds."""
        epochs = f", {counted(self.epochs, 'epoch')}" if self.epochs else ""
        models, seeds = " ".join(map(str, self.models)), ranges(self.seeds)
        grid = f", {grids.in_short(self.grid)}" if self.grid else ""
        split = split_in_words(self.split, None if self.fold == LAST else self.fold)
        return f"sweep of models {models}, seeds {seeds}, {split}{epochs}{grid}"

    def teacher(self, job: Job) -> str | None:
        """The run whose network a job learns from, if any."""
        return self.teachers.get(dataclasses.replace(job, seed=self.seeds[0]))

    def ends_with(self, result: JobResult) -> bool:
        """Count a training that has ended; returns whether no further seed of its iteration is to
        be trained."""
        if self.stopping:
            self.stopping.add(result)
        return self.settled(result.job.model)

    def settled(self, model: int) -> bool:
        """Whether it is settled of an iteration how often its seeds pass, if that is asked."""
        return self.stopping is not None and self.stopping.settled(model)

    def tried(self, results: Iterable[JobResult]) -> dict[int, tuple[TriedRecipe, ...]]:
        """What comes of each point of the grid, by iteration."""
        trained = {result.job: result.run_id for result in results if not result.failure}
        ids: dict[int, dict[str, list[str]]] = {number: {} for number in self.models}
        own = {}
        for job, run_id in (self.held | trained).items():
            point = self.points[job]
            ids[job.model].setdefault(point.asked, []).append(run_id)
            if point.own:
                own[job.model] = point.asked
        return {
            number: tried_recipes(runs, own.get(number), self.fold) for number, runs in ids.items()
        }


def cautions(run_ids: Iterable[str]) -> list[str]:
    """What runs say of themselves that makes their numbers less certain, each once."""
    runs = tracking.runs().reindex(columns=["run_id", "cautions"])
    said = runs.loc[runs["run_id"].isin(list(run_ids)), "cautions"].dropna()
    return list(said.unique())


def settle_sweep(
    models: Iterable[int], seeds: Iterable[int], *, split: data.Split = "test",
    fold: str | None = None, epochs: int | None = None, grid: str = "", engine: str = "auto",
    device: str = "auto", stop_at: float | None = None,
) -> Sweep:  # fmt: skip
    """Settle which trainings the store lacks: those without a finished run of the same code, data,
    seed, split, fold, epochs and overrides; and, with `stop_at`, none of an iteration of which it
    is settled whether its seeds pass at that rate. The fold may be ALL. `grid` is the text of lists
    of overrides, of which every product is tried. `engine` is auto, compiled or torch, and `device`
    auto, cpu, cuda or mps, for what is trained: a run that the store has counts whichever it had.
    Raises ExpectedError for what cannot be run."""
    fold = asked_fold(split, fold)
    lists = grids.read_grid(grid, split, epochs)
    read = {number: entries.read_entry(number) for number in models}
    chosen = tuple(seeds)
    of_each = [(x, grids.grid_points(lists, x, chosen[0], epochs)) for x in read.values()]
    # Seeds first: what is there early says something about every iteration.
    points = {
        Job(x.number, seed, split, point.epochs, x.code_sha256, point.overrides, held_out): point
        for seed in chosen
        for held_out in each_fold(fold)
        for x, points in of_each
        for point in points
    }
    held = _held(points, tracking.runs())
    stopping = _stopping(stop_at, held)
    over = {number for number in read if stopping and stopping.settled(number)}
    missing = tuple(x for x in points if x not in held and x.model not in over)
    teachers = {}
    for job in {dataclasses.replace(job, seed=chosen[0]) for job in missing}:
        # One that cannot be run is refused here, before anything is trained.
        overrides = overriding.read(job.overrides, job.epochs)
        _, teacher = check_request(read[job.model], job.seed, overrides, split, job.fold)
        if teacher:
            teachers[job] = teacher.run_id
    settled, on = engines.choose_engine(engine if missing else "torch", device)
    return Sweep(
        tuple(read), chosen, split, epochs, points, held, missing, read, grid, teachers,
        settled.name, on.type, device, stopping, fold,
    )  # fmt: skip


def _held(jobs: Iterable[Job], runs: pd.DataFrame) -> dict[Job, str]:
    """The newest finished run of each job, but for runs that do not have the numbers of it."""
    hashes = {f"sha256.{name}": value for name, value in data.SHA256.items()}
    runs = runs.reindex(columns=list(dict.fromkeys([*runs.columns, *hashes, "epochs"])))
    same_data = (runs[list(hashes)] == list(hashes.values())).all(axis=1)
    sound = (runs["status"] == "FINISHED") & ~scores.resumed_inexactly(runs)
    finished = runs[same_data & sound]
    newest: dict[Job, str] = {}
    rows: Any = finished.sort_values("start_time").itertuples()
    for run in rows:
        try:
            overrides = overriding.read("" if pd.isna(run.overrides) else run.overrides)
        except ExpectedError:  # a run of another program
            continue
        whole = "epochs" not in overrides
        overrides.pop("epochs", None)
        others = overriding.as_words(overrides)
        fold = None if pd.isna(run.fold) else run.fold
        done = Job(run.model, run.seed, run.split, run.epochs, run.code_sha256, others, fold)
        newest[done] = run.run_id
        if whole:  # what trained as many epochs as the recipe has serves both
            newest[dataclasses.replace(done, epochs=None)] = run.run_id
    return {job: newest[job] for job in jobs if job in newest}


def _stopping(rate: float | None, held: Mapping[Job, str]) -> Stopping | None:
    """By what a sweep stops that may stop, as it begins with what the store holds."""
    if rate is None:
        return None
    return Stopping.after(rate, comparison.of_runs(held.values()) if held else ())


def train_missing(
    sweep: Sweep, *, workers: int | None, threads: int, scheduler: str,
    on_start: Callable[[int], None], on_result: Callable[[JobResult], None],
    on_report: Callable[[Report], None] = lambda _: None,
) -> list[JobResult]:  # fmt: skip
    """Train what is missing, and gather all runs of the sweep below one parent run.

    On `workers` processes of this machine (one per core if None), or on the cluster of `scheduler`.
    `on_start` hears how many trainings go on at once, `on_result` each that ends, and `on_report`,
    in another thread, what the workers say of each meanwhile. An interrupt stops the trainings,
    whose runs end as KILLED, and is raised again.
    """
    with cluster.cluster_client(scheduler, workers) as client:
        places = cluster.check_workers(client)  # a refused sweep leaves no run behind
        with tracking.continue_run(sweep.name) as parent:
            tracking.adopt(sweep.held.values(), parent.run_id)
            on_start(places)
            client.subscribe_topic(worker.topic(parent.run_id), _heard(sweep, on_report))
            results = _train_all(client, sweep, parent, threads, on_result)
            summarise(parent, sweep, results)
    return results


def _train_all(
    client: Client, sweep: Sweep, parent: tracking.RunWriter, threads: int,
    on_result: Callable[[JobResult], None],
) -> list[JobResult]:  # fmt: skip
    """Train on the workers what is missing; whatever ends this ends the trainings."""
    results = []
    stop = Event(f"stop-{parent.run_id}", client=client)
    ends = {x: Event(worker.settled_event(parent.run_id, x), client=client) for x in sweep.models}
    for event in (stop, *ends.values()):
        event.clear()  # the scheduler may have them from an earlier sweep of this name
    request = {"module": JOB, "threads": threads, "uri": tracking.tracking_uri()}
    futures = {
        client.submit(worker.train, order, request, key=order.job.key, pure=False): order.job
        for order in _orders(sweep, parent.run_id)
    }
    try:
        for future in as_completed(futures):
            result = _result_of(future, futures[future])
            if sweep.ends_with(result):
                ends[result.job.model].set()
            if not result.spared:
                results.append(result)
            on_result(result)
            interrupts.check()
    except BaseException as error:  # whatever it is, no training goes on by itself
        if isinstance(error, KeyboardInterrupt):
            error.add_note("the same command goes on")
        interrupts.heard()
        with suppress(TimeoutError, OSError, CancelledError):  # a scheduler may be lost
            stop.set()
            distributed.wait(list(futures), timeout=PATIENCE)
        raise
    return results


def _result_of(future: Future[JobResult], job: Job) -> JobResult:
    try:
        result: JobResult = future.result()
    except KilledWorker:
        return JobResult(job, "", 0, failure="its worker was lost again and again")
    return result


def _heard(
    sweep: Sweep, on_report: Callable[[Report], None]
) -> Callable[[tuple[float, dict[str, Any]]], None]:
    """What takes the events that workers log."""
    jobs = {job.key: job for job in sweep.missing}

    def hear(event: tuple[float, dict[str, Any]]) -> None:
        _, said = event
        standing = Standing(**said["standing"]) if said["standing"] else None
        on_report(Report(jobs[said["job"]], said["worker"], standing))

    return hear


def _orders(sweep: Sweep, parent: str) -> list[Order]:
    """What the workers are sent: each missing job with the code that it runs."""
    target, training = loading.load_target(), environment.training_sha256()
    return [
        Order(
            job, parent, read.source, dict(read.helpers), target, training, sweep.teacher(job),
            sweep.engine, sweep.of_workers,
        )
        for job in sweep.missing
        if (read := sweep.entries[job.model])
    ]  # fmt: skip


def summarise(parent: tracking.RunWriter, sweep: Sweep, results: list[JobResult]) -> None:
    """Record in the parent run what the runs below it come to, for each iteration."""
    failed = [f"- {result.job.name}: {result.failure}" for result in results if result.failure]
    if sweep.grid:
        tried = sweep.tried(results).items()
        shown = {n: markdown.as_table(tables.shown_tried(x, sweep.split)) for n, x in tried if x}
        texts = [f"Model {number}:\n\n{table}\n" for number, table in shown.items()]
        parent.describe("\n".join([f"A {sweep.name}.", "", *texts, *failed]))
        return
    trained = [result.run_id for result in results if not result.failure]
    verdicts = comparison.of_runs([*sweep.held.values(), *trained], sweep.fold)
    for verdict in verdicts:
        seeds = len(verdict.seeds)
        figures = {
            "seeds": seeds,
            "passing_seeds": verdict.passing,
            "final_accuracy_mean_percent": 100 * verdict.final_accuracy,
            "final_accuracy_std_percent": 100 * verdict.final_accuracy_std,
        }
        if verdict.worst:
            figures["worst_of_last_epochs_percent"] = 100 * verdict.worst.accuracy
        model = f"model-{verdict.model}"
        named = {f"{model}/{name}": round(value, 4) for name, value in figures.items()}
        known = {name: value for name, value in named.items() if not math.isnan(value)}
        parent.log_metrics(known, time=time.time())  # an earlier sweep of this name gave others
        if sweep.split == "test":
            low, high = (100 * bound for bound in verdict.pass_rate)
            interval = f"{verdict.passing} of {seeds} seeds ({low:.0f} to {high:.0f} %)"
            parent.set_tags({f"{model}.verdict": f"{verdict.answer}, {interval}"})
    table = tables.shown_verdicts(verdicts, loading.load_target())
    parent.describe("\n".join([f"A {sweep.name}.", "", markdown.as_table(table), "", *failed]))
