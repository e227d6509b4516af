"""Runs on folds of writers, and those of old that name no fold: kept apart, and made again."""

import dataclasses
from typing import Any

import pandas as pd
import pytest
import torch
from handmade import record_run
from short_runs import carry_out, short

from mnist_exp import data, tracking
from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import percent
from mnist_exp.data import splits
from mnist_exp.runs import checkpoint, reproduce, resume, run, sweep, sweep_groups, tune
from mnist_exp.runs.plan import Plan, settle
from mnist_exp.runs.teacher import find_teacher

LOAD = data.load


@pytest.fixture
def some_digits(few_digits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs train on 500 real digits and are scored on 500, those of their fold."""
    del few_digits  # of which the digits are others here

    def load(split: data.Split, fold: data.Fold | None) -> tuple[data.Digits, ...]:
        return tuple(digits[:500] for digits in LOAD(split, fold))

    monkeypatch.setattr(data, "load", load)


def on_fold(fold: Any, epochs: int = 2) -> Plan:
    return settle(3, epochs=epochs, split="validation", fold=fold)


def interrupted(plan: Plan) -> str:
    """Begin a run, and end it after an epoch; returns its id."""

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.carry_out(plan, on_batch=lambda _: None, on_epoch=stop)
    return str(tracking.runs()["run_id"].iloc[-1])


def as_of_old(patch: pytest.MonkeyPatch) -> None:
    """Plans record what they did before there were folds."""
    settings = Plan.settings
    patch.setattr(
        Plan, "settings", lambda plan: {k: v for k, v in settings(plan).items() if k != "fold"}
    )


@pytest.mark.usefixtures("store")
def test_a_plan_holds_the_digits_of_its_fold() -> None:
    plan = on_fold(3)
    assert (len(plan.train), len(plan.held_out)) == (50_059, 9_941)
    assert plan.settings()["fold"] == plan.identity()["fold"] == "3"
    assert "fold" not in settle(3, epochs=1).settings()
    assert on_fold(None).fold == "1"
    assert torch.equal(on_fold("last").held_out.labels, LOAD()[0].labels[50_000:])


@pytest.mark.usefixtures("store", "some_digits")
def test_a_run_on_a_fold_goes_on_bit_for_bit() -> None:
    whole = carry_out(on_fold("4")).run_id
    stopped = interrupted(on_fold("4"))
    assert resume.unfinished(on_fold("5")) is None
    assert resume.unfinished(on_fold("last")) is None
    assert resume.unfinished(on_fold("4")).run_id == stopped
    plan = resume.resume(stopped)
    assert plan.fold == "4"
    carry_out(plan)
    own, other = (
        tracking.history([run_id]).drop(columns=["run_id", "time", "epoch_seconds"])
        for run_id in (whole, stopped)
    )
    pd.testing.assert_frame_equal(own, other, check_exact=True)
    assert tracking.runs()["fold"].tolist() == ["4", "4"]


@pytest.mark.usefixtures("store", "some_digits")
@pytest.mark.slow  # trains several times
def test_a_checkpoint_of_old_goes_on_with_the_last_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        as_of_old(patch)
        stopped = interrupted(on_fold("last"))
    with checkpoint.claim(stopped, resume.checkpoints()) as own:
        content = own.load()
        del content["request"]["fold"]
        assert "fold" not in content["identity"]
        own.save(content)
    assert resume.unfinished(on_fold("1")) is None
    assert resume.unfinished(on_fold("last")).run_id == stopped
    plan = resume.resume(stopped)
    assert plan.fold == "last"
    carry_out(plan)
    assert tracking.runs()[["status", "fold"]].to_numpy().tolist() == [["FINISHED", "last"]]


@pytest.mark.usefixtures("store", "some_digits")
@pytest.mark.parametrize(("fold", "is_old"), [("2", False), ("last", False), ("last", True)])
@pytest.mark.slow  # trains several times
def test_a_run_is_reproduced_on_its_fold(
    fold: str, is_old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        if is_old:
            as_of_old(patch)
        run_id = carry_out(on_fold(fold)).run_id
    assert ("fold" in tracking.open_store()[0].get_run(run_id).data.params) is not is_old
    reproduction = reproduce.prepare(run_id)
    assert (reproduction.fold, reproduction.differences) == (fold, [])
    assert all(pair.identical for pair in reproduce.repeat(reproduction))
    other = dataclasses.replace(reproduction, fold="1")
    assert not any(pair.identical for pair in reproduce.repeat(other))


@pytest.mark.usefixtures("store", "some_digits")
@pytest.mark.slow  # trains several times
def test_a_description_names_the_fold() -> None:
    client, _ = tracking.open_store()
    for fold, said in (("2", "on fold 2."), ("last", " %.")):
        kept = client.get_run(carry_out(on_fold(fold, epochs=1)).run_id)
        summary = kept.data.tags["mlflow.note.content"].split("\n\n")[1]
        assert summary.startswith("Final validation accuracy")
        assert summary.split(" Receptive")[0].endswith(said)


@pytest.mark.usefixtures("store")
def test_a_sweep_trains_the_folds_that_are_missing() -> None:
    hashes = {f"sha256.{name}": value for name, value in data.SHA256.items()}

    def settled(fold: str | None) -> sweep.Sweep:
        return sweep.settle_sweep([3], [1, 2], split="validation", fold=fold)

    for fold in (None, "2", "6"):  # the first is of old
        record_run(3, split="validation", fold=fold, tags=hashes, epochs=15)
    assert [len(settled(fold).missing) for fold in ("last", "1", "2", "all")] == [1, 2, 1, 10]
    asked = settled("all")
    assert [(job.seed, job.fold) for job in asked.missing] == [
        *((1, fold) for fold in "1345"), *((2, fold) for fold in "123456"),
    ]  # fmt: skip
    assert len({job.key for job in asked.points}) == 12
    assert asked.missing[0].name == "model-3 · seed 1 · fold 1"
    names = [settled(fold).name for fold in ("last", None, "all")]
    assert [name.removeprefix("sweep of models 3, seeds 1-2, ") for name in names] == [
        "validation split", "validation split, fold 1", "validation split, all folds",
    ]  # fmt: skip
    assert splits.folds_named(set("12346")) == "folds 1-4 6"


@pytest.mark.usefixtures("store", "some_digits")
@pytest.mark.slow  # twelve trainings
def test_a_sweep_over_all_folds_is_pooled() -> None:
    asked = sweep.settle_sweep(
        [3], [1, 2], split="validation", fold="all", epochs=1, device="cpu", engine="torch"
    )
    results = sweep_groups.train_together(
        asked, together=2, threads=1, on_start=lambda *_: None, on_result=lambda _: None
    )
    assert [result.failure for result in results] == [""] * 12
    runs = tracking.runs()
    assert sorted(zip(runs["fold"], runs["seed"], strict=True)) == [
        (fold, seed) for fold in "123456" for seed in (1, 2)
    ]
    assert set(runs["seeds_together"]) == {"1-2"}
    (parent,) = set(runs["parent"])
    kept = tracking.open_store()[0].get_run(parent)
    assert kept.data.metrics["model-3/seeds"] == 2
    errors = runs.groupby("seed")["validation_errors"].sum()
    expected = 100 * (1 - errors / 3_000).mean()  # six times 500 digits
    assert kept.data.metrics["model-3/final_accuracy_mean_percent"] == pytest.approx(
        expected, abs=1e-4
    )


@pytest.mark.usefixtures("store", "some_digits")
@pytest.mark.slow  # six trainings
def test_one_command_makes_six_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "MODEL=3", "SPLIT=validation", "FOLD=all", "EPOCHS=1", "DEVICE=cpu"]) == 0
    runs = tracking.runs()
    assert runs["fold"].tolist() == list("123456")
    said = capsys.readouterr().out
    assert "1 epoch, validation split, fold 6\n" in said
    _, _, together = said.partition("On all folds, with their errors added:\n\n")
    right = 1 - runs["validation_errors"].sum() / 3_000
    assert f"{percent(right)}" in together


def test_studies_of_different_folds_are_different() -> None:
    space = "optimizer.lr=0.1,0.2"
    of_old, first, other = (tune.settle_study(3, space, fold=x).name for x in ("last", None, "2"))
    assert of_old.endswith("), seed 1, optimizer.lr=0.1,0.2")
    assert first.endswith("), seed 1, fold 1, optimizer.lr=0.1,0.2")
    assert other.endswith("), seed 1, fold 2, optimizer.lr=0.1,0.2")
    with pytest.raises(ExpectedError, match="FOLD=all: one fold is needed here"):
        tune.settle_study(3, space, fold="all")


@pytest.mark.usefixtures("store", "some_digits")
def test_a_teacher_knows_none_of_the_writers_that_are_held_out() -> None:
    plan = short(3, split="validation", fold="2")
    own = carry_out(plan).run_id
    assert find_teacher(3, "validation", "2").run_id == own
    with pytest.raises(ExpectedError, match=r"make run MODEL=3 SPLIT=validation FOLD=4$"):
        find_teacher(3, "validation", "4")
    with pytest.raises(ExpectedError, match="a run with SPLIT=validation FOLD=4 was not"):
        find_teacher(own, "validation", "4")
    assert find_teacher(own, "validation", "2").run_id == own
