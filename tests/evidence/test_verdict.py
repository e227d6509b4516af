"""Verdicts, statistics and what counts, on hand-made tables with known answers."""

import math

import pandas as pd
import pytest
from scipy import stats

from mnist_exp.common.words import percent, points, ranges
from mnist_exp.evidence import effect as effects
from mnist_exp.evidence import scores
from mnist_exp.evidence import verdict as verdicts
from mnist_exp.evidence.verdict import Answer, EpochScore, RunVerdict, Verdict
from mnist_exp.notebook import entries
from mnist_exp.recipe import Target

TARGET = Target(test_accuracy=0.994, last_epochs=5, max_epochs=15, parameters_below=8_000)
GOOD = [500] * 10 + [60] * 5


def history(errors: list[float], run_id: str = "a") -> pd.DataFrame:
    columns = {"epoch": range(1, len(errors) + 1), "test_errors": errors, "train_accuracy": 0.9}
    return pd.DataFrame({"run_id": run_id} | columns)


def judge(rows: pd.DataFrame, *, parameters: int = 7_999, images: int = 10_000) -> RunVerdict:
    runs = pd.DataFrame(
        [{"run_id": "a", "split": "test", "parameters": parameters, "test_images": images}]
    )
    return verdicts.judge_run(runs.join(scores.scores(runs, rows, TARGET)).iloc[0], TARGET)


def verdict(errors: list[float], **settings: int) -> RunVerdict:
    return judge(history(errors), **settings)


def met(judged: RunVerdict) -> list[bool]:
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
    assert "99.39 %" in judged.reason


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
    assert met(verdict([])) == [False, True, True]


@pytest.mark.parametrize("epochs", [[1, 2, 3, 5, 6, 7], [1, 2, 3, 4, 5, 5], [2, 3, 4, 5, 6]])
def test_missing_and_doubled_epochs_fail(epochs: list[int]) -> None:
    judged = judge(pd.DataFrame({"run_id": "a", "epoch": epochs, "test_errors": 10}))
    assert met(judged) == [False, True, True]
    assert "gaps" in judged.conditions[0].measured


def test_an_epoch_without_a_score_fails() -> None:
    assert met(verdict([10] * 14 + [float("nan")])) == [False, True, True]


def test_a_validation_history_fails() -> None:
    rows = pd.DataFrame({"run_id": "a", "epoch": range(1, 16), "validation_errors": 10})
    assert met(judge(rows)) == [False, True, True]


def test_rows_in_any_order() -> None:
    assert judge(history(GOOD).sample(frac=1, random_state=0)).met


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
def test_runs_that_cannot_be_judged_give_no_numbers(errors: list[float], known: set[str]) -> None:
    runs = pd.DataFrame([{"run_id": "a", "split": "test", "test_images": 1_000}])
    row = scores.scores(runs, history(errors), TARGET).iloc[0]
    names = {
        "best": "best_accuracy",
        "final": "final_accuracy",
        "worst": "worst_accuracy",
    }
    assert {name for name, column in names.items() if not math.isnan(row[column])} == known


RUN = {
    "run_id": "a", "model": 6, "seed": 1, "status": "FINISHED", "overrides": None,
    "split": "test", "code_sha256": "now", "start_time": pd.Timestamp("2026-01-01"),
    "parameters": 7_416, "test_images": 10_000, "receptive_field": 28,
}  # fmt: skip


def store(*changes: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame([RUN | change for change in changes])


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
        ({"seed": None}, "incomplete: without seed, parameters or test images"),
        ({"parameters": "many"}, "incomplete: without seed, parameters or test images"),
        ({"status": "FAILED", "overrides": "epochs=2"}, "not finished"),
    ],
)
def test_which_runs_speak_for_their_iteration(
    change: dict[str, object], reason: str | None
) -> None:
    assert scores.exclusions(store(change), {6: "now"}).tolist() == [reason]


def test_the_newest_run_of_a_seed_counts() -> None:
    later = {"start_time": pd.Timestamp("2026-01-02")}
    failed = {"start_time": pd.Timestamp("2026-01-03"), "status": "FAILED"}
    runs = store(later, {}, {"seed": 2}, {"model": 5}, failed)
    old = "superseded by a newer run of its seed"
    counted = scores.exclusions(runs, {5: "now", 6: "now"}).tolist()
    assert counted == [None, old, None, None, "not finished"]


