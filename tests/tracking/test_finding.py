"""The run that is meant by an id, or by the beginning of one."""

import pandas as pd
import pytest
from handmade import record_run

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.tracking import finding

ONE, OTHER = "ab12" + "0" * 28, "ab12" + "1" * 28


@pytest.mark.usefixtures("store")
def test_a_run_is_found_by_what_its_id_begins_with() -> None:
    runs = [
        record_run(6, seed=seed, tags={"imported_from": original})
        for seed, original in ((1, ONE), (2, OTHER))
    ]
    for run_id, original in zip(runs, (ONE, OTHER), strict=True):
        for name in (run_id, run_id[:12], original, original[:5]):
            assert tracking.find_run(name)["run_id"].tolist() == [run_id]
    both = [OTHER[:5], ONE, runs[1]]
    assert tracking.find_runs(both)["run_id"].tolist() == runs[::-1]
    with pytest.raises(ExpectedError) as error:
        tracking.find_run("ab12")
    assert str(error.value) == (
        f"ab12 begins the ids of 2 runs: {runs[0][:8]} (model-6 · seed 1), {runs[1][:8]} "
        "(model-6 · seed 2); give more of its digits"
    )
    with pytest.raises(ExpectedError, match="no run ffff0000: make runs lists those it holds"):
        tracking.find_run("ffff0000")
    tracking.remove_run(runs[1])
    assert tracking.find_run("ab12")["run_id"].tolist() == [runs[0]]
    with pytest.raises(ExpectedError, match=f"run {runs[1]} was deleted: .* brings it back"):
        tracking.find_run(OTHER[:5])


def test_the_many_runs_that_a_beginning_may_mean_are_not_all_named() -> None:
    ids = [f"ab12{number}" for number in range(7)]
    runs = pd.DataFrame({"run_id": ids, "imported_from": None, "run_name": "mine", "short_id": ids})
    with pytest.raises(ExpectedError) as error:
        finding._place(runs, "ab12")
    assert "of 7 runs: ab120 (mine), " in str(error.value)
    assert "ab124 (mine) and 2 more; give more" in str(error.value)


@pytest.mark.parametrize(
    ("ids", "imported", "short"),
    [
        ([], [], []),
        (["0123456789", "0123456700"], [None, None], ["012345678", "012345670"]),
        (["0123456789", "abcdefabcd"], [None, None], ["01234567", "abcdefab"]),
        (["0123456789", "abcdefabcd"], [None, "0123456700"], ["012345678", "abcdefabc"]),
    ],
)
def test_ids_are_shortened_as_far_as_they_stay_apart(
    ids: list[str], imported: list[str | None], short: list[str]
) -> None:
    runs = pd.DataFrame({"run_id": ids, "imported_from": imported}, dtype=object)
    assert finding.short_ids(runs).tolist() == short
