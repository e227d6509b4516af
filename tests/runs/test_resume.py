"""Runs that are interrupted, and go on: short real trainings, in a real store."""

import dataclasses
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from short_runs import sharing

from mnist_exp import ROOT, tracking
from mnist_exp.commands.cli import main
from mnist_exp.notebook import entries
from mnist_exp.runs import environment, resume, run
from mnist_exp.runs.plan import Plan, settle

pytestmark = pytest.mark.usefixtures("store", "few_digits")
EPOCHS = 3


def begin(number: int = 6, *, stop_after: int | None = None) -> str:
    """Carry out a run of three epochs, or interrupt it after some; returns its id."""
    ids: list[str] = []

    def stop(epoch: int) -> None:
        if epoch == stop_after:
            raise KeyboardInterrupt

    def start(run_id: str) -> None:
        ids.append(run_id)
        stop(0)

    def carry_out() -> None:
        run.carry_out(
            settle(number, epochs=EPOCHS), on_batch=lambda _: None, on_start=start,
            on_epoch=lambda result: stop(result.epoch),
        )  # fmt: skip

    if stop_after is None:
        carry_out()
    else:
        with pytest.raises(KeyboardInterrupt) as interrupt:
            carry_out()
        assert interrupt.value.__notes__ == [f"make resume RUN={ids[0]} goes on with it"]
    return ids[0]


def carry_on(plan: Plan) -> list[int]:
    """Bring a run to its end; returns the epochs that were trained for it."""
    epochs: list[int] = []
    run.carry_out(
        plan, on_batch=lambda _: None, on_epoch=lambda result: epochs.append(result.epoch)
    )
    return epochs


def numbers(run_id: str) -> pd.DataFrame:
    history = tracking.history([run_id])
    return history.drop(columns=["run_id", "time", "epoch_seconds"])


def status(run_id: str) -> str:
    return str(tracking.runs().set_index("run_id").loc[run_id, "status"])


def test_a_run_goes_on_where_it_was_interrupted(store: Path) -> None:
    whole = begin()
    for epochs in (1, 3):
        stopped = begin(stop_after=epochs)
        assert status(stopped) == "KILLED"
        assert len(numbers(stopped)) == epochs
        assert carry_on(resume.resume(stopped)) == list(range(epochs + 1, EPOCHS + 1))
        assert status(stopped) == "FINISHED"
        pd.testing.assert_frame_equal(numbers(stopped), numbers(whole), check_exact=True)
        kept = tracking.runs().set_index("run_id").loc[stopped]
        assert kept["resumed"] == f"after epoch {epochs}"
        assert kept["final_test_accuracy_percent"] > 0
        shown = tracking.table(stopped, "receptive_field")
        pd.testing.assert_frame_equal(shown, tracking.table(whole, "receptive_field"))
    assert list((store / "checkpoints").iterdir()) == []


def test_epochs_that_the_store_missed_are_written_from_the_checkpoint(store: Path) -> None:
    whole, stopped = begin(3), begin(3, stop_after=2)
    with sqlite3.connect(store / "mlflow.db") as database:
        of_epoch = "run_uuid = ? AND step = 1 AND key NOT LIKE 'system/%'"
        gone = database.execute(f"DELETE FROM metrics WHERE {of_epoch}", [stopped])
        assert gone.rowcount == 7
    assert numbers(stopped)["epoch"].tolist() == [2]
    carry_on(resume.resume(stopped))
    pd.testing.assert_frame_equal(numbers(stopped), numbers(whole), check_exact=True)


@pytest.mark.slow
def test_an_older_checkpoint_than_the_store_doubles_nothing(store: Path) -> None:
    whole, stopped = begin(3), begin(3, stop_after=1)
    file = store / "checkpoints" / f"{stopped}.pt"
    older = file.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run.carry_out(resume.resume(stopped), on_batch=lambda _: None, on_epoch=interrupt)
    file.write_bytes(older)  # as from a backup
    assert carry_on(resume.resume(stopped)) == [2, 3]
    pd.testing.assert_frame_equal(numbers(stopped), numbers(whole), check_exact=True)