def judged(*runs: tuple[int, list[float]], demanded: int = 0, **changes: object) -> Verdict:
    """The verdict on model 6 from runs of (seed, errors)."""
    table = store(*({"run_id": f"{seed}", "seed": seed} | changes for seed, _ in runs))
    rows = pd.concat([history(errors, f"{seed}") for seed, errors in runs])
    table = table.join(scores.scores(table, rows, TARGET))
    return verdicts.judge_iteration(entries.read(6), table, TARGET, demanded)


LOW = [*GOOD[:12], 61, 60, 60]


def test_met_on_every_seed() -> None:
    verdict = judged((1, GOOD), (2, [*GOOD[:10], 50, 50, 50, 50, 40]))
    assert (verdict.answer, verdict.met, verdict.passing) == (Answer.MET, True, 2)
    assert verdict.answer == "met on every seed"
    assert verdict.seeds == (1, 2)
    assert verdict.reason == "lowest of the last 5 epochs 99.40 % (seed 1, epoch 15)"
    assert verdict.best == EpochScore(0.996, seed=2, epoch=15)
    assert verdict.final_accuracy == pytest.approx(0.995)
    assert verdict.final_accuracy_std == pytest.approx(0.001 * math.sqrt(2))
    assert (verdict.parameters, verdict.receptive_field, verdict.epochs) == (7_416, 28, 15)


def test_met_on_some_seeds_names_those_that_fail() -> None:
    row = judged((1, GOOD), (2, LOW), (3, GOOD))
    assert (row.answer, row.met, row.passing) == ("met on some seeds", False, 2)
    assert row.reason == (
        "lowest of the last 5 epochs 99.39 % (seed 2, epoch 13); not met by seed 2"
    )


def test_a_one_epoch_wonder_is_not_met_and_said_to_be_one() -> None:
    row = judged((1, [80] * 14 + [40]), (2, [80] * 15))
    assert row.answer == "not met"
    assert row.reason == (
        "lowest of the last 5 epochs 99.20 % (seed 1, epoch 14); its best epoch, 99.60 % (seed 1, "
        "epoch 15), is at the bar, but one epoch is no pass"
    )


def test_too_few_epochs() -> None:
    row = judged((1, [10] * 4))
    assert (row.answer, row.reason) == ("too few epochs", "epochs run: only 4")
    assert row.worst is None


def test_too_large_and_too_long() -> None:
    row = judged((1, [10] * 16), parameters=6_379_786)
    assert row.answer == "not met"
    assert row.reason == (
        "at most 15 epochs are asked for, it has 16; "
        "fewer than 8,000 parameters are asked for, it has 6,379,786"
    )


def test_a_record_with_a_gap_is_named_beside_the_seeds_that_are_sound() -> None:
    row = judged((1, GOOD), (2, [*GOOD[:14], math.nan]), (3, LOW))
    assert row.passing == 1
    assert row.reason == (
        "not every epoch was scored on the test set; not met by seed 2; "
        "lowest of the last 5 epochs 99.39 % (seed 3, epoch 13); not met by seed 3"
    )


def test_with_fewer_seeds_than_are_asked_for_it_is_not_met() -> None:
    few = judged((1, GOOD), (2, GOOD), demanded=3)
    assert (few.answer, few.met, few.passing) == ("too few seeds", False, 2)
    lowest = "lowest of the last 5 epochs 99.40 % (seed 1, epoch 15)"
    assert few.reason == f"3 seeds are asked for, 2 were run; {lowest}"
    assert judged((1, GOOD), (2, GOOD), demanded=2).met
    assert judged((1, GOOD), (2, LOW), demanded=3).answer == "met on some seeds"


def test_verdicts_make_a_table_with_a_row_each() -> None:
    unscored = judged((7, [10] * 14 + [math.nan]), receptive_field="unknown: a loop")
    table = verdicts.as_frame([judged((5, LOW), (1, GOOD), (2, GOOD)), unscored])
    first, second = verdicts.as_records([judged((5, LOW), (1, GOOD), (2, GOOD)), unscored])
    assert table.columns.tolist() == list(verdicts.COLUMNS) == list(first)
    assert (first["model"], first["split"], first["title"]) == (6, "test", entries.read(6).title)
    assert (first["seeds"], first["which_seeds"], first["passing"]) == (3, "1-2 5", 2)
    assert (first["worst_accuracy"], first["worst_seed"], first["worst_epoch"]) == (0.9939, 5, 13)
    # Of three, two pass: by the exact interval, from 9.4 to 99.2 %.
    assert (first["pass_low"], first["pass_high"]) == pytest.approx((0.094, 0.992), abs=5e-4)
    assert (first["verdict"], first["met"]) == ("met on some seeds", False)
    assert [second[name] for name in second if name.startswith(("best_", "worst_"))] == [
        0.9, None, None, None, None, None, None,
    ]  # fmt: skip
    assert table["worst_seed"].tolist() == [5, pd.NA]


