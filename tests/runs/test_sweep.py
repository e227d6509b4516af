"""Sweeps on real clusters: real processes, which are really killed."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from handmade import record_run
from mlflow import MlflowClient
from short_runs import carry_out, sharing, short
from waiting import when
from written import NUMBER, network, written

from mnist_exp import ROOT, tracking
from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import entries, loading
from mnist_exp.recipe import Target
from mnist_exp.runs import environment, job, run, sweep, worker
from mnist_exp.runs import plan as plans
from mnist_exp.runs.job import Job, Order
from mnist_exp.runs.sweep import Sweep
from mnist_exp.runs.worker import JobResult, Report
from mnist_exp.showing import tables

pytestmark = pytest.mark.usefixtures("store", "quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings see a few digits only and end within seconds; more epochs for one to be killed."""
    monkeypatch.setattr(sweep, "JOB", "quick_job")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "support"))


def settle(models: list[int], seeds: list[int], *, epochs: int = 1, split: str = "test") -> Sweep:
    return sweep.settle_sweep(models, seeds, epochs=epochs, split=split)


def train_missing(
    wanted: Sweep, *, on_start: Callable[[int], None] = lambda _: None, workers: int = 2,
    on_report: Callable[[Report], None] = lambda _: None,
) -> list[JobResult]:  # fmt: skip
    return sweep.train_missing(
        wanted,
        workers=workers,
        threads=1,
        scheduler="",
        on_start=on_start,
        on_result=lambda _: None,
        on_report=on_report,
    )


