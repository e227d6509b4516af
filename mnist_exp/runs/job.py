"""One training of a sweep, in a process of its own: `python -m mnist_exp.runs.job`.

This is one end of a pipe; `worker.train` is the other.

- stdin: one line of JSON, {"job": the fields of a `Job`, "parent": the id of the sweep's run}. It
  stays open as long as somebody waits for the training. When it ends, the training stops as it does
  at an interrupt: nobody is there to notice that it is trained a second time.
- stdout: the id of the run when it has begun; at its end a line of JSON, {"accuracy": a fraction,
  "verdict": in words}.
- stderr: its last line says why the training failed. The exit code is then not 0.
"""

import json
import os
import signal
import sys
import threading
from dataclasses import dataclass

from mnist_exp import data
from mnist_exp.common import interrupts, startup
from mnist_exp.common.errors import ExpectedError


@dataclass(frozen=True)
class Job:
    """What is to be trained. `epochs` is None for those of the recipe; `code_sha256` is the hash of
    the iteration, which the run will record."""

    model: int
    seed: int
    split: data.Split
    epochs: int | None
    code_sha256: str

    @property
    def key(self) -> str:
        """What the scheduler calls it: the same for the same training."""
        code = self.code_sha256[:16]
        return f"model-{self.model}-{code}-{self.split}-{self.epochs or 'all'}-{self.seed}"

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"model-{self.model} · seed {self.seed}"


def main() -> int:
    """Train one job; returns the exit code: 0, 2 for an expected failure, 130 when stopped."""
    startup.of_command()
    interrupts.listen()
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_with_stdin, daemon=True).start()
    try:
        _train(Job(**request["job"]), request["parent"])
    except ExpectedError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _stop_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # not through a buffer, whose lock would block the end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _train(job: Job, parent: str) -> None:
    from mnist_exp.runs import resume, run
    from mnist_exp.runs.plan import settle

    plan = settle(job.model, seed=job.seed, epochs=job.epochs, split=job.split)
    if plan.entry.code_sha256 != job.code_sha256:
        raise ExpectedError(
            f"{plan.entry.file} differs from that of the sweep: bring the checkout of this "
            "worker to the same commit"
        )
    outcome = run.carry_out(
        resume.unfinished(plan) or plan,  # what an earlier sweep left half done
        on_batch=lambda _: None, on_epoch=lambda _: None, parent=parent,
        on_start=lambda run_id: print(run_id, flush=True),
    )  # fmt: skip
    verdict = str(outcome.verdict) if outcome.verdict else "not judged"
    print(json.dumps({"accuracy": outcome.accuracy, "verdict": verdict}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
