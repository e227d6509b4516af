"""The short form of `make test-faults`."""

import random

import faults


def test_nothing_is_lost() -> None:
    random.seed(1)
    rows = faults.inject(kills=4, endings=1, others=1, seconds=100)
    assert {row.result for row in rows} <= {"nothing lost", "not injected"}, faults.table(rows)
    assert rows[0].injected >= 1
