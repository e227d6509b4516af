"""What is around a run: another process, the clock, and the variables of the shell."""

import os
import random
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from trials import ANEW, Bench, Row, Trial, points, until_ended

from mnist_exp import ROOT


def double_resumes(bench: Bench, times: int) -> Row:
    """Resume a run from two processes at once: one does, the other is refused."""
    row = Row("resumed twice at once")
    for number in bench.turns(row, times):
        trial, twin = bench.trial("twice", number)
        process, _ = trial.start()
        while not trial.begun() and process.exitcode is None:
            process.join(0.05)
        process.kill()
        process.join()
        both = [trial.start(), trial.start()]
        row.injected += 1
        for process, _ in both:
            until_ended(process)
        codes = sorted(process.exitcode for process, _ in both)
        refused = [said.read_text() for process, said in both if process.exitcode == 2]
        fair = "is being trained by another process", "is finished: there is nothing to resume"
        if codes != [0, 2] or not any(reason in refused[0] for reason in fair):
            row.lose(f"{codes}: {refused}")
        trial.to_the_end(row, twin)
    return row


def same_seed(bench: Bench, times: int) -> Row:
    """Train the same iteration on the same seed twice at once: both runs are whole, and equal."""
    row = Row("the same seed twice at once")
    for number in bench.turns(row, times):
        trial, twin = bench.trial("same", number)
        both = [trial.start(anew=True), trial.start(anew=True)]
        row.injected += both[0][0].exitcode is None
        for process, _ in both:
            until_ended(process)
        row.runs += 2
        codes = [process.exitcode for process, _ in both]
        if codes != [0, 0] or len(trial.ended()) != 2:
            said = [said.read_text()[-300:] for process, said in both if process.exitcode]
            row.lose(f"{codes}, {len(trial.ended())} finished: {said}")
        for run_id in trial.ended():
            trial.judge(run_id, row, twin)
    return row


def clocks(bench: Bench, times: int) -> Row:
    """Set the clock under runs, by an hour or a month, and read the store then: they stay under
    way.

    The clock is that of the processes of the trial (`nursery`): this machine has other work.
    """
    row = Row("clock set")
    for number in bench.turns(row, times):
        trial, twin = bench.trial("clock", number)
        clock = trial.folder / "clock"
        clock.write_text("0")
        process, said = trial.start()
        while not trial.begun() and process.exitcode is None:
            process.join(0.02)
        process.join(random.uniform(0, twin.seconds / 8))
        clock.write_text(str(random.choice((-30 * 24, -1, 1, 30 * 24)) * 3600))
        if process.exitcode is None:
            # It waits for the reader, who takes longer to begin than it takes to its end.
            _stop(process, trial)
            noticed = trial.compare()
            if not trial.ended():
                row.injected += 1
            if not trial.ended() and not trial.under_way():
                row.lose(f"clock {clock.read_text()}: {noticed[-300:]}")
            os.kill(process.pid, signal.SIGCONT)
        until_ended(process)
        if process.exitcode != 0:
            row.lose(f"exit {process.exitcode}: {said.read_text()[-300:]}")
        trial.to_the_end(row, twin)
    return row


def _stop(process: Any, trial: Trial) -> None:
    """Stop a run, but not within a transaction, whose lock would keep every reader out."""
    while process.exitcode is None:
        os.kill(process.pid, signal.SIGSTOP)
        try:
            with closing(sqlite3.connect(trial.folder / "mlflow.db", timeout=0.1)) as database:
                database.execute("BEGIN IMMEDIATE")
                database.rollback()
        except sqlite3.OperationalError:
            os.kill(process.pid, signal.SIGCONT)
            process.join(random.uniform(0, 0.05))
        else:
            return


def variables(bench: Bench, times: int) -> Row:
    """Begin runs with variables that are about something else: each is a run of its own, and the
    run that they name stays as it is."""
    row = Row("foreign variables")
    other = bench.space / "other"
    subprocess.run(["git", "init", "-q", str(other)], check=True)
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    for number in bench.turns(row, times):
        model = list(bench.twins)[number % len(bench.twins)]
        twin = bench.twins[model]
        trial = Trial(bench.space / f"foreign-{number}", twin.store, model, bench.space)
        trial.compare()  # its store has moved
        (finished,) = trial.before
        before = _all_of(trial, finished)
        foreign = {
            "MLFLOW_RUN_ID": finished, "MLFLOW_EXPERIMENT_NAME": "another",
            "MLFLOW_EXPERIMENT_ID": "0", "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
            "MLFLOW_TRUNCATE_LONG_VALUES": "false", "GIT_DIR": str(other / ".git"),
            "GIT_WORK_TREE": str(other), "PYTHONHASHSEED": str(random.randrange(1000)),
            "http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9",
        }  # fmt: skip
        with environment(foreign):
            process, said = trial.start(context=ANEW)
        row.injected += 1
        until_ended(process)
        if process.exitcode != 0:
            row.lose(f"exit {process.exitcode}: {said.read_text()[-300:]}")
            continue
        trial.to_the_end(row, twin)
        if _all_of(trial, finished) != before:
            row.lose(f"the finished run {finished} has changed")
        for run_id in trial.ended():
            recorded = MlflowClient(trial.uri).get_run(run_id).data.tags.get("git_commit")
            if recorded != commit:
                row.lose(f"the commit is {commit}, and recorded as {recorded}")
    return row


def _all_of(trial: Trial, run_id: str) -> tuple[Any, pd.DataFrame, list[str]]:
    """All that the store holds of a run, but the addresses of its artifacts."""
    run = MlflowClient(trial.uri).get_run(run_id)
    return run.to_dictionary(), points(trial.uri, run_id).values.tolist()


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """While the block lasts, variables that are inherited by what is started."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
