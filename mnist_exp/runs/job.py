"""One training of a sweep, in a process of its own: `python -m mnist_exp.runs.job`.

This is one end of a pipe; `worker.train` is the other.

- stdin: one line of JSON, an `Order`, field by field. It stays open as long as somebody waits for
  the training. When it ends, the training stops as it does at an interrupt: nobody is there to
  notice that it is trained a second time.
- stdout: the id of the run when it has begun; then each second a line of JSON, a `Standing`; at its
  end another, {"accuracy": a fraction, "verdict": in words}.
  What an iteration prints, and the programs that it runs, goes to stderr instead.
- stderr: its last line says why the training failed. The exit code is then not 0.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from mnist_exp import data
from mnist_exp.common import interrupts, startup
from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import entries
from mnist_exp.recipe import Target
from mnist_exp.runs.progress import Pace, Standing

TOLD = 1.0
"""Seconds from one line about where the training stands to the next."""


@dataclass(frozen=True)
class Job:
    """What is to be trained. `epochs` is None for those of the recipe; `code_sha256` is the hash of
    the iteration, which the run will record; `overrides` are the others, as text; `fold` is None on
    the test split."""

    model: int
    seed: int
    split: data.Split
    epochs: int | None
    code_sha256: str
    overrides: str = ""
    fold: data.Fold | None = None

    @property
    def key(self) -> str:
        """What the scheduler calls it: the same for the same training."""
        code = self.code_sha256[:16]
        overrides = hashlib.sha256(self.overrides.encode()).hexdigest()[:16]
        digits = f"{self.split}-{self.fold}" if self.fold else self.split
        return f"model-{self.model}-{code}-{overrides}-{digits}-{self.epochs or 'all'}-{self.seed}"

    @property
    def name(self) -> str:
        """What a person calls it."""
        fold = f" · fold {self.fold}" if self.fold else ""
        overrides = f" · {self.overrides}" if self.overrides else ""
        return f"model-{self.model} · seed {self.seed}{fold}{overrides}"


@dataclass(frozen=True)
class Order:
    """A job with all that the sweep has settled of it, whatever the checkout of a worker has."""

    job: Job
    parent: str
    """The id of the sweep's run."""
    source: str
    """The file of the iteration, which is executed."""
    helpers: Mapping[str, str]
    """The other files that it imports, by name."""
    target: Target
    training_sha256: str
    """The hash of the package's code that takes part in a training, where the sweep is."""
    teacher: str | None = None
    """The run whose network it learns from, if it has a teacher."""
    engine: str = "torch"
    """What computes its steps, on whatever machine."""
    device: str = "auto"


def main() -> int:
    """Train one job; returns the exit code: 0, 2 for an expected failure, 130 when stopped."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    startup.of_command()
    interrupts.listen()
    fields = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_with_stdin, daemon=True).start()
    known = {"job": Job(**fields["job"]), "target": Target(**fields["target"])}
    try:
        _train(Order(**fields | known), pipe)
    except ExpectedError as error:
        print("; ".join([str(error), *getattr(error, "__notes__", [])]), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        interrupts.heard()
        return 130
    return 0


def _stop_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # not through a buffer, whose lock would block the end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _train(order: Order, pipe: TextIO) -> None:
    with startup.loading():
        from mnist_exp.runs import environment, overrides, resume, run
        from mnist_exp.runs.plan import settle

    job = order.job
    entry = entries.parse(order.source, job.model, helpers=order.helpers)
    if (entry.code_sha256, environment.training_sha256()) != (
        job.code_sha256, order.training_sha256,
    ):  # fmt: skip
        raise ExpectedError(
            "the package of this worker differs from that of the sweep: bring its checkout to the "
            "same commit"
        )
    plan = settle(
        job.model, seed=job.seed, overrides=overrides.read(job.overrides, job.epochs),
        split=job.split, fold=job.fold, entry=entry, teacher=order.teacher, engine=order.engine,
        device=order.device,
    )  # fmt: skip
    plan = dataclasses.replace(plan, target=order.target)
    # With what an earlier sweep left half done.
    plan = resume.going_on(plan)
    pace = Pace(plan.recipe.epochs, TOLD)
    outcome = run.carry_out(
        plan, parent=order.parent,
        on_batch=lambda progress: _tell(pace.batch(progress), pipe), on_epoch=pace.epoch,
        on_start=lambda run_id: print(run_id, file=pipe, flush=True),
    )  # fmt: skip
    verdict = str(outcome.verdict) if outcome.verdict else "not judged"
    print(json.dumps({"accuracy": outcome.accuracy, "verdict": verdict}), file=pipe, flush=True)


def _tell(standing: Standing | None, pipe: TextIO) -> None:
    if standing:
        print(json.dumps(dataclasses.asdict(standing)), file=pipe, flush=True)


if __name__ == "__main__":
    sys.exit(main())
