"""A trial: one run that a fault is injected into, and the twin that it is compared with."""

import itertools
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nursery
import pandas as pd
import psutil
from mlflow import MlflowClient

from mnist_exp import tracking

EPOCHS = 3
AT_ONCE = 2
TRIES = 12
"""How often a fault is tried, beyond its time, that was not injected yet."""
PROMPT = 2.0
"""Seconds of processor time in which a run that is told to end has ended."""
TOO_MUCH = 120.0
"""Seconds of processor time after which a run is taken to go on for ever."""
TOO_LONG = 120.0
"""Seconds without any processor time after which a run is taken to hang."""
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["nursery"])
ANEW = multiprocessing.get_context("spawn")
"""Of these processes each imports everything itself, in the environment that there is then."""


@dataclass
class Row:
    """What a kind of fault came to: runs that could not be brought to their end, points that are
    missing or differ from the twin's, and points that are there twice."""

    fault: str
    injected: int = 0
    runs: int = 0
    runs_lost: int = 0
    points_lost: int = 0
    points_doubled: int = 0
    remarks: list[str] = field(default_factory=list)
    takes: str = ""
    """What is not here, and without which the fault cannot be injected."""

    def lose(self, remark: str) -> None:
        self.runs_lost += 1
        self.remarks.append(remark)

    @property
    def result(self) -> str:
        if self.runs_lost or self.points_lost or self.points_doubled:
            return "LOST"
        if self.takes:
            return "not tried"
        return "nothing lost" if self.injected else "NOT INJECTED"

    @property
    def failed(self) -> bool:
        """Whether something was lost, or nobody knows, since the fault was not injected."""
        return self.result in ("LOST", "NOT INJECTED")


def until_ended(process: Any) -> float:
    """Wait until a process has ended; returns the seconds of processor time that it and its
    children took meanwhile, which other work on the machine does not change. One that goes on for
    ever, or hangs, is killed."""
    begun = spent = _processor_time(process.pid)
    last = time.monotonic()
    while process.exitcode is None:
        if (now := _processor_time(process.pid)) > spent:
            spent, last = now, time.monotonic()
        if spent - begun > TOO_MUCH or time.monotonic() - last > TOO_LONG:
            process.kill()
        process.join(0.01)
    return spent - begun


def _processor_time(process_id: int) -> float:
    with suppress(psutil.NoSuchProcess):
        times = psutil.Process(process_id).cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


@dataclass(frozen=True)
class Twin:
    """An undisturbed run: its store, its points, and the seconds that it took.

    `took` is what its `run` and its `resume` took at the last time that they ended undisturbed.
    """

    store: Path
    points: pd.DataFrame
    seconds: float
    took: dict[str, float] = field(default_factory=dict)

    def wait(self, process: Any, command: str) -> bool:
        """Wait for a random moment of a command; False if that has ended before."""
        begun = time.monotonic()
        process.join(random.uniform(0, self.took.get(command, self.seconds)))
        if process.exitcode is not None:
            self.took[command] = time.monotonic() - begun
        return process.exitcode is None


