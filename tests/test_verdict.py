"""Verdicts on hand-made histories and stores with known answers."""

import pandas as pd
import pytest

from mnist_exp import ExpectedError
from mnist_exp.recipe import Target
from mnist_exp.verdict import Verdict, judge, newest_run, percent

TARGET = Target(test_accuracy=0.994, last_epochs=5, max_epochs=15, parameters_below=8_000)
GOOD = [500] * 10 + [60] * 5


def verdict(errors: list[float], *, parameters: int = 7_999, images: int = 10_000) -> Verdict:
    history = pd.DataFrame({"epoch": range(1, len(errors) + 1), "test_errors": errors})
    return judge(history, parameters=parameters, test_images=images, target=TARGET)


def met(judged: Verdict) -> list[bool]:
    """Of accuracy, epochs and parameters."""
    return [condition.met for condition in judged.conditions]


def test_9940_of_10000_in_each_of_the_last_five_epochs_is_enough() -> None:
    assert verdict(GOOD).met
    assert str(verdict(GOOD)) == "target met"


@pytest.mark.parametrize("epoch", range(11, 16))
def test_9939_of_10000_in_any_of_them_is_not(epoch: int) -> None:
    errors = GOOD.copy()
    errors[epoch - 1] = 61
    judged = verdict(errors)
    assert met(judged) == [False, True, True]
    assert judged.conditions[0].measured == f"worst 99.39 %, in epoch {epoch}"
    assert "99.39 %" in judged.reasons["verdict_reason"]


def test_the_epochs_before_the_last_five_do_not_count() -> None:
    assert verdict([9_000] * 10 + [60] * 5).met


def test_one_lucky_epoch_is_no_pass() -> None:
    assert met(verdict([80] * 14 + [10])) == [False, True, True]


def test_fewer_than_five_epochs_are_too_few() -> None:
    judged = verdict([10] * 4)
    assert met(judged) == [False, True, True]
    assert judged.conditions[0].measured == "epochs run: only 4"


def test_sixteen_epochs_are_too_many() -> None:
    assert met(verdict([10] * 16)) == [True, False, True]


def test_8000_parameters_are_too_many() -> None:
    assert met(verdict(GOOD, parameters=8_000)) == [True, True, False]


def test_counts_are_compared_where_floats_would_round() -> None:
    # 99.4 % of 500 is 497 exactly; 0.994 * 500 is 497.0 or just beside it as a float.
    assert verdict([3] * 15, images=500).met
    assert not verdict([4] * 15, images=500).met


def test_a_run_without_epochs_fails() -> None:
    assert met(verdict([])) == [False, False, True]


@pytest.mark.parametrize("epochs", [[1, 2, 3, 5, 6, 7], [1, 2, 3, 4, 5, 5], [2, 3, 4, 5, 6]])
def test_missing_and_doubled_epochs_fail(epochs: list[int]) -> None:
    history = pd.DataFrame({"epoch": epochs, "test_errors": 10})
    judged = judge(history, parameters=10, test_images=10_000, target=TARGET)
    assert met(judged) == [False, True, True]
    assert "gaps" in judged.conditions[0].measured


def test_an_epoch_without_a_score_fails() -> None:
    assert met(verdict([10] * 14 + [float("nan")])) == [False, True, True]


def test_a_validation_history_fails() -> None:
    history = pd.DataFrame({"epoch": range(1, 16), "validation_errors": 10})
    assert not judge(history, parameters=10, test_images=10_000, target=TARGET).met


def test_rows_in_any_order() -> None:
    history = pd.DataFrame({"epoch": range(15, 0, -1), "test_errors": GOOD[::-1]})
    assert judge(history, parameters=10, test_images=10_000, target=TARGET).met


RUN = {
    "run_id": "a", "model": 6, "status": "FINISHED", "overrides": "none", "split": "test",
    "code_sha256": "now", "start_time": pd.Timestamp("2026-01-01"),
}  # fmt: skip


def store(*changes: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame([RUN | change for change in changes])


def test_the_newest_run_counts() -> None:
    later = {"run_id": "b", "start_time": pd.Timestamp("2026-01-02")}
    assert newest_run(store(later, {}), 6, "now")["run_id"] == "b"
    assert newest_run(store({}, later), 6, "now")["run_id"] == "b"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "FAILED"}, "did not finish"),
        ({"status": "KILLED"}, "did not finish"),
        ({"status": "RUNNING"}, "did not finish"),
        ({"overrides": "epochs=2"}, "overridden"),
        ({"split": "validation"}, "validation split"),
        ({"code_sha256": "before"}, "earlier version"),
    ],
)
def test_a_run_that_does_not_speak_for_the_iteration(change: dict[str, str], reason: str) -> None:
    newer = change | {"run_id": "b", "start_time": pd.Timestamp("2026-01-02")}
    assert newest_run(store({}, newer), 6, "now")["run_id"] == "a"
    with pytest.raises(
        ExpectedError, match=f"no run of model 6 counts .1 .*{reason}.*make run MODEL=6"
    ):
        newest_run(store(newer), 6, "now")


def test_no_run_at_all() -> None:
    for empty in (pd.DataFrame(), store({"model": 5})):
        with pytest.raises(ExpectedError, match="no run of model 6: make run MODEL=6"):
            newest_run(empty, 6, "now")


def test_percent() -> None:
    assert percent(0.994) == "99.40 %"
    assert percent(9_939 / 10_000) == "99.39 %"
    assert percent(1) == "100.00 %"
