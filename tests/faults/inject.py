"""Faults, really injected, and what they cost: `make test-faults` prints the table.

Each run is a real training that is disturbed at random moments, brought to its end, and compared
with its twin, which nothing disturbed: every point of every metric, to the last bit, and once.
"""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nursery
import pandas as pd
from mlflow import MlflowClient
from servers import free_port, wait_until_healthy

from mnist_exp import tracking

EPOCHS = 3
AT_ONCE = 2
PATIENCE = 120
PROMPT = 2.0
"""Seconds in which a run that is told to end has ended."""
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["nursery"])


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

    @property
    def result(self) -> str:
        lost = self.runs_lost or self.points_lost or self.points_doubled
        return "LOST" if lost else "nothing lost" if self.injected else "not injected"


@dataclass(frozen=True)
class Twin:
    """An undisturbed run: its points, and the seconds that it took.

    `took` is what its `run` and its `resume` took at the last time that they ended undisturbed.
    """

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
        self.before = set(self._finished())
        self.count = 0
        self.command = ""

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def start(self, *, anew: bool = False) -> tuple[Any, Path]:
        """Go on with the run where it has a checkpoint, and begin it where not."""
        begun = self.begun()
        arguments = ["resume", f"RUN={begun}"]
        if anew or not begun:
            arguments = ["run", f"MODEL={self.model}", f"EPOCHS={EPOCHS}", "DEVICE=cpu"]
        self.command = arguments[0]
        self.count += 1
        said = self.logs / f"{self.folder.name}-{self.count}.txt"
        process = self._process(arguments, said)
        while not said.exists():  # until then, a signal would meet the tests and not the program
            process.join(0.005)
        return process, said

    def compare(self) -> None:
        """Let the program read the store."""
        self._process(["compare"], self.logs / "compared.txt").join(PATIENCE)

    def _process(self, arguments: list[str], said: Path) -> Any:
        place = self.served or self.uri
        process = PROCESSES.Process(
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
        return [run_id for run_id in self._finished() if run_id not in self.before]

    def _finished(self) -> list[str]:
        found = MlflowClient(self.uri).search_runs(["1"], "attributes.status = 'FINISHED'")
        return [run.info.run_id for run in found]

    def to_the_end(self, row: Row, twin: Twin) -> None:
        """Bring the run to its end, and compare it with its twin."""
        row.runs += 1
        if not self.ended():
            process, said = self.start()
            process.join(PATIENCE)
            if process.exitcode != 0:
                process.kill()
                row.runs_lost += 1
                row.remarks.append(f"exit {process.exitcode}: {said.read_text()[-300:]}")
                return
        if len(self.ended()) != 1:
            row.runs_lost += 1
            row.remarks.append(f"{len(self.ended())} finished runs of one")
            return
        (run_id,) = self.ended()
        found = points(self.uri, run_id)
        row.points_lost += len(twin.points) - len(twin.points.merge(found.drop_duplicates()))
        row.points_doubled += int(found.duplicated(["metric", "step"]).sum())
        networks = MlflowClient(self.uri).search_logged_models(["1"], f"source_run_id = '{run_id}'")
        if len(networks) != 1:
            row.runs_lost += 1
            row.remarks.append(f"run {run_id} has {len(networks)} networks")


def points(uri: str, run_id: str) -> pd.DataFrame:
    """Every point of every metric of a run but its seconds, as the store has it."""
    client = MlflowClient(uri)
    rows = [
        (key, point.step, point.value)
        for key in client.get_run(run_id).data.metrics
        for point in client.get_metric_history(run_id, key)
        if key != "epoch_seconds"
    ]
    return pd.DataFrame(rows, columns=["metric", "step", "value"])


def undisturbed(space: Path, fresh: Path, model: int) -> Twin:
    """Train a twin, twice: the first of all starts slower."""
    for attempt in (1, 2):
        trial = Trial(space / f"twin-{model}-{attempt}", fresh, model, space)
        begun = time.monotonic()
        process, said = trial.start()
        process.join(PATIENCE)
        seconds = time.monotonic() - begun
        assert process.exitcode == 0, said.read_text()
        (run_id,) = trial.ended()
    twin = Twin(points(trial.uri, run_id), seconds)
    assert len(twin.points.query("step > 0")) == 6 * EPOCHS
    return twin


@dataclass(frozen=True)
class Bench:
    """Where trials are made: a folder for their stores, an empty store, and the twins. After `end`
    (a monotonic time) nothing more is injected."""

    space: Path
    fresh: Path
    twins: dict[int, Twin]
    end: float

    def trial(self, name: str, number: int) -> tuple[Trial, Twin]:
        model = list(self.twins)[number % len(self.twins)]
        folder = self.space / f"{name}-{number}"
        return Trial(folder, self.fresh, model, self.space), self.twins[model]

    def turns(self, row: Row, times: int) -> Iterator[int]:
        """Count, until the fault was injected so many times or time is up: a run may have ended
        before its turn."""
        numbers = itertools.count()
        while row.injected < times and time.monotonic() < self.end:
            yield next(numbers)


@contextmanager
def bench(models: tuple[int, ...], seconds: float) -> Iterator[Bench]:
    """A bench for faults that are injected into runs of `models` in the next `seconds`."""
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        space = Path(folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{space}/fresh/mlflow.db"
        tracking.open_store()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            trained = pool.map(lambda model: undisturbed(space, space / "fresh", model), models)
            twins = dict(zip(models, trained, strict=True))
        yield Bench(space, space / "fresh", twins, end)


def signals(bench: Bench, sign: signal.Signals, times: int, each: int) -> Row:
    """Signal runs at random moments, each up to `each` times, until it was done `times` times."""
    row = Row(sign.name)
    slowest = [0.0]

    def disturb(lane: int, number: int) -> None:
        trial, twin = bench.trial(f"{sign.name}-{lane}", number)
        for _ in range(each):
            process, said = trial.start()
            if not twin.wait(process, trial.command):
                break
            begun = time.monotonic()
            os.kill(process.pid, sign)
            process.join(PATIENCE)
            slowest[0] = max(slowest[0], time.monotonic() - begun)
            row.injected += 1
            if sign != signal.SIGKILL and process.exitcode != 0:
                _check_ending(trial, said.read_text(), process.exitcode, row)
            if trial.ended() or row.injected >= times:
                break
        trial.to_the_end(row, twin)

    def take_turns(lane: int) -> None:
        for number in bench.turns(row, times):
            disturb(lane, number)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(take_turns, range(AT_ONCE)))
    if sign != signal.SIGKILL:
        row.remarks.append(f"slowest end {slowest[0]:.1f} s")
        row.runs_lost += slowest[0] > 2 * PROMPT  # twice: two at once on two cores
    return row


def _check_ending(trial: Trial, said: str, code: int, row: Row) -> None:
    """Of a run that was told to end: it says so, is KILLED, and the store has what it printed."""
    begun = trial.begun()
    if not begun:  # before its first checkpoint
        return
    kept = MlflowClient(trial.uri).get_run(begun)
    printed = said.count("\nepoch ")
    recorded = points(trial.uri, begun).query("metric == 'test/errors'")["step"].max()
    fine = code == 130 and kept.info.status == "KILLED"
    fine &= "make resume RUN=" in said or not printed
    if not fine or (printed and not recorded >= printed):
        row.runs_lost += 1
        row.remarks.append(f"{code} {kept.info.status} {printed} {recorded}: {said[-200:]}")


class Proxy:
    """Passes connections on to a port of this machine, until it is cut."""

    def __init__(self, target: int) -> None:
        self.target, self.open = target, True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            if not self.open:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.target))
            self.connections += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                sink.sendall(content)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Close every connection, in the middle of whatever it carries, and take no new one."""
        self.open = False
        for end in self.connections:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.connections.clear()


def outages(bench: Bench, times: int) -> Row:
    """Cut a tracking server off at random moments, for up to the length of a run."""
    row = Row("tracking server cut off")
    shutil.copytree(bench.fresh, bench.space / "served")
    port = free_port()
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{bench.space}/served/mlflow.db",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", f"--port={port}", "--workers=1"]
    with (bench.space / "server.txt").open("w") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}")
        proxy = Proxy(port)
        for number in bench.turns(row, times):
            trial = Trial(
                bench.space / "served", bench.fresh, list(bench.twins)[number % len(bench.twins)],
                bench.space, f"http://127.0.0.1:{proxy.port}",
            )  # fmt: skip
            twin = bench.twins[trial.model]
            process, said = trial.start()
            if number % 2:
                process.join(random.uniform(0, twin.seconds))
            else:  # in the middle of the training, and not for long
                while "\nepoch " not in said.read_text() and process.exitcode is None:
                    process.join(0.02)
            if process.exitcode is not None:
                continue
            proxy.cut()
            row.injected += 1
            process.join(random.uniform(0, twin.seconds if number % 2 else 0.5))
            proxy.open = True
            process.join(PATIENCE)
            row.remarks.append(str(process.exitcode))
            trial.to_the_end(row, twin)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    ends = [row.remarks.count("0"), row.remarks.count("2")]
    row.remarks = [x for x in row.remarks if x not in ("0", "2")]
    row.remarks.append(f"{ends[0]} went on to their end, {ends[1]} had to be resumed")
    return row


def full_disks(bench: Bench, times: int) -> Row:
    """Fill the file system of the store at random moments."""
    row = Row("disk full")
    disk = bench.space / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        row.remarks.append("not tried: to mount a small file system takes root")
        return row
    try:
        for number in bench.turns(row, times):
            trial, twin = bench.trial("disk/store", number)
            process, said = trial.start()
            if twin.wait(process, trial.command):
                with suppress(OSError), (disk / "filling").open("wb", buffering=0) as filling:
                    while True:
                        filling.write(bytes(4096))
                row.injected += 1
                process.join(PATIENCE)
                if process.exitcode not in (0, 2) or "Traceback" in said.read_text():
                    row.runs_lost += 1
                    row.remarks.append(f"exit {process.exitcode}: {said.read_text()[-300:]}")
                with closing(sqlite3.connect(trial.folder / "mlflow.db")) as database:
                    assert database.execute("PRAGMA quick_check").fetchone() == ("ok",)
                (disk / "filling").unlink()
            trial.to_the_end(row, twin)
            shutil.rmtree(trial.folder)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    return row


def moves(bench: Bench, times: int) -> Row:
    """Kill runs, move their stores, and go on there."""
    row = Row("store moved")
    for number in bench.turns(row, times):
        trial, twin = bench.trial("moved", number)
        process, _ = trial.start()
        twin.wait(process, trial.command)
        process.kill()
        process.join()
        new = trial.folder.with_name(f"{trial.folder.name} to another place")
        trial.folder = trial.folder.rename(new)
        row.injected += 1
        trial.to_the_end(row, twin)
        trial.compare()  # a run that had ended has met no command since the move
        (run_id,) = trial.ended() or [""]
        kept = MlflowClient(trial.uri).list_artifacts(run_id) if run_id else []
        row.runs_lost += "curves.png" not in str(kept) and "layers.txt" not in str(kept)
    return row


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
            process.join(PATIENCE)
        codes = sorted(process.exitcode for process, _ in both)
        refused = [said.read_text() for process, said in both if process.exitcode == 2]
        fair = "is being trained by another process", "is finished: there is nothing to resume"
        if codes != [0, 2] or not any(reason in refused[0] for reason in fair):
            row.runs_lost += 1
            row.remarks.append(f"{codes}: {refused}")
        trial.to_the_end(row, twin)
    return row


def table(rows: list[Row]) -> str:
    shown = pd.DataFrame(
        {
            "fault": row.fault, "injected": row.injected, "runs": row.runs,
            "runs lost": row.runs_lost, "points lost": row.points_lost,
            "points doubled": row.points_doubled, "result": row.result,
            "remarks": "; ".join(row.remarks),
        } for row in rows
    )  # fmt: skip
    return shown.to_string(index=False)


ALL: list[Callable[[Bench], Row]] = [
    partial(signals, sign=signal.SIGKILL, times=50, each=6),
    partial(signals, sign=signal.SIGINT, times=5, each=6),
    partial(signals, sign=signal.SIGTERM, times=5, each=6),
    partial(signals, sign=signal.SIGHUP, times=5, each=6),
    partial(moves, times=2),
    partial(double_resumes, times=2),
    partial(full_disks, times=3),
    partial(outages, times=3),
]
FEW: list[Callable[[Bench], Row]] = [
    partial(signals, sign=signal.SIGKILL, times=2, each=2),
    partial(signals, sign=signal.SIGTERM, times=1, each=1),
    partial(full_disks, times=1),
    partial(double_resumes, times=1),
]


def inject(
    faults: list[Callable[[Bench], Row]], models: tuple[int, ...], seconds: float,
    say: Callable[[str], None] = lambda _: None,
) -> list[Row]:  # fmt: skip
    """Inject each kind of fault into runs of the models, or fewer when `seconds` are over."""
    rows = []
    with bench(models, seconds) as place:
        for fault in faults:
            begun = time.monotonic()
            rows.append(fault(place))
            say(f"{rows[-1].fault}: {rows[-1].injected} in {time.monotonic() - begun:.0f} s")
    return rows


if __name__ == "__main__":
    seed = random.randrange(10**6)
    random.seed(seed)
    print(f"random seed {seed}")
    found = inject(ALL, (3, 6), 560, lambda text: print(text, flush=True))
    print(table(found))
    sys.exit(any(row.result == "LOST" for row in found))
