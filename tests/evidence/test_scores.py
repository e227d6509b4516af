"""What epochs come to and which runs count, on hand-made tables with known answers."""

import math
from collections.abc import Sequence

import pandas as pd
import pytest
from handmade import GOOD, TARGET, history, run_rows

from mnist_exp.evidence import scores


def test_scores_are_what_the_epochs_come_to() -> None:
    runs = pd.DataFrame({"run_id": ["b", "none"], "split": "test", "test_images": [1_000, 5]})
    rows = history([300, 20, 40, 30, 40, 25, 35], "b")
    rows["train_accuracy"] = [0.5, 0.9, 0.97, 0.95, 0.96, 0.9, 0.9]
    table = scores.scores(runs, pd.concat([history(GOOD), rows]), TARGET)
    assert table.loc[0].to_dict() == {
        "evaluation_images": 1_000, "epochs_run": 7, "complete": True, "scored": True,
        "best_train_accuracy": 0.97, "best_epoch": 2, "best_accuracy": 0.98,
        "final_accuracy": 0.965, "worst_errors": 40, "worst_epoch": 5, "worst_accuracy": 0.96,
    }  # fmt: skip
    assert table.loc[1, "epochs_run"] == 0
    assert not table.loc[1, "complete"]
    assert math.isnan(table.loc[1, "worst_accuracy"])


@pytest.mark.parametrize(
    ("errors", "known"),
    [
        ([10, 20, 30, 40], {"best", "final"}),
        ([10, 20, 30, 40, math.nan], set()),
        ([10, 20, 30, 40, 50], {"best", "final", "worst"}),
    ],
)
def test_runs_that_cannot_be_judged_give_no_numbers(
    errors: Sequence[float], known: set[str]
) -> None:
    runs = pd.DataFrame([{"run_id": "a", "split": "test", "test_images": 1_000}])
    row = scores.scores(runs, history(errors), TARGET).iloc[0]
    names = {
        "best": "best_accuracy",
        "final": "final_accuracy",
        "worst": "worst_accuracy",
    }
    assert {name for name, column in names.items() if not math.isnan(row[column])} == known


def test_the_scores_of_a_run_are_those_of_its_own_split() -> None:
    runs = pd.DataFrame(
        {
            "run_id": ["a", "b", "c"], "split": ["test", "validation", None],
            "test_images": [10_000, None, 10_000], "validation_images": [None, "5000", None],
        }
    )  # fmt: skip
    # Of "b", the test errors are somebody else's.
    rows = pd.concat([history([100] * 5, run) for run in "abc"]).reset_index(drop=True)
    rows["validation_errors"] = [math.nan] * 5 + [50, 40, 30, 20, 25] + [math.nan] * 5
    table = scores.scores(runs, rows, TARGET)
    assert table["evaluation_images"].tolist()[:2] == [10_000, 5_000]
    assert table["final_accuracy"].tolist()[:2] == [0.99, 0.995]
    assert table["worst_errors"].tolist()[:2] == [100, 50]
    assert table["scored"].tolist() == [True, True, False]
    assert table.loc[2, ["evaluation_images", "best_accuracy"]].isna().all()
    epochs = scores.scored_epochs(runs, rows)
    assert epochs.loc[epochs["run_id"] == "b", "evaluation_accuracy"].tolist() == [
        0.99, 0.992, 0.994, 0.996, 0.995,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"status": "FAILED"}, "not finished"),
        ({"status": "KILLED"}, "not finished"),
        ({"status": "RUNNING"}, "not finished"),
        ({"overrides": "epochs=2"}, "overridden"),
        ({"overrides": "not recorded"}, "overridden"),
        ({"split": "validation"}, "on the validation split"),
        ({"code_sha256": "before"}, "stale: of an earlier version of its file"),
        ({"code_sha256": None}, "stale: of an earlier version of its file"),
        ({"model": 7}, "its iteration's file is gone"),
        ({"resumed": "after epoch 3", "resumes": "exactly"}, None),
        ({"resumed": "after epoch 3"}, None),
        ({"resumed": "after epoch 0", "resumes": "it cannot"}, None),
        ({"resumes": "it cannot"}, None),
        (
            {"resumed": "after epoch 3", "resumes": "it cannot"},
            "resumed, which its recipe does not survive exactly",
        ),
        ({"seed": None}, "incomplete: without seed, parameters or evaluated images"),
        ({"parameters": "many"}, "incomplete: without seed, parameters or evaluated images"),
        ({"status": "FAILED", "overrides": "epochs=2"}, "not finished"),
    ],
)
def test_which_runs_speak_for_their_iteration(
    change: dict[str, object], reason: str | None
) -> None:
    assert scores.exclusions(run_rows(change), {6: "now"}).tolist() == [reason]


def test_the_newest_run_of_a_seed_counts() -> None:
    later = {"start_time": pd.Timestamp("2026-01-02")}
    failed = {"start_time": pd.Timestamp("2026-01-03"), "status": "FAILED"}
    runs = run_rows(later, {}, {"seed": 2}, {"model": 5}, failed)
    old = "superseded by a newer run of its seed"
    counted = scores.exclusions(runs, {5: "now", 6: "now"}).tolist()
    assert counted == [None, old, None, None, "not finished"]
