"""Many runs on dask.distributed: every pair of iteration and seed that the store does not hold yet.

A training is a process of its own under its worker, so that a crash ends one run. A worker that is
lost takes its training with it, and the scheduler gives the job to another.
"""

import dataclasses
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import distributed
import pandas as pd
from distributed import CancelledError, Client, Event, KilledWorker, LocalCluster, as_completed

from mnist_exp import ExpectedError, __version__, data, markdown, recipe, tracking
from mnist_exp.common import interrupts
from mnist_exp.common.words import counted, ranges
from mnist_exp.evidence import comparison
from mnist_exp.job import Job
from mnist_exp.showing import tables

logging.getLogger("distributed").setLevel(logging.ERROR)
# It has a level of its own, and logs a traceback about a scheduler that we say is lost.
logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
JOB = "mnist_exp.job"
CONNECT = "10s"
PATIENCE = 10
"""Seconds that trainings get to end their runs after an interrupt."""


@dataclass(frozen=True)
class Plan:
    """What a sweep asks for, what of it the store holds already, and what is left to train."""

    models: tuple[int, ...]
    seeds: tuple[int, ...]
    split: data.Split
    epochs: int | None
    """None for those of each recipe."""
    held: dict[Job, str]
    """Finished runs by job."""
    missing: tuple[Job, ...]

    @property
    def name(self) -> str:
        """The name of the parent run: the same for the same request."""
        epochs = f", {counted(self.epochs, 'epoch')}" if self.epochs else ""
        models, seeds = " ".join(map(str, self.models)), ranges(self.seeds)
        return f"sweep of models {models}, seeds {seeds}, {self.split} split{epochs}"


@dataclass(frozen=True)
class Result:
    """How a training ended: `accuracy` (fraction) and `verdict`, or the `failure` in words."""

    job: Job
    run_id: str
    seconds: float
    accuracy: float = float("nan")
    verdict: str = ""
    failure: str = ""


def plan(
    models: Iterable[int], seeds: Iterable[int], *, split: data.Split = "test",
    epochs: int | None = None,
) -> Plan:  # fmt: skip
    """Settle which trainings the store lacks: those without a finished run of the same code, data,
    seed, split and epochs. Raises ExpectedError for what cannot be run."""
    data.check_split(split)
    codes = {number: recipe.read(number).code_sha256 for number in models}
    chosen = tuple(seeds)
    # Seeds first: what is there early says something about every iteration.
    jobs = [
        Job(number, seed, split, epochs, code) for seed in chosen for number, code in codes.items()
    ]
    held = _held(jobs, tracking.runs())
    missing = tuple(job for job in jobs if job not in held)
    for number in {job.model for job in missing}:
        recipe.load(number)  # one that cannot be run is refused before anything is trained
    return Plan(tuple(codes), chosen, split, epochs, held, missing)


def _held(jobs: Iterable[Job], runs: pd.DataFrame) -> dict[Job, str]:
    """The newest finished run of each job."""
    hashes = {f"sha256.{name}": value for name, value in data.SHA256.items()}
    own = runs.reindex(columns=list(dict.fromkeys([*runs.columns, *hashes, "epochs"])))
    own = own[
        (own["status"] == "FINISHED") & (own[list(hashes)] == list(hashes.values())).all(axis=1)
    ]
    newest: dict[Job, str] = {}
    rows: Any = own.sort_values("start_time").itertuples()
    for run in rows:
        done = Job(run.model, run.seed, run.split, run.epochs, run.code_sha256)
        newest[done] = run.run_id
        if run.overrides == "none":
            newest[dataclasses.replace(done, epochs=None)] = run.run_id
    return {job: newest[job] for job in jobs if job in newest}


def carry_out(
    plan: Plan, *, workers: int | None, threads: int, scheduler: str,
    on_start: Callable[[int], None], on_result: Callable[[Result], None],
) -> list[Result]:  # fmt: skip
    """Train what is missing, and gather all runs of the plan below one parent run.

    On `workers` processes of this machine (one per core if None), or on the cluster of `scheduler`.
    `on_start` hears how many trainings go on at once, `on_result` each that ends. An interrupt
    stops the trainings, whose runs end as KILLED, and is raised again.
    """
    with _client(scheduler, workers) as client:
        places = _check_workers(client)  # a refused sweep leaves no run behind
        with tracking.continue_run(plan.name) as parent:
            tracking.adopt(plan.held.values(), parent.run_id)
            on_start(places)
            results = _train_all(client, plan, parent, threads, on_result)
            _summarise(parent, plan, results)
    return results


def _train_all(
    client: Client, plan: Plan, parent: tracking.RunWriter, threads: int,
    on_result: Callable[[Result], None],
) -> list[Result]:  # fmt: skip
    results = []
    stop = Event(f"stop-{parent.run_id}", client=client)
    stop.clear()
    request = {
        "module": JOB, "parent": parent.run_id, "threads": threads, "uri": tracking.tracking_uri(),
    }  # fmt: skip
    futures = {
        client.submit(train, job, request, key=job.key, pure=False): job for job in plan.missing
    }
    try:
        for future in as_completed(futures):
            try:
                results.append(future.result())
            except KilledWorker:
                lost = "its worker was lost again and again"
                results.append(Result(futures[future], "", 0, failure=lost))
            on_result(results[-1])
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