def test_no_verdict_gives_an_empty_table() -> None:
    assert verdicts.as_frame([]).columns.tolist() == list(verdicts.COLUMNS)
    assert verdicts.as_records([]) == []


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
    epochs = scores.epochs(runs, rows)
    assert epochs.loc[epochs["run_id"] == "b", "evaluation_accuracy"].tolist() == [
        0.99, 0.992, 0.994, 0.996, 0.995,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("passing", "seeds", "low", "high"),
    # With all or none passing the bounds are roots of 0.025, worked out by hand.
    [(1, 1, 0.025, 1), (0, 1, 0, 0.975), (10, 10, 0.025**0.1, 1), (0, 5, 0, 1 - 0.025**0.2)],
)
def test_the_interval_of_the_pass_rate(passing: int, seeds: int, low: float, high: float) -> None:
    assert verdicts.pass_rate_interval(passing, seeds) == pytest.approx((low, high))


def test_the_interval_of_the_pass_rate_covers_what_it_says() -> None:
    low, high = verdicts.pass_rate_interval(3, 5)
    assert stats.binom.sf(2, 5, low) == pytest.approx(0.025)
    assert stats.binom.cdf(3, 5, high) == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("passing", "seeds", "bound"),
    [(10, 10, 0.05**0.1), (1, 1, 0.05), (0, 3, 0)],
)
def test_the_pass_rate_that_passing_seeds_support(passing: int, seeds: int, bound: float) -> None:
    assert verdicts.pass_rate_bound(passing, seeds) == pytest.approx(bound)


def test_ranges() -> None:
    assert ranges([5, 1, 2, 3, 7]) == "1-3 5 7"
    assert ranges(range(101, 111)) == "101-110"


def finals(**models: dict[int, float]) -> pd.DataFrame:
    rows = [
        (int(name[1:]), seed, value) for name, own in models.items() for seed, value in own.items()
    ]
    return pd.DataFrame(rows, columns=["model", "seed", "final_accuracy"])


def test_an_effect_is_paired_by_seed() -> None:
    runs = finals(m5={1: 0.98, 2: 0.99, 3: 0.97, 9: 0.5}, m6={1: 0.981, 2: 0.992, 3: 0.973, 4: 0.1})
    effect = effects.effect(runs, 6, 5)
    assert effect.seeds == (1, 2, 3)
    assert effect.mean == pytest.approx(0.002)
    assert effect.interval == pytest.approx((0.001, 0.003))
    assert not effect.worse
    assert effect.better
    assert effects.effect(runs, 5, 6).worse
    assert str(effect) == "+0.20 points, 95 % interval +0.10 to +0.30 (3 pairs)"


def test_two_pairs_are_not_enough_to_tell() -> None:
    runs = finals(m5={1: 0.98, 2: 0.99}, m6={1: 0.99, 2: 1.0}, m7={3: 0.9})
    effect = effects.effect(runs, 6, 5)
    assert effect.interval is None
    assert not effect.worse
    assert str(effect) == "not enough seeds to tell (2 pairs, mean +1.00)"
    assert str(effects.effect(runs, 7, 6)) == "not enough seeds to tell (0 pairs)"


def test_an_effect_that_is_the_same_on_every_seed() -> None:
    runs = finals(m5={1: 0.98, 2: 0.98, 3: 0.98}, m6={1: 0.98, 2: 0.98, 3: 0.98})
    assert effects.effect(runs, 6, 5).interval == (0, 0)
    assert not effects.effect(runs, 6, 5).worse


def test_an_error_of_rounding_is_no_effect() -> None:
    exact, rounded = 0.3, 0.1 + 0.2
    runs = finals(m5=dict.fromkeys((1, 2, 3), rounded), m6=dict.fromkeys((1, 2, 3), exact))
    assert exact < rounded
    assert not effects.effect(runs, 6, 5).worse
    assert not effects.effect(runs, 5, 6).better


def test_numbers_are_shown_one_way() -> None:
    assert percent(0.994) == "99.40 %"
    assert percent(9_939 / 10_000) == "99.39 %"
    assert percent(1) == "100.00 %"
    assert percent(math.nan) == "–"
    assert points(0.0012) == "+0.12"
    assert points(-0.00002) == "-0.002"
    assert points(0.00006) == "+0.01"
    assert points(0) == "+0.00"
