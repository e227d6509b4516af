"""Verdicts and pass rates, on hand-made tables with known answers."""

import math
from collections.abc import Sequence

import pandas as pd
import pytest
from handmade import GOOD, TARGET, history, run_rows
from scipy import stats

from mnist_exp.evidence import scores
from mnist_exp.evidence import verdict as verdicts
from mnist_exp.evidence.verdict import Answer, EpochScore, RunVerdict, Verdict
from mnist_exp.notebook import entries

LOW = [*GOOD[:12], 61, 60, 60]


def judge(rows: pd.DataFrame, *, parameters: int = 7_999, images: int = 10_000) -> RunVerdict:
    runs = pd.DataFrame(
        [{"run_id": "a", "split": "test", "parameters": parameters, "test_images": images}]
    )
    return verdicts.judge_run(runs.join(scores.scores(runs, rows, TARGET)).iloc[0], TARGET)


def run_verdict(errors: Sequence[float], **settings: int) -> RunVerdict:
    return judge(history(errors), **settings)


def met(judged: RunVerdict) -> list[bool]:
    """Of accuracy, epochs and parameters."""
    return [condition.met for condition in judged.conditions]


def test_9940_of_10000_in_each_of_the_last_five_epochs_is_enough() -> None:
    assert run_verdict(GOOD).met
    assert str(run_verdict(GOOD)) == "target met"


@pytest.mark.parametrize("epoch", range(11, 16))
def test_9939_of_10000_in_any_of_them_is_not(epoch: int) -> None:
    errors = list(GOOD)
    errors[epoch - 1] = 61
    judged = run_verdict(errors)
    assert met(judged) == [False, True, True]
    assert judged.conditions[0].measured == f"worst 99.39 %, in epoch {epoch}"
    assert "99.39 %" in judged.reason


def test_the_epochs_before_the_last_five_do_not_count() -> None:
    assert run_verdict([9_000] * 10 + [60] * 5).met


def test_one_lucky_epoch_is_no_pass() -> None:
    assert met(run_verdict([80] * 14 + [10])) == [False, True, True]


def test_fewer_than_five_epochs_are_too_few() -> None:
    judged = run_verdict([10] * 4)
    assert met(judged) == [False, True, True]
    assert judged.conditions[0].measured == "epochs run: only 4"


def test_sixteen_epochs_are_too_many() -> None:
    assert met(run_verdict([10] * 16)) == [True, False, True]


def test_8000_parameters_are_too_many() -> None:
    assert met(run_verdict(GOOD, parameters=8_000)) == [True, True, False]


def test_counts_are_compared_where_floats_would_round() -> None:
    # 99.4 % of 500 is 497 exactly; 0.994 * 500 is 497.0 or just beside it as a float.
    assert run_verdict([3] * 15, images=500).met
    assert not run_verdict([4] * 15, images=500).met


def test_a_run_without_epochs_fails() -> None:
    assert met(run_verdict([])) == [False, True, True]


@pytest.mark.parametrize("epochs", [[1, 2, 3, 5, 6, 7], [1, 2, 3, 4, 5, 5], [2, 3, 4, 5, 6]])
def test_missing_and_doubled_epochs_fail(epochs: list[int]) -> None:
    judged = judge(pd.DataFrame({"run_id": "a", "epoch": epochs, "test_errors": 10}))
    assert met(judged) == [False, True, True]
    assert "gaps" in judged.conditions[0].measured


def test_an_epoch_without_a_score_fails() -> None:
    assert met(run_verdict([10] * 14 + [float("nan")])) == [False, True, True]


def test_a_validation_history_fails() -> None:
    rows = pd.DataFrame({"run_id": "a", "epoch": range(1, 16), "validation_errors": 10})
    assert met(judge(rows)) == [False, True, True]


def test_rows_in_any_order() -> None:
    assert judge(history(GOOD).sample(frac=1, random_state=0)).met


def judged(*runs: tuple[int, Sequence[float]], demanded: int = 0, **changes: object) -> Verdict:
    """The verdict on model 6 from runs of (seed, errors)."""
    table = run_rows(*({"run_id": f"{seed}", "seed": seed} | changes for seed, _ in runs))
    rows = pd.concat([history(errors, f"{seed}") for seed, errors in runs])
    table = table.join(scores.scores(table, rows, TARGET))
    return verdicts.judge_iteration(entries.read_entry(6), table, TARGET, demanded)


def test_met_on_every_seed() -> None:
    verdict = judged((1, GOOD), (2, [*GOOD[:10], 50, 50, 50, 50, 40]))
    assert (verdict.answer, verdict.met, verdict.passing) == (Answer.MET, True, 2)
    assert verdict.answer == "met on every seed"
    assert verdict.seeds == (1, 2)
    assert verdict.reason == "lowest of the last 5 epochs 99.40 % (seed 1, epoch 15)"
    assert verdict.best == EpochScore(0.996, seed=2, epoch=15)
    assert verdict.final_accuracy == pytest.approx(0.995)
    assert verdict.final_accuracy_std == pytest.approx(0.001 * math.sqrt(2))
    # Of 10,000 digits 50 are wrong on average: 50 are as many as 9,950 x 0.005 + a quarter.
    assert 10_000 * verdict.luck == pytest.approx(math.sqrt(49.75))
    assert (verdict.parameters, verdict.receptive_field, verdict.epochs) == (7_416, 28, 15)


def test_met_on_some_seeds_names_those_that_fail() -> None:
    verdict = judged((1, GOOD), (2, LOW), (3, GOOD))
    assert (verdict.answer, verdict.met, verdict.passing) == ("met on some seeds", False, 2)
    assert verdict.reason == (
        "lowest of the last 5 epochs 99.39 % (seed 2, epoch 13); not met by seed 2"
    )


def test_a_one_epoch_wonder_is_not_met_and_said_to_be_one() -> None:
    verdict = judged((1, [80] * 14 + [40]), (2, [80] * 15))
    assert verdict.answer == "not met"
    assert verdict.reason == (
        "lowest of the last 5 epochs 99.20 % (seed 1, epoch 14); its best epoch, 99.60 % (seed 1, "
        "epoch 15), is at the bar, but one epoch is no pass"
    )


def test_too_few_epochs() -> None:
    verdict = judged((1, [10] * 4))
    assert (verdict.answer, verdict.reason) == ("too few epochs", "epochs run: only 4")
    assert verdict.worst is None


def test_too_large_and_too_long() -> None:
    verdict = judged((1, [10] * 16), parameters=6_379_786)
    assert verdict.answer == "not met"
    assert verdict.reason == (
        "at most 15 epochs are asked for, it has 16; "
        "fewer than 8,000 parameters are asked for, it has 6,379,786"
    )


def test_a_record_with_a_gap_is_named_beside_the_seeds_that_are_sound() -> None:
    verdict = judged((1, GOOD), (2, [*GOOD[:14], math.nan]), (3, LOW))
    assert verdict.passing == 1
    assert verdict.reason == (
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
    assert (first["model"], first["split"], first["title"]) == (
        6,
        "test",
        entries.read_entry(6).title,
    )
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