def _summarise(parent: tracking.RunWriter, plan: Plan, results: list[Result]) -> None:
    """Give the parent run what its runs come to, per iteration."""
    trained = [result.run_id for result in results if not result.failure]
    table = comparison.of_runs([*plan.held.values(), *trained], plan.split)
    rows: Any = table.itertuples()
    for row in rows:
        figures = {
            "seeds": row.seeds,
            "passing_seeds": row.passing,
            "final_accuracy_mean_percent": 100 * row.final_test_accuracy,
            "final_accuracy_std_percent": 100 * row.final_test_accuracy_std,
            "worst_of_last_epochs_percent": 100 * row.worst_accuracy,
        }
        named = {f"model-{row.model}/{name}": round(value, 4) for name, value in figures.items()}
        known = {name: value for name, value in named.items() if not math.isnan(value)}
        parent.log_metrics(known, time=time.time())  # an earlier sweep of this name gave others
        low, high = 100 * row.pass_low, 100 * row.pass_high
        interval = f"{row.passing} of {row.seeds} seeds ({low:.0f} to {high:.0f} %)"
        if plan.split == "test":
            parent.set_tags({f"model-{row.model}.verdict": f"{row.verdict}, {interval}"})
    shown = tables.shown(table, recipe.load_target(), plan.split)
    failed = [f"- {result.job.name}: {result.failure}" for result in results if result.failure]
    parent.describe("\n".join([f"A {plan.name}.", "", markdown.table(shown), "", *failed]))


@contextmanager
def _client(scheduler: str, workers: int | None) -> Iterator[Client]:
    if not scheduler:
        # Ctrl-C is for the sweep alone: its workers inherit that they ignore it.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        cluster = LocalCluster(
            n_workers=workers or os.cpu_count(), threads_per_worker=1, memory_limit=0,
            host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs="CRITICAL",
        )  # fmt: skip
        signal.signal(signal.SIGINT, handler)
        with cluster, Client(cluster) as client:
            yield client
        return
    if not tracking.is_served():
        raise ExpectedError(
            "the workers of SCHEDULER= cannot reach a local SQLite file: start a tracking server "
            "that they can reach (make server), and set MLFLOW_TRACKING_URI to its address"
        )
    try:
        client = Client(scheduler, timeout=CONNECT)
    except (OSError, ValueError, TimeoutError) as error:
        raise ExpectedError(f"SCHEDULER={scheduler} cannot be reached: {error}") from None
    with client:
        try:
            yield client
        except (CancelledError, OSError) as error:
            if isinstance(error, OSError) and client.status == "running":
                raise
            raise ExpectedError(
                f"the scheduler {scheduler} was lost, and the trainings under way with it: start "
                "it again, and the same command trains what is missing"
            ) from None


def _check_workers(client: Client) -> int:
    """How many trainings the workers take at once; ExpectedError when they are not like us."""
    workers = client.run(_version, on_error="return")
    if not workers:
        raise ExpectedError("SCHEDULER= has no worker: start one, as the README says")
    found = {f"worker {address}": version for address, version in workers.items()}
    try:
        found["the scheduler"] = client.run_on_scheduler(_version)  # it reads the jobs, too
    except ModuleNotFoundError as error:
        found["the scheduler"] = error
    for place, version in found.items():
        if isinstance(version, Exception):
            raise ExpectedError(
                f"{place} cannot use mnist-exp ({version}): start it in the environment and the "
                "checkout of this project, as the README says"
            )
        if version != __version__:
            raise ExpectedError(
                f"{place} has mnist-exp {version}, and this is {__version__}: bring them to the "
                "same version"
            )
    return sum(client.nthreads().values())


def _version() -> str:
    return __version__


def train(job: Job, request: dict[str, Any]) -> Result:
    """Run on a worker: train one job in a process of its own, which ends when this worker does."""
    begun = time.monotonic()
    os.environ["MLFLOW_TRACKING_URI"] = request["uri"]
    environment = os.environ | {"OMP_NUM_THREADS": str(request["threads"])}
    own = {"job": dataclasses.asdict(job), "parent": request["parent"]}
    stop = Event(f"stop-{request['parent']}")
    if stop.is_set():
        return Result(job, "", 0, failure="not begun")
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        # A session of its own: Ctrl-C in the terminal reaches the sweep, which stops the trainings.
        process = subprocess.Popen(
            [sys.executable, "-m", request["module"]], stdin=subprocess.PIPE, stdout=out,
            stderr=errors, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        assert process.stdin
        process.stdin.write(json.dumps(own) + "\n")
        process.stdin.flush()
        try:
            while process.poll() is None and not stop.is_set():
                time.sleep(0.2)
        finally:  # also when the scheduler is gone
            _end(process)
        out.seek(0)
        errors.seek(0)
        said, complained = out.read().splitlines(), errors.read().strip().splitlines()
    seconds = time.monotonic() - begun
    run_id = said[0] if said else ""
    if process.returncode == 0:
        return Result(job, run_id, seconds, **json.loads(said[-1]))
    if process.returncode < 0:
        failure = f"its process was ended by signal {-process.returncode}"
        if run_id:
            with suppress(ExpectedError):  # a store that is away hears of it later
                tracking.end_run(run_id, "FAILED", failure)
    else:
        failure = complained[-1] if complained else f"exit code {process.returncode}"
    return Result(job, run_id, seconds, failure=failure)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()  # once: a second signal would interrupt the ending of its run
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        process.kill()
        process.wait()
    assert process.stdin
    process.stdin.close()
