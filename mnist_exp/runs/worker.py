"""The worker's end of the pipe to a training, which is a process of its own (`job.py`)."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from distributed import Event

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.runs.job import Job

PATIENCE = 10
"""Seconds that trainings get to end their runs after an interrupt."""


@dataclass(frozen=True)
class JobResult:
    """How a training ended: `accuracy` (fraction) and `verdict`, or the `failure` in words."""

    job: Job
    run_id: str
    seconds: float
    accuracy: float = float("nan")
    verdict: str = ""
    failure: str = ""


def train(job: Job, request: dict[str, Any]) -> JobResult:
    """Run on a worker: train one job in a process of its own, which ends when this worker does."""
    begun = time.monotonic()
    tracking.use_store(request["uri"])
    environment = os.environ | {"OMP_NUM_THREADS": str(request["threads"])}
    own = {"job": dataclasses.asdict(job), "parent": request["parent"]}
    stop = Event(f"stop-{request['parent']}")
    if stop.is_set():
        return JobResult(job, "", 0, failure="not begun")
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
        return JobResult(job, run_id, seconds, **json.loads(said[-1]))
    if process.returncode < 0:
        failure = f"its process was ended by signal {-process.returncode}"
        if run_id:
            with suppress(ExpectedError):  # a store that is away hears of it later
                tracking.end_run(run_id, "FAILED", failure)
    else:
        failure = complained[-1] if complained else f"exit code {process.returncode}"
    return JobResult(job, run_id, seconds, failure=failure)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()  # once: a second signal would interrupt the ending of its run
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        process.kill()
        process.wait()
    assert process.stdin
    process.stdin.close()
