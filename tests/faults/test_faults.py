"""The short form of `make test-faults`, and how it judges."""

import random

import inject
import pytest
from trials import Row


@pytest.mark.slow
def test_nothing_is_lost() -> None:
    random.seed(1)
    rows = inject.inject(inject.FEW, models=(6,), seconds=60)  # dropout, augmentation, a schedule
    assert not any(row.failed for row in rows), inject.table(rows)


@pytest.mark.parametrize(
    ("row", "result", "failed"),
    [
        (Row("x", injected=1, runs=1), "nothing lost", False),
        (Row("x", injected=1, runs=1, points_lost=1), "LOST", True),
        (Row("x"), "NOT INJECTED", True),
        (Row("x", takes="root"), "not tried", False),
        (Row("x", runs_lost=1), "LOST", True),
    ],
)
def test_a_fault_that_was_not_injected_is_a_failure(row: Row, result: str, failed: bool) -> None:
    assert (row.result, row.failed) == (result, failed)
    assert result in inject.table([row])
    assert ("it takes root" in inject.table([row])) == bool(row.takes)
