"""Which engine trains a run, and what a run says and remembers of it."""

import dataclasses
import io
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from short_runs import carry_out
from written import NUMBER, written

from mnist_exp import tracking
from mnist_exp.commands import making
from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError
from mnist_exp.engine import library
from mnist_exp.runs import engines, job, reproduce, resume, run, sweep
from mnist_exp.runs.engines import TORCH, choose_engine
from mnist_exp.runs.plan import Plan, settle
from mnist_exp.tracking import names

CPU = torch.device("cpu")


def forget() -> None:
    for remembered in (library._once, engines._compiled, engines._warn):
        remembered.cache_clear()


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine has none, for all that this process knows."""
    forget()
    monkeypatch.setenv("CXX", "no-compiler")
    yield
    forget()


def planned(engine: str) -> Plan:
    return settle(NUMBER, epochs=1, entry=written(), engine=engine)


def change(store: Path, statement: str) -> None:
    with sqlite3.connect(store / "mlflow.db") as database:
        database.execute(statement)


def test_the_compiled_engine_is_taken_on_a_processor() -> None:
    chosen, device = choose_engine("auto", "auto")
    assert (chosen.name, chosen.sha256, device) == ("compiled", library.sha256(), CPU)
    assert choose_engine("compiled", "cpu") == (chosen, CPU)
    assert choose_engine("torch", "cpu") == (TORCH, CPU)
    assert chosen.words == f"compiled ({chosen.sha256[:7]})"


def test_elsewhere_torch_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_engine("auto", "auto") == (TORCH, torch.device("cuda"))
    assert choose_engine("compiled", "auto")[1] == CPU
    with pytest.raises(ExpectedError, match="ENGINE=compiled computes on a processor: DEVICE=cuda"):
        choose_engine("compiled", "cuda")


def test_another_word_is_refused() -> None:
    with pytest.raises(ExpectedError, match="ENGINE=fast: auto, compiled or torch is needed"):
        choose_engine("fast", "auto")


@pytest.mark.usefixtures("no_compiler")
def test_where_it_cannot_be_had_torch_trains_and_one_line_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(3):
        assert choose_engine("auto", "auto") == (TORCH, CPU)
    (line,) = caplog.messages
    assert line == (
        "the engine cannot be compiled: CXX=no-compiler does not work; unset CXX, or set "
        "ENGINE=torch; training goes on with torch, more slowly"
    )
    caplog.clear()
    assert choose_engine("torch", "auto") == (TORCH, CPU)
    assert caplog.messages == []


@pytest.mark.usefixtures("no_compiler", "store")
@pytest.mark.parametrize(
    "words",
    [
        ["run", "MODEL=3"],
        ["sweep", "MODELS=3", "SEEDS=1"],
        ["tune", "MODEL=3", "TRIALS=1", "SPACE=batch_size=32,64"],
    ],
    ids=lambda words: str(words[0]),
)
def test_what_is_asked_for_and_cannot_be_had_is_refused_before_a_run(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "ENGINE=compiled"]) == 2
    said = capsys.readouterr().err
    assert said == (
        "mnist-exp: ENGINE=compiled: the engine cannot be compiled: CXX=no-compiler does not work; "
        "unset CXX\n"
    )
    assert tracking.runs().empty


def test_a_plan_says_which_layers_go_through_torch(capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned("auto")
    partly = dataclasses.replace(plan.findings, through_torch=("fold", "F.unfold"))
    making._print_plan(dataclasses.replace(plan, findings=partly))
    printed = capsys.readouterr().out
    assert "engine compiled, 1 epoch" in printed
    assert "  through torch: fold, F.unfold\n" in printed


def described(run_id: str) -> str:
    client, _ = tracking.open_store()
    return str(client.get_run(run_id).data.tags[names.DESCRIPTION])


def interrupted(plan: Plan) -> str:
    """Carry a run out until its first epoch would begin; returns its id."""
    ids = []

    def stop(run_id: str) -> None:
        ids.append(run_id)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.carry_out(plan, on_batch=lambda _: None, on_epoch=lambda _: None, on_start=stop)
    return ids[0]


@pytest.mark.usefixtures("few_digits", "store")
def test_a_run_goes_on_with_its_own_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnist_exp.runs.plan.entries.read_entry", lambda _: written())
    by_torch, compiled = planned("torch"), planned("compiled")
    run_id = interrupted(by_torch)
    assert resume.resume(run_id).engine == TORCH
    assert resume.unfinished(by_torch)
    assert resume.unfinished(compiled) is None
    # As it was before runs had an engine.
    kept = resume.checkpoint.checkpoint_of(run_id, resume.checkpoints())
    content = kept.load()
    for part in ("request", "identity"):
        del content[part]["engine"]
    kept.save(content)
    assert resume.resume(run_id).engine == TORCH

    run_id = interrupted(compiled)
    assert resume.resume(run_id).engine == compiled.engine
    other = dataclasses.replace(compiled.engine, sha256="0" * 64)
    monkeypatch.setattr(engines, "_compiled", lambda: (other, ""))
    with pytest.raises(ExpectedError, match=r"cannot go on as it began: engine_sha256 was .* is 0"):
        resume.resume(run_id)
    monkeypatch.setattr(engines, "_compiled", lambda: (None, "no compiler"))
    with pytest.raises(ExpectedError, match="ENGINE=compiled: no compiler"):
        resume.resume(run_id)


@pytest.mark.usefixtures("few_digits", "store")
def test_the_trainings_of_a_sweep_have_its_engine() -> None:
    asked = sweep.settle_sweep([3], [1], epochs=1, engine="torch")
    (order,) = sweep._orders(asked, "")
    job._train(order, io.StringIO())
    (trained,) = tracking.runs().to_dict("records")
    assert trained["engine"] == "torch"
    assert "engine_sha256" not in trained
    assert "Engine: torch." in described(trained["run_id"])
    # A run counts whichever it had.
    assert sweep.settle_sweep([3], [1], epochs=1, engine="compiled").missing == ()
    (order,) = sweep._orders(sweep.settle_sweep([3], [2], epochs=1), "")
    assert order.engine == "compiled"


@pytest.mark.usefixtures("few_digits")
def test_a_run_records_its_engine_and_is_reproduced_with_it(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = carry_out(planned("auto")).run_id
    (trained,) = tracking.runs().to_dict("records")
    assert (trained["engine"], trained["engine_sha256"]) == ("compiled", library.sha256())
    assert f"Engine: compiled ({library.sha256()[:7]})." in described(run_id)
    reproduction = reproduce.prepare(run_id)
    assert (reproduction.engine, reproduction.differences) == ("compiled", [])
    (pair,) = reproduce.repeat(reproduction)
    assert pair.identical

    change(store, f"UPDATE params SET value = '{'f' * 64}' WHERE key = 'engine_sha256'")
    (difference,) = reproduce.prepare(run_id).differences
    assert difference == ("engine_sha256", "f" * 64, library.sha256())

    with monkeypatch.context() as patch:
        patch.setattr(engines, "_compiled", lambda: (None, "no compiler"))
        reproduction = reproduce.prepare(run_id)
    assert reproduction.engine == "torch"
    assert reproduction.differences == [("engine", "compiled", "torch")]

    change(store, "DELETE FROM params WHERE key LIKE 'engine%'")  # as an older run
    reproduction = reproduce.prepare(run_id)
    assert (reproduction.engine, reproduction.differences) == ("torch", [])