def trainings() -> list[psutil.Process]:
    """The processes that train now."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "quick_job" in " ".join(child.cmdline()):
                found.append(child)
    return found


def finished() -> list[tuple[int, int]]:
    runs = tracking.runs()
    own = runs[runs["status"] == "FINISHED"]
    return sorted(zip(own["model"].astype(int), own["seed"].astype(int), strict=True))


@pytest.mark.slow
def test_a_sweep_trains_what_is_missing_and_gathers_all_below_one_run() -> None:
    first = settle([2, 3], [1])
    assert (len(first.held), len(first.missing)) == (0, 2)
    reports: list[Report] = []
    results = train_missing(first, on_report=reports.append)
    assert {report.job for report in reports} == {*first.missing}
    assert {report.worker.partition("://")[0] for report in reports} == {"tcp"}
    standings = [report.standing for report in reports]
    assert None in standings  # as long as a training only begins
    assert {standing.place for standing in standings if standing} == {"1/1"}
    assert [result.failure for result in results] == ["", ""]
    assert finished() == [(2, 1), (3, 1)]
    again = settle([2, 3], [1])
    assert again.missing == ()

    larger = settle([2, 3], [1, 2])
    assert [(job.model, job.seed) for job in larger.missing] == [(2, 2), (3, 2)]
    train_missing(larger)
    assert finished() == [(2, 1), (2, 2), (3, 1), (3, 2)]
    runs = tracking.runs()
    (parent,) = set(runs["parent"])  # that of the larger one
    kept = MlflowClient().get_run(parent)
    assert kept.info.run_name == "sweep of models 2 3, seeds 1-2, test split, 1 epoch"
    assert kept.info.status == "FINISHED"
    assert kept.data.metrics["model-3/seeds"] == 2
    assert kept.data.metrics["model-3/passing_seeds"] == 0
    assert kept.data.tags["model-2.verdict"] == "too few epochs, 0 of 2 seeds (0 to 84 %)"
    assert "| 3 | too few epochs |" in kept.data.tags["mlflow.note.content"]
    assert set(runs["threads"]) == {1}


@pytest.mark.usefixtures("few_digits")
def test_a_grid_is_trained_where_the_store_lacks_it() -> None:
    def asked(grid: str) -> Sweep:
        return sweep.settle_sweep([2], [1], epochs=1, split="validation", grid=grid)

    first = asked("optimizer.lr=0.3 optimizer.weight_decay=0.001")
    with tracking.continue_run(first.name) as sweeps:
        (order,) = sweep._orders(first, sweeps.run_id)
        sent = json.loads(json.dumps(dataclasses.asdict(order)))["job"]
        job._train(dataclasses.replace(order, job=Job(**sent)), pipe := io.StringIO())
        result = JobResult(order.job, pipe.getvalue().split()[0], 1)
        sweep.summarise(sweeps, first, [result])
    (kept,) = tracking.runs().to_dict("records")
    assert kept["overrides"] == "epochs=1 optimizer.lr=0.3 optimizer.weight_decay=0.001"
    assert (kept["learning_rate"], kept["optimizer.weight_decay"]) == (0.3, 0.001)
    parent = MlflowClient().get_run(kept["parent"])
    assert parent.info.run_name == (
        "sweep of models 2, seeds 1, validation split, fold 1, 1 epoch, optimizer.lr=0.3 "
        "optimizer.weight_decay=0.001"
    )
    assert "| optimizer.lr=0.3 optimizer" in parent.data.tags["mlflow.note.content"]
    assert "model-2/seeds" not in parent.data.metrics  # of points that may differ

    larger = asked("optimizer.weight_decay=0,1e-3 optimizer.lr=0.3,0.01 batch_size=128")
    assert {job.overrides for job in larger.missing} == {
        "optimizer.lr=0.3", "optimizer.weight_decay=0.001", "",
    }  # fmt: skip
    assert list(larger.held.values()) == [kept["run_id"]]


def test_a_grid_is_compared_with_the_file_by_seed() -> None:
    hashes = {f"sha256.{name}": value for name, value in sweep.data.SHA256.items()}
    errors = {"none": (100, 110, 120), "optimizer.lr=0.3": (80, 95, 90)}
    for overrides, wrong in errors.items():
        for seed in (1, 2, 3):
            record_run(
                2, [900, wrong[seed - 1]], seed=seed, split="validation", epochs=15,
                tags=hashes | {"overrides": overrides},
            )  # fmt: skip
    grid = "optimizer.lr=0.01,0.3"
    asked = sweep.settle_sweep([2], [1, 2, 3], split="validation", grid=grid)
    assert asked.missing == ()
    best, own = asked.tried([])[2]
    assert (best.settings, own.settings) == ("optimizer.lr=0.3", "optimizer.lr=0.01")
    assert (own.final_accuracy, own.against_file) == (pytest.approx(0.989), None)
    assert best.final_accuracy == pytest.approx(1 - (80 + 95 + 90) / 30_000)
    assert best.seeds == (1, 2, 3)
    assert best.against_file.mean == pytest.approx((20 + 15 + 30) / 30_000)
    assert tables.shown_tried([best, own], "validation").to_dict("list") == {
        "final validation": ["99.12 ± 0.08 %", "98.90 ± 0.10 %"],
        "seeds": ["1-3", "1-3"],
        "against the file, points": ["+0.22 (+0.15 to +0.30)", "the file's own"],
        "settings": ["optimizer.lr=0.3", "optimizer.lr=0.01"],
    }


@pytest.mark.parametrize(
    ("grid", "split", "said"),
    [
        ("optimizer.lr=0.1,0.2", "test", "the test set is not there to choose by: add SPLIT=val"),
        ("optimizer.lr=0.1,'x'", "validation", "optimizer.lr='x': a number is needed"),
        ("epochs=1,2", "validation", "epochs is given twice, by EPOCHS= and by SET="),
        ("batch_size=" + ",".join(map(str, range(1, 2000))), "validation", "at most 1,000 points"),
        ("schedule.gamma=0.1", "validation", "the recipe has no schedule"),
        ("optimizer.lr=-1,0.1", "validation", "Invalid learning rate: -1"),
    ],
)
def test_a_grid_that_is_refused(grid: str, split: str, said: str) -> None:
    with pytest.raises(ExpectedError, match=said):
        sweep.settle_sweep([2], [1], epochs=1, split=split, grid=grid)
    assert tracking.runs().empty


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schedule": "partial(ReduceLROnPlateau, patience=1)"}, "would so choose on the test set"),
        ({"teacher": "6", "loss": "lambda output, labels, taught: F.mse_loss(output, taught)"},
         "teacher=6: the store has no network of model 6"),
    ],
)  # fmt: skip
def test_what_each_training_would_refuse_is_refused_before_them(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, object], said: str
) -> None:
    entry, read = written(**fields), entries.read_entry
    monkeypatch.setattr(
        entries, "read_entry", lambda number: entry if number == NUMBER else read(number)
    )
    with pytest.raises(ExpectedError, match=said):
        settle([NUMBER], [1])


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_all_seeds_learn_from_one_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    taught = "lambda output, labels, taught: F.mse_loss(output, taught)"
    entry, read = written(teacher="6", loss=taught), entries.read_entry
    monkeypatch.setattr(
        entries, "read_entry", lambda number: entry if number == NUMBER else read(number)
    )
    teacher = carry_out(short()).run_id
    orders = sweep._orders(settle([NUMBER], [1, 2]), "")
    assert [order.teacher for order in orders] == [teacher, teacher]
    carry_out(short())  # another seed of it, trained meanwhile
    job._train(orders[1], io.StringIO())
    assert tracking.runs()["teacher_run"].dropna().tolist() == [teacher]


def test_the_jobs_of_a_grid_have_names_of_their_own() -> None:
    values = ",".join(f"0.{n}" for n in range(1, 60))
    grid = sweep.settle_sweep([2], [1], split="validation", grid=f"optimizer.lr={values}")
    assert len({job.key for job in grid.points}) == len(grid.points)
    assert len(grid.name) < 250  # what a database has room for
    one = sweep.settle_sweep([2], [1], grid="optimizer.lr=0.5")  # on the test split
    assert [point.overrides for point in one.points.values()] == ["optimizer.lr=0.5"]


@pytest.mark.slow
def test_a_worker_trains_what_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = sharing("RATE = 0.02\n")
    loud = "import os\n\nprint('loud', flush=True)\nos.system('echo louder')\n"
    sent = entries.parse(f"{sent.source}\n{loud}", 2, helpers=sent.helpers)
    monkeypatch.setattr(loading, "load_target", lambda: Target(
        test_accuracy=0.01, last_epochs=1, max_epochs=15, parameters_below=8_000
    ))  # fmt: skip
    asked = settle([2], [1])
    (missing,) = asked.missing
    missing = dataclasses.replace(missing, code_sha256=sent.code_sha256)
    changed = dataclasses.replace(asked, missing=(missing,), entries={2: sent})
    (result,) = train_missing(changed, workers=1)
    assert result.failure == ""
    (kept,) = tracking.runs().query("model == 2").to_dict("records")
    assert result.run_id == kept["run_id"]
    assert (kept["code_sha256"], kept["learning_rate"]) == (sent.code_sha256, 0.02)
    assert kept["verdict"] == "target met"  # that of this process
    assert tracking.source(kept["run_id"], 2) == (sent.source, {"rates.py": "RATE = 0.02\n"})


def test_a_worker_of_another_package_trains_nothing() -> None:
    asked = settle([2], [1])
    (order,) = sweep._orders(asked, "")
    for other in (
        dataclasses.replace(order, helpers={"rates.py": ""}),
        dataclasses.replace(order, source=order.source.replace("0.01", "0.02")),
        dataclasses.replace(order, training_sha256="0" * 64),
    ):
        with pytest.raises(ExpectedError, match="the package of this worker differs"):
            job._train(other, io.StringIO())
    assert tracking.runs().empty


@pytest.mark.usefixtures("few_digits")
def test_a_run_that_would_not_go_on_exactly_is_begun_anew() -> None:
    step = "n = STEPS['n'] = STEPS['n'] + 1\n"
    step += "return super().forward(x * (1 if n < 500 else 2) if self.training else x)"
    entry = written("STEPS = {'n': 0}\n\n\n" + network(forward=step))
    plan = plans.settle(NUMBER, entry=entry)
    assert plan.findings.not_exact

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.carry_out(plan, on_batch=lambda _: None, on_epoch=stop)
    wanted = Job(NUMBER, plan.seed, "test", None, entry.code_sha256)
    package = environment.training_sha256()
    job._train(Order(wanted, "", entry.source, {}, plan.target, package), io.StringIO())
    runs = tracking.runs()
    assert runs["status"].tolist() == ["KILLED", "FINISHED"]
    assert runs["resumed"].isna().all()


def test_what_counts_as_held(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {f"sha256.{name}": value for name, value in sweep.data.SHA256.items()}
    record_run(2, errors=[900], tags={"overrides": "epochs=1"} | hashes, epochs=1)
    assert settle([2], [1]).missing == ()
    assert len(sweep.settle_sweep([2], [1], epochs=2).missing) == 1
    assert len(sweep.settle_sweep([2], [1]).missing) == 1
    inexact = {"resumes": "it cannot", "resumed": "after epoch 3"}  # which counts nowhere
    record_run(3, tags=hashes | inexact, epochs=15)
    assert len(sweep.settle_sweep([3], [1]).missing) == 1
    record_run(3, tags=hashes, epochs=15)
    assert sweep.settle_sweep([3], [1]).missing == ()
    assert sweep.settle_sweep([3], [1], epochs=15).missing == ()  # the recipe's own
    assert len(settle([3], [1]).missing) == 1
    assert len(settle([2], [1], split="validation").missing) == 1
    monkeypatch.setitem(sweep.data.SHA256, "t10k-images-idx3-ubyte", "other digits")
    assert len(settle([2], [1]).missing) == 1


HASHES = {f"sha256.{name}": value for name, value in sweep.data.SHA256.items()}


@pytest.mark.slow
def test_a_sweep_that_stops_trains_no_further_seeds_of_what_is_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It has 7,272 parameters, and model 3 has more.
    target = Target(test_accuracy=0.01, last_epochs=1, max_epochs=15, parameters_below=7_300)
    monkeypatch.setattr(loading, "load_target", lambda: target)
    held = {"errors": [900], "tags": HASHES | {"overrides": "epochs=1"}, "epochs": 1}
    for seed in range(1, 7):
        record_run(3, seed=seed, parameters=7_448, **held)
    for seed in range(1, 5):
        record_run(2, seed=seed, parameters=7_272, **held)

    def asked() -> Sweep:
        return sweep.settle_sweep([2, 3], range(1, 13), epochs=1, stop_at=0.5)

    first = asked()
    assert len(first.missing) == 8 + 6
    results = train_missing(first, workers=1)
    # Five that pass are enough at one half, and seven that fail.
    assert [(result.job.model, result.job.seed) for result in results] == [(2, 5), (3, 7)]
    assert [result.verdict for result in results] == ["target met", "target not met"]
    assert set(tracking.runs()["status"]) == {"FINISHED"}
    again = asked()
    assert (again.missing, again.settled(2), again.settled(3)) == ((), True, True)
    assert len(sweep.settle_sweep([2, 3], range(1, 13), epochs=1).missing) == 7 + 5


@pytest.mark.slow
def test_what_is_under_way_when_it_is_settled_is_trained_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = Target(test_accuracy=0.01, last_epochs=1, max_epochs=15, parameters_below=8_000)
    monkeypatch.setattr(loading, "load_target", lambda: target)
    asked = sweep.settle_sweep([2], range(1, 9), epochs=1, stop_at=0.2)
    results = train_missing(asked, workers=2)
    assert 2 <= len(results) <= 3  # of which two settle it
    assert {result.failure for result in results} == {""}
    assert asked.stopping is not None
    assert asked.stopping.passed == {2: len(results)}
    assert finished() == sorted((2, result.job.seed) for result in results)
    assert not trainings()


def test_a_sweep_says_what_the_rate_is_and_what_was_not_trained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for seed in range(1001, 1005):
        record_run(6, seed=seed, tags=HASHES, epochs=15)
    asked = ["sweep", "MODELS=6", "RATE=0.5"]
    assert main([*asked, "SEEDS=1001-1004"]) == 0
    said = capsys.readouterr().out
    assert "learning rate: go on, 4 of 4\n" in said
    go_on = '1 further seed would settle it, if all passed: make sweep MODELS=6 SEEDS="1001-1005" '
    assert f"{go_on}RATE=0.5 STOP=1" in said
    record_run(6, seed=1005, tags=HASHES, epochs=15)
    assert main([*asked, "SEEDS=1001-1030", "STOP=1"]) == 0
    said = capsys.readouterr().out
    assert "30 runs, 5 in the store\nNothing is left to settle, so nothing was trained." in said
    assert "passed, 5 of 5; 25 seeds of 30 not trained\n  at least 50.00 % of seeds pass" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["STOP=1"], "STOP=1 stops by the rate at which seeds pass, as in RATE=0.9 STOP=1"),
        (["RATE=0.9", "EPOCHS=2"], "RATE= is about what counts, whole recipes on the test split"),
        (["RATE=0.9", "SET=batch_size=32"], "without EPOCHS=, SET= and SPLIT=validation"),
        (["RATE=0.9", "STOP=1", "SPLIT=validation"], "without EPOCHS=, SET= and SPLIT=validation"),
        (["RATE=90"], "RATE=90: a number between 0 and 1 is needed"),
    ],
)
def test_what_a_rate_does_not_go_with(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "MODELS=6", "SEEDS=2", *words]) == 2
    assert said in capsys.readouterr().err
    assert tracking.runs().empty


@pytest.mark.parametrize(("is_stopped", "status"), [(True, "KILLED"), (False, "FAILED")])
def test_a_process_that_was_killed_ends_its_run_by_who_killed_it(
    is_stopped: bool, status: str
) -> None:
    client, experiment = tracking.open_store()
    run_id = client.create_run(experiment).info.run_id
    wanted = Job(2, 1, "test", None, "")
    result = worker._result(wanted, 1.0, -9, [run_id], [], is_stopped)
    assert "signal 9" in result.failure
    assert client.get_run(run_id).info.status == status


@pytest.mark.slow
def test_a_training_that_is_killed_ends_one_run_and_not_the_sweep() -> None:
    killed = []

    def kill() -> None:
        # One that has recorded its seed, by which it is known below.
        begun = "status == 'RUNNING' and seed.notna()"
        victim = when(lambda: tracking.runs().query(begun)["run_id"].tolist())[0]
        killed.append(victim)
        os.kill(json.loads(MlflowClient().get_run(victim).data.tags["process"])["id"], 9)

    killer = threading.Thread(target=kill)
    results = train_missing(settle([2], [1, 2], epochs=10), on_start=lambda _: killer.start())
    killer.join()
    (failed,) = [result for result in results if result.failure]
    assert failed.failure == "its process was ended by signal 9"
    # Its worker ends the run, or the next command does: a worker may not know the run yet.
    command = [sys.executable, "-c", "from mnist_exp import tracking; tracking.open_store()"]
    subprocess.run(command, check=True)
    runs = tracking.runs().set_index("run_id")
    assert sorted(runs["seed"]) == [1, 2]
    assert runs.loc[killed, "status"].item() in ("FAILED", "KILLED")
    assert runs.drop(killed)["status"].tolist() == ["FINISHED"]
    again = settle([2], [1, 2], epochs=10)
    assert again.missing == (failed.job,)
    train_missing(again)
    assert finished() == [(2, 1), (2, 2)]


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_its_run_and_nothing_else() -> None:
    def kill() -> None:
        when(lambda: tracking.runs().query("status == 'RUNNING'")["run_id"].tolist())
        psutil.Process(when(trainings)[0].pid).parent().kill()

    killer = threading.Thread(target=kill)
    results = train_missing(settle([2], [1, 2, 3], epochs=10), on_start=lambda _: killer.start())
    killer.join()
    assert [result.failure for result in results] == ["", "", ""]
    assert finished() == [(2, 1), (2, 2), (2, 3)]  # each once
    assert set(tracking.runs()["status"]) <= {"FINISHED", "KILLED"}  # none runs for ever
    assert not trainings()


def interrupted(seconds: float, sign: int) -> subprocess.CompletedProcess[str]:
    """The command, which gets a signal some time after its first run has begun. An epoch is over in
    a fraction of a second: there are enough of them that no run ends before the signal comes."""
    code = "import sys; from mnist_exp.runs import sweep; from mnist_exp.commands import cli; "
    code += "sweep.JOB = 'quick_job'; "
    code += "sys.exit(cli.main(['sweep', 'MODELS=2', 'SEEDS=2', 'EPOCHS=2000', 'WORKERS=2']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    when(lambda: tracking.runs().query("status == 'RUNNING'")["run_id"].tolist())
    time.sleep(seconds)
    os.killpg(process.pid, sign)
    out, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


@pytest.mark.slow
def test_ctrl_c_ends_the_runs_as_killed(store: Path) -> None:
    done = interrupted(0.5, signal.SIGINT)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert set(tracking.runs()["status"]) == {"KILLED"}
    assert finished() == []
    assert store.is_dir()


@pytest.mark.slow
def test_a_client_that_is_killed_takes_its_trainings_with_it() -> None:
    interrupted(0.5, signal.SIGKILL)
    when(lambda: [1] if set(tracking.runs()["status"]) == {"KILLED"} else [], 30)
    train_missing(settle([2], [1, 2]))
    assert finished() == [(2, 1), (2, 2)]


def test_a_cluster_needs_a_tracking_server() -> None:
    with pytest.raises(ExpectedError, match="cannot reach a local SQLite file"):
        sweep.train_missing(
            settle([2], [1]), workers=None, threads=1, scheduler="tcp://127.0.0.1:1",
            on_start=lambda _: None, on_result=lambda _: None,
        )  # fmt: skip
