"""The worker's end of the pipe to a training.

The other end is `job`, the process in which the training goes on; its docstring says what each end
writes.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from distributed import Event, get_worker

from mnist_exp import tracking
from mnist_exp.common import startup
from mnist_exp.common.errors import ExpectedError
from mnist_exp.runs.job import Job, Order
from mnist_exp.runs.progress import Standing

PATIENCE = 10
"""Seconds that trainings get to end their runs after an interrupt."""


@dataclass(frozen=True)
class JobResult:
    """How a training ended: `accuracy` (fraction) and `verdict`, or the `failure` in words; and the
    seconds that it took, of a seed that was trained as one with others its share of theirs. What is
    `spared` was not trained, since it was settled meanwhile how often the seeds pass."""

    job: Job
    run_id: str
    seconds: float
    accuracy: float = float("nan")
    verdict: str = ""
    failure: str = ""
    spared: bool = False


@dataclass(frozen=True)
class Report:
    """What a worker, by its address, says of a training under way; None where it only begins."""

    job: Job
    worker: str
    standing: Standing | None


def topic(parent: str) -> str:
    """Under what the workers report to the sweep with this run."""
    return f"progress-{parent}"


def settled_event(parent: str, model: int) -> str:
    """At which event no further seed of an iteration begins, of the sweep with this run."""
    return f"settled-{parent}-{model}"


def train(order: Order, request: dict[str, Any]) -> JobResult:
    """Run on a worker: train one job in a process of its own, which ends when this worker does.

    `request` has the store's `uri`, the number of `threads`, and the `module` of the process.
    """
    stop = Event(f"stop-{order.parent}")
    if stop.is_set():
        return JobResult(order.job, "", 0, failure="not begun")
    settled = Event(settled_event(order.parent, order.job.model))
    if settled.is_set():
        return JobResult(order.job, "", 0, spared=True)
    tracking.use_store(request["uri"])
    # It writes to files: a pipe that nobody reads for a while would be full at some time.
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(folder, "out").open("w") as out,
        Path(folder, "out").open() as told,  # read from where this reader is, not the writer
        tempfile.TemporaryFile("w+", errors="replace") as errors,  # of programs in any encoding
    ):
        begun, process = time.monotonic(), _begin(order, request, out, errors)
        try:
            text = _report(order, "")
            # As long as the process has no run yet, it ends where another seed settles it.
            while process.poll() is None and not stop.is_set() and (text or not settled.is_set()):
                time.sleep(0.2)
                if more := told.read():
                    text = _report(order, text + more)
            spared = process.poll() is None and not stop.is_set()
        finally:  # also when the scheduler is gone
            _end(process)
        is_stopped = stop.is_set()
        errors.seek(0)
        lines, complaints = (text + told.read()).splitlines(), errors.read().strip().splitlines()
    if spared:
        return JobResult(order.job, "", 0, spared=True)
    seconds = time.monotonic() - begun
    return _result(order.job, seconds, process.returncode, lines, complaints, is_stopped)


def _begin(
    order: Order, request: dict[str, Any], out: TextIO, errors: TextIO
) -> subprocess.Popen[str]:
    """Start the process that trains a job, and send it the order."""
    # A session of its own: Ctrl-C in the terminal reaches the sweep, which stops the trainings.
    process = subprocess.Popen(
        [sys.executable, "-m", request["module"]], stdin=subprocess.PIPE, stdout=out,
        stderr=errors, text=True, start_new_session=True,
        env=os.environ | startup.SAME_HASHES | {"OMP_NUM_THREADS": str(request["threads"])},
    )  # fmt: skip
    assert process.stdin
    with suppress(BrokenPipeError):  # it has ended already
        process.stdin.write(json.dumps(dataclasses.asdict(order)) + "\n")
        process.stdin.flush()  # and stays open: its end would stop the training
    return process


def _report(order: Order, text: str) -> str:
    """Tell the sweep where a training stands that has written this text to stdout; returns it."""
    worker = get_worker()
    _, *lines = text.split("\n")[:-1] or [""]  # the first is the id, the last has no end yet
    standing = json.loads(lines[-1]) if lines else None
    if standing is None or "epoch" in standing:  # not how it ended
        report = {"job": order.job.key, "worker": worker.address, "standing": standing}
        worker.log_event(topic(order.parent), report)
    return text


def _result(
    job: Job, seconds: float, code: int, lines: list[str], complaints: list[str], is_stopped: bool
) -> JobResult:
    """What a process came to that ended with this exit code, and wrote these lines to stdout and
    these to stderr. If it `is_stopped`, the sweep has asked it to end."""
    run_id = lines[0] if lines else ""
    if code == 0:
        return JobResult(job, run_id, seconds, **json.loads(lines[-1]))
    if code < 0:
        failure = f"its process was ended by signal {-code}"
        if run_id:
            with suppress(ExpectedError):  # a store that is away hears of it later
                tracking.end_run(run_id, "KILLED" if is_stopped else "FAILED", failure)
    else:
        failure = complaints[-1] if complaints else f"exit code {code}"
    return JobResult(job, run_id, seconds, failure=failure)


def _end(process: subprocess.Popen[str]) -> None:
    """End the process if it goes on, with time to end its run, and close the pipe to it."""
    if process.poll() is None:
        process.terminate()  # once: a second signal would interrupt the ending of its run
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        process.kill()
        process.wait()
    assert process.stdin
    with suppress(BrokenPipeError):  # of what it has not read
        process.stdin.close()
