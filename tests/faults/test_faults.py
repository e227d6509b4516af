"""The short form of `make test-faults`."""

import random

import inject
import pytest


@pytest.mark.slow
def test_nothing_is_lost() -> None:
    random.seed(1)
    rows = inject.inject(inject.FEW, models=(6,), seconds=60)  # dropout, augmentation, a schedule
    assert {row.result for row in rows} <= {"nothing lost", "not injected"}, inject.table(rows)
    assert rows[0].injected
