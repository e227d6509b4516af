"""Sweeps whose seeds are trained as one network."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch

from mnist_exp import tracking
from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import loading
from mnist_exp.recipe import Target
from mnist_exp.runs import engines, record, resume, run, sweep, sweep_groups
from mnist_exp.runs.plan import Plan, settle
from mnist_exp.runs.sweep import Sweep
from mnist_exp.runs.worker import JobResult, Report
from mnist_exp.training import apart
from mnist_exp.training.stepping import Batch
from mnist_exp.training.together import Together

pytestmark = pytest.mark.usefixtures("store", "few_digits")


def of_seeds() -> pd.DataFrame:
    runs = tracking.runs()
    return runs[runs["seed"].notna()].sort_values("seed")


@pytest.mark.slow
def test_it_trains_what_is_missing_so_many_at_once_and_gathers_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["sweep", "MODELS=6", "EPOCHS=1", "DEVICE=cpu"]
    assert main([*asked, "SEEDS=2", "TOGETHER=1"]) == 0
    assert main([*asked, "SEEDS=5", "TOGETHER=2"]) == 0
    said = capsys.readouterr().out
    assert "A sweep of models 6, seeds 1-5, test split, 1 epoch: 5 runs, 2 in the store" in said
    assert "3 to train, 2 at once" in said
    runs = of_seeds()
    assert runs["seed"].tolist() == [1, 2, 3, 4, 5]
    assert runs["seeds_together"].fillna("").tolist() == ["", "", "3-4", "3-4", ""]
    assert set(runs["status"]) == {"FINISHED"}
    assert runs["parent"].nunique() == 1
    assert main([*asked, "SEEDS=5", "TOGETHER=2"]) == 0
    assert "Nothing is missing" in capsys.readouterr().out


def test_what_cannot_be_trained_so_is_trained_seed_by_seed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(apart, "BY_ELEMENT", set())
    asked = sweep.settle_sweep([6], [1, 2], epochs=1, device="cpu", engine="torch")
    said: list[Report] = []
    results = sweep_groups.train_together(
        asked, together=2, threads=1, on_start=lambda *_: None, on_result=lambda _: None,
        on_report=said.append,
    )  # fmt: skip
    assert [result.failure for result in results] == ["", ""]
    why = "SGD may step each number by those beside it; they are trained one after another"
    assert f"its seeds cannot be trained together: {why}" in caplog.messages
    assert {(report.job.seed, report.worker) for report in said} >= {
        (1, "here://cpu"), (2, "here://cpu"),
    }  # fmt: skip
    assert sweep_groups.fitting(settle(6, epochs=1, device="cpu", engine="torch")) == 1


def asked_for(models: Sequence[int] = (6,), seeds: Sequence[int] = (1, 2, 3)) -> Sweep:
    return sweep.settle_sweep(models, seeds, epochs=1, device="cpu", engine="torch")


def trained(asked: Sweep, together: int | None = 4) -> list[JobResult]:
    return sweep_groups.train_together(
        asked, together=together, threads=1, on_start=lambda *_: None, on_result=lambda _: None
    )


@pytest.mark.slow
def test_a_sweep_that_stops_trains_no_larger_groups_than_may_settle_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = Target(test_accuracy=0.01, last_epochs=1, max_epochs=15, parameters_below=8_000)
    monkeypatch.setattr(loading, "load_target", lambda: target)
    asked = sweep.settle_sweep(
        [6], range(1, 9), epochs=1, device="cpu", engine="torch", stop_at=0.3
    )
    assert [result.job.seed for result in trained(asked, together=2)] == [1, 2, 3]
    assert of_seeds()["seeds_together"].fillna("").tolist() == ["1-2", "1-2", ""]
    assert asked.settled(6)


@pytest.mark.slow
def test_what_an_earlier_sweep_left_goes_on_in_its_own_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(record, "end", stop)
        with pytest.raises(KeyboardInterrupt) as interrupt:
            trained(asked_for())
    assert interrupt.value.__notes__ == ["the same command goes on"]
    killed = of_seeds()
    assert set(killed["status"]) == {"KILLED"}
    results = trained(asked_for(seeds=(1, 2, 3, 4)), together=2)
    assert {result.job.seed: result.failure for result in results} == dict.fromkeys(range(1, 5), "")
    runs = of_seeds()
    assert runs["seeds_together"].fillna("").tolist() == ["1-3", "1-3", "1-3", ""]
    assert runs["run_id"].tolist()[:3] == killed["run_id"].tolist()


@pytest.mark.slow
def test_where_the_memory_has_no_room_for_so_many_fewer_are_trained_together(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step = Together._step_of_copies

    def full(together: Together, batch: Batch) -> None:
        if len(together.trainings) > 2:
            raise MemoryError("no room")
        step(together, batch)

    monkeypatch.setattr(Together, "_step_of_copies", full)
    assert not any(result.failure for result in trained(asked_for(seeds=range(1, 5))))
    assert of_seeds()["seeds_together"].tolist() == ["1-2", "1-2", "3-4", "3-4"]
    assert "the memory is full: no room" in caplog.text


@pytest.mark.slow
def test_what_goes_wrong_with_some_is_said_of_them_and_the_others_are_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = asked_for([2, 6], seeds=(1, 2))
    broken = asked.entries[2].source.replace("return x.flatten(1)", "return x.flatten(1) @ x")
    broken_entry = dataclasses.replace(asked.entries[2], source=broken)
    asked = dataclasses.replace(asked, entries={**asked.entries, 2: broken_entry})
    save = resume.save

    def fails(run_checkpoint: Any, plan: Plan, *args: Any, **kwargs: Any) -> None:
        if kwargs and plan.entry.number == 6:
            raise ExpectedError("the disk is full")
        save(run_checkpoint, plan, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(resume, "save", fails)
        results = trained(asked)
    failures = [(result.job.model, result.failure) for result in results]
    assert [model for model, _ in failures] == [2, 2, 6, 6]
    assert all("model_2.py, line" in failure for _, failure in failures[:2])
    assert [failure for _, failure in failures[2:]] == ["the disk is full"] * 2
    assert set(of_seeds()["status"]) == {"FAILED"}
    assert not any(result.failure for result in trained(asked_for(seeds=(1, 2))))
    assert set(of_seeds()["status"]) == {"FINISHED"}  # the same runs went on


@pytest.mark.parametrize("other", ["WORKERS=2", "SCHEDULER=tcp://127.0.0.1:1", "ENGINE=compiled"])
def test_it_has_no_workers(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "MODELS=6", "SEEDS=2", "DEVICE=cpu", "TOGETHER=2", other]) == 2
    assert "TOGETHER= trains in this process, by torch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "by_workers"),
    [([], False), (["WORKERS=2"], True), (["SCHEDULER=tcp://h:1"], True), (["TOGETHER=3"], False)],
)
def test_a_machine_with_a_graphics_card_may_have_workers(
    words: list[str], by_workers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "choose_engine", lambda *_: (engines.TORCH, torch.device("cuda")))
    called: list[bool] = []
    monkeypatch.setattr(sweep, "train_missing", lambda *_, **__: called.append(True) or [])
    monkeypatch.setattr(sweep_groups, "train_together", lambda *_, **__: called.append(False) or [])
    assert main(["sweep", "MODELS=6", "SEEDS=2", *words]) == 0
    assert called == [by_workers]


class Card:
    """The memory of a graphics card, as torch tells of it."""

    def __init__(self) -> None:
        self.cached, self.now, self.peak = 5_000, 100, 9_000  # of what went before

    def take(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)
        self.now -= size

    def empty_cache(self) -> None:
        self.cached = 0

    def reset_peak_memory_stats(self, _: torch.device) -> None:
        self.peak = self.now

    def memory_allocated(self, _: torch.device) -> int:
        return self.now

    def max_memory_allocated(self, _: torch.device) -> int:
        return self.peak

    def mem_get_info(self, _: torch.device) -> tuple[int, int]:
        return 20_000 - self.now - self.cached, 20_000


def test_the_memory_that_is_taken_is_that_since_it_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "cuda", card := Card())
    asked = partial(sweep_groups.memory_taken, torch.device("cuda"))
    assert asked(lambda: card.take(700)) == (700, 19_900)
    assert asked(lambda: card.take(300)) == (300, 19_900)


def test_as_many_seeds_as_the_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = settle(6, epochs=1, device="cpu", engine="torch")
    made: list[bool] = []

    def taken(_: torch.device, do: Callable[[], None]) -> tuple[int, int]:
        with monkeypatch.context() as patch:
            patch.setattr(run, "training_of", lambda *_, **__: made.append(True))
            with pytest.raises(AttributeError):  # of a group of none
                do()
        do()
        return 200, 10_000

    monkeypatch.setattr(sweep_groups, "memory_taken", taken)
    assert sweep_groups.fitting(plan) == 70  # a hundred each, of 70 % of what is free
    assert made == [True, True]  # their memory is counted, too