def interrupt(_: object) -> None:
    raise KeyboardInterrupt


def test_a_run_that_has_ended_is_not_ended_otherwise() -> None:
    finished = begin(2)
    tracking.end_run(finished, "FAILED", "its process was ended by signal 9")
    assert status(finished) == "FINISHED"


def test_the_newest_unfinished_run_of_these_settings() -> None:
    plan = settle(3, epochs=EPOCHS)
    assert resume.unfinished(plan) is None
    begin(3)
    assert resume.unfinished(plan) is None
    older, newer = begin(3, stop_after=2), begin(3, stop_after=1)
    assert resume.unfinished(plan).run_id == newer
    assert resume.unfinished(settle(3, epochs=EPOCHS, seed=2)) is None
    assert resume.unfinished(settle(3)) is None
    assert main(["run", "MODEL=3", f"EPOCHS={EPOCHS}", "RESUME=1"]) == 0
    assert status(newer) == "FINISHED"
    assert resume.unfinished(plan).run_id == older


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.count("\n") == 1
    return errors


def test_what_cannot_be_resumed(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, stopped = begin(2), begin(2, stop_after=1)
    assert f"run {finished} is finished" in refused(["resume", f"RUN={finished}"], capsys)
    assert f"the store holds no run {'0' * 32}" in refused(["resume", f"RUN={'0' * 32}"], capsys)
    assert "RUN=../../x: the id of a run" in refused(["resume", "RUN=../../x"], capsys)
    assert "no unfinished run of model 4" in refused(["run", "MODEL=4", "RESUME=1"], capsys)

    read = entries.read_entry
    with monkeypatch.context() as patch:
        changed = dataclasses.replace(read(2), source=read(2).source + "\nLATER = 1\n")
        patch.setattr(entries, "read_entry", lambda _: changed)
        assert "experiments/model_2.py has changed since" in refused(
            ["resume", f"RUN={stopped}"], capsys
        )
    with monkeypatch.context() as patch:
        patch.setattr(environment, "version", lambda name: f"0.0.{len(name)}")
        assert "torch was 2." in refused(["resume", f"RUN={stopped}"], capsys)
    file = store / "checkpoints" / f"{stopped}.pt"
    file.write_bytes(file.read_bytes()[:-5])
    assert "is cut off or damaged" in refused(["resume", f"RUN={stopped}"], capsys)
    file.unlink()
    assert f"no checkpoint of run {stopped} here" in refused(["resume", f"RUN={stopped}"], capsys)
    assert status(stopped) == "KILLED"


def test_a_helper_decides_whether_a_run_can_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    was, now = sharing("RATE = 0.02"), sharing("RATE = 0.03")
    stopped: list[str] = []

    def stop(run_id: str) -> None:
        stopped.append(run_id)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.carry_out(
            settle(2, epochs=1, entry=was), on_batch=lambda _: None, on_epoch=lambda _: None,
            on_start=stop,
        )  # fmt: skip
    assert resume.unfinished(settle(2, epochs=1, entry=now)) is None
    commented = sharing("RATE = 0.02  # per step")
    assert resume.unfinished(settle(2, epochs=1, entry=commented)).run_id == stopped[0]
    monkeypatch.setattr(entries, "read_entry", lambda _: now)
    said = refused(["resume", f"RUN={stopped[0]}"], capsys)
    assert "experiments/rates.py has changed since" in said
    assert "model_2.py" not in said


def test_a_run_is_reproduced_from_the_helpers_that_it_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And what these draw when they are executed comes from the seed."""
    drawn = "import torch\nRATE = float(torch.rand(())) / 100\n"
    plan = settle(2, seed=3, epochs=1, entry=sharing(drawn))
    torch.manual_seed(3)
    assert plan.recipe.hyperparameters()["learning_rate"] == float(torch.rand(())) / 100
    run.carry_out(plan, on_batch=lambda _: None, on_epoch=lambda _: None)
    (kept,) = tracking.runs()["run_id"]
    assert main(["reproduce", f"RUN={kept}"]) == 0
    assert "Reproduced: identical, bit for bit, in 1 epoch." in capsys.readouterr().out
    MlflowClient().log_text(kept, "RATE = 0.03", "source/rates.py")
    assert f"the code of run {kept} is neither with it" in refused(
        ["reproduce", f"RUN={kept}"], capsys
    )


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_a_run_goes_on_with_as_many_threads_as_it_began_with() -> None:
    stopped = begin(2, stop_after=1)
    torch.set_num_threads(2)
    resume.resume(stopped)
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("threads")
def test_a_run_is_reproduced(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = begin()
    capsys.readouterr()
    assert main(["reproduce", f"RUN={whole}"]) == 0
    said = capsys.readouterr().out
    assert "Reproduced: identical, bit for bit, in 3 epochs." in said
    assert " was " not in said

    with sqlite3.connect(store / "mlflow.db") as database:
        database.execute(
            "UPDATE metrics SET value = value + 0.004 WHERE key = 'test/accuracy' AND step = 2"
        )
        database.execute("UPDATE params SET value = '1.0' WHERE key = 'torch'")
        database.execute("UPDATE params SET value = 'A 1' WHERE key = 'processor'")
    assert main(["reproduce", f"RUN={whole}"]) == 0
    said = capsys.readouterr().out
    assert f"torch was 1.0, and is {torch.__version__.partition('+')[0]} here" in said
    assert "processor was A 1, and is " in said
    assert "epoch  3" in said
    assert said.count("the same") == 2
    assert "Reproduced within 0.5 points" in said
    assert "differs by at most 0.40 points" in said

    with sqlite3.connect(store / "mlflow.db") as database:
        database.execute(
            "UPDATE metrics SET value = value + 0.002 WHERE key = 'test/accuracy' AND step = 2"
        )
    assert main(["reproduce", f"RUN={whole}"]) == 1
    assert "Not reproduced within 0.5 points" in capsys.readouterr().out
    assert len(tracking.runs()) == 1


@pytest.mark.slow
def test_what_an_imported_run_did_not_record_is_said(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported, other = begin(), begin()
    was = "0123456789abcdef" * 2
    with sqlite3.connect(store / "mlflow.db") as database:
        for table in ("params", "tags"):
            database.execute(
                f"DELETE FROM {table} WHERE key = 'training_sha256' AND run_uuid = ?", [imported]
            )
        database.execute("INSERT INTO tags VALUES ('imported_from', ?, ?)", [was, imported])
    capsys.readouterr()
    assert main(["reproduce", f"RUN={was}"]) == 0
    said = capsys.readouterr().out
    assert imported in said
    assert other not in said
    assert "training_sha256 was not recorded" in said


def test_what_cannot_be_reproduced(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "RUN=../x: the id of a run" in refused(["reproduce", "RUN=../x"], capsys)
    before = begin(2, stop_after=0)
    assert "has recorded no epoch" in refused(["reproduce", f"RUN={before}"], capsys)
    stopped = begin(2, stop_after=1)
    (source,) = store.glob(f"artifacts/{stopped}/artifacts/source/model_2.py")
    source.write_text(source.read_text().replace("lr=", "lr=10*"))
    assert f"the code of run {stopped} is neither" in refused(
        ["reproduce", f"RUN={stopped}"], capsys
    )


@pytest.mark.slow
def test_a_closed_terminal_ends_the_run_as_killed(store: Path) -> None:
    """A real terminal, and no more of it once the first epoch is done."""
    terminal, side = pty.openpty()
    code = "import sys, nursery; nursery.data.load = nursery.few; "
    code += "sys.exit(nursery.cli.main(['run', 'MODEL=6', 'EPOCHS=200']))"
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-c", code], cwd=ROOT, stdin=side, stdout=side,
        stderr=side, env=os.environ | {"PYTHONPATH": str(ROOT / "tests" / "support")},
    )  # fmt: skip
    os.close(side)
    said = b""
    while b"epoch  1" not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    assert process.wait(10) != 0
    assert tracking.runs()["status"].tolist() == ["KILLED"]
    assert len(tracking.history()) >= 1
    assert store.is_dir()
