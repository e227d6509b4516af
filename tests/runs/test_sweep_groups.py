"""Sweeps whose seeds are trained as one network."""

import pandas as pd
import pytest

from mnist_exp import tracking
from mnist_exp.commands.cli import main
from mnist_exp.runs import sweep, sweep_groups
from mnist_exp.runs.plan import settle
from mnist_exp.runs.worker import Report
from mnist_exp.training import together

pytestmark = pytest.mark.usefixtures("store", "few_digits")


def of_seeds() -> pd.DataFrame:
    runs = tracking.runs()
    return runs[runs["seed"].notna()].sort_values("seed")


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
    monkeypatch.setattr(together, "BY_ELEMENT", set())
    asked = sweep.settle_sweep([6], [1, 2], epochs=1, device="cpu", engine="torch")
    said: list[Report] = []
    results = sweep_groups.train_together(
        asked, together=2, on_start=lambda _: None, on_result=lambda _: None, on_report=said.append
    )
    assert [result.failure for result in results] == ["", ""]
    why = "SGD may step each number by those beside it; they are trained one after another"
    assert f"its seeds cannot be trained together: {why}" in caplog.messages
    assert {(report.job.seed, report.worker) for report in said} >= {
        (1, "here://cpu"), (2, "here://cpu"),
    }  # fmt: skip
    assert sweep_groups.fitting(settle(6, epochs=1, device="cpu", engine="torch")) == 1


@pytest.mark.parametrize("other", ["WORKERS=2", "SCHEDULER=tcp://127.0.0.1:1", "ENGINE=compiled"])
def test_it_has_no_workers(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "MODELS=6", "SEEDS=2", "DEVICE=cpu", "TOGETHER=2", other]) == 2
    assert "TOGETHER= trains in this process, by torch" in capsys.readouterr().err


def test_as_many_seeds_as_the_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = settle(6, epochs=1, device="cpu", engine="torch")
    told = iter([(100.0, 10_000.0), (300.0, 0.0)])
    monkeypatch.setattr(sweep_groups, "_memory", lambda _: next(told))
    assert sweep_groups.fitting(plan) == 70  # a hundred each, of 70 % of what is free