class Trial:
    """One run in a store of its own: begun, disturbed, resumed."""

    def __init__(self, folder: Path, fresh: Path, model: int, logs: Path, served: str = "") -> None:
        self.folder, self.model, self.logs, self.served = folder, model, logs, served
        if not folder.exists():
            shutil.copytree(fresh, folder)
        self.before = set(self._with_status("FINISHED"))
        self.count = 0
        self.command = ""

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def start(self, *, anew: bool = False, context: Any = PROCESSES) -> tuple[Any, Path]:
        """Go on with the run where it has a checkpoint, and begin it where not."""
        begun = self.begun()
        arguments = ["resume", f"RUN={begun}"]
        if anew or not begun:
            arguments = ["run", f"MODEL={self.model}", f"EPOCHS={EPOCHS}", "DEVICE=cpu"]
        self.command = arguments[0]
        self.count += 1
        said = self.logs / f"{self.folder.name}-{self.count}.txt"
        process = self._process(arguments, said, context)
        while not said.exists() and process.exitcode is None:
            process.join(0.005)  # until then, a signal would meet the tests and not the program
        return process, said

    def compare(self) -> str:
        """Let the program read the store; returns what it says."""
        said = self.logs / f"{self.folder.name}-compared.txt"
        until_ended(self._process(["compare"], said))
        return said.read_text()

    def _process(self, arguments: list[str], said: Path, context: Any = PROCESSES) -> Any:
        place = self.served or self.uri
        process = context.Process(
            target=nursery.command, args=(arguments, place, self.folder, said)
        )
        process.start()
        return process

    def begun(self) -> str:
        """The id of the run, once it has a checkpoint."""
        folder = self.folder / "remote" if self.served else self.folder
        return next((file.stem for file in (folder / "checkpoints").glob("*.pt")), "")

    def ended(self) -> list[str]:
        """The run, in a list, if it is finished."""
        return [run_id for run_id in self._with_status("FINISHED") if run_id not in self.before]

    def under_way(self) -> list[str]:
        """The runs of which the store says that they are under way."""
        return self._with_status("RUNNING")

    def _with_status(self, status: str) -> list[str]:
        found = MlflowClient(self.uri).search_runs(["1"], f"attributes.status = '{status}'")
        return [run.info.run_id for run in found]

    def to_the_end(self, row: Row, twin: Twin) -> None:
        """Bring the run to its end, and compare it with its twin."""
        row.runs += 1
        if not self.ended():
            process, said = self.start()
            until_ended(process)
            if process.exitcode != 0:
                return row.lose(f"exit {process.exitcode}: {said.read_text()[-300:]}")
        if len(self.ended()) != 1:
            return row.lose(f"{len(self.ended())} finished runs of one")
        return self.judge(self.ended()[0], row, twin)

    def judge(self, run_id: str, row: Row, twin: Twin) -> None:
        """Compare a finished run with its twin."""
        found = points(self.uri, run_id)
        row.points_lost += len(twin.points) - len(twin.points.merge(found.drop_duplicates()))
        row.points_doubled += int(found.duplicated(["metric", "step"]).sum())
        networks = MlflowClient(self.uri).search_logged_models(["1"], f"source_run_id = '{run_id}'")
        if len(networks) != 1:
            row.lose(f"run {run_id} has {len(networks)} networks")


def points(uri: str, run_id: str) -> pd.DataFrame:
    """Every point of every metric of a run, as the store has it, but of its seconds and of what it
    takes of the machine."""
    client = MlflowClient(uri)
    rows = [
        (key, point.step, point.value)
        for key in client.get_run(run_id).data.metrics
        for point in client.get_metric_history(run_id, key)
        if key != "epoch_seconds" and not key.startswith("system/")
    ]
    return pd.DataFrame(rows, columns=["metric", "step", "value"])


def undisturbed(space: Path, fresh: Path, model: int) -> Twin:
    """Train a twin, twice: the first of all starts slower."""
    for attempt in (1, 2):
        trial = Trial(space / f"twin-{model}-{attempt}", fresh, model, space)
        begun = time.monotonic()
        process, said = trial.start()
        until_ended(process)
        seconds = time.monotonic() - begun
        assert process.exitcode == 0, said.read_text()
        (run_id,) = trial.ended()
    twin = Twin(trial.folder, points(trial.uri, run_id), seconds)
    assert len(twin.points.query("step > 0")) == 6 * EPOCHS
    return twin


@dataclass
class Bench:
    """Where trials are made: a folder for their stores, an empty store, and the twins. After `end`
    (a monotonic time) the turn of a kind of fault is over, once it was injected at all."""

    space: Path
    fresh: Path
    twins: dict[int, Twin]
    end: float = 0.0

    def trial(self, name: str, number: int) -> tuple[Trial, Twin]:
        """The trial of that number: of one model after the other, in an empty store."""
        model = list(self.twins)[number % len(self.twins)]
        folder = self.space / f"{name}-{number}"
        return Trial(folder, self.fresh, model, self.space), self.twins[model]

    def turns(self, row: Row, times: int) -> Iterator[int]:
        """Count, until the fault was injected so many times, or at least once and its time is up:
        a run may have ended before its turn."""
        for number in itertools.count():
            if self.enough(row, times) or (self._late() and number >= TRIES):
                return
            yield number

    def enough(self, row: Row, times: int) -> bool:
        """Whether a fault was injected as often as it is to be, or as the time allows."""
        return row.injected >= times or (row.injected > 0 and self._late())

    def _late(self) -> bool:
        return time.monotonic() > self.end


@contextmanager
def bench(models: tuple[int, ...]) -> Iterator[Bench]:
    """A bench for faults that are injected into runs of `models`."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        space = Path(folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{space}/fresh/mlflow.db"
        tracking.open_store()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            trained = pool.map(lambda model: undisturbed(space, space / "fresh", model), models)
            twins = dict(zip(models, trained, strict=True))
        yield Bench(space, space / "fresh", twins)
