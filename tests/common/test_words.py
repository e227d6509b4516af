"""Numbers as they are shown everywhere."""

import math

from mnist_exp.common.words import percent, points, ranges


def test_ranges() -> None:
    assert ranges([5, 1, 2, 3, 7]) == "1-3 5 7"
    assert ranges(range(101, 111)) == "101-110"


def test_numbers_are_shown_one_way() -> None:
    assert percent(0.994) == "99.40 %"
    assert percent(9_939 / 10_000) == "99.39 %"
    assert percent(1) == "100.00 %"
    assert percent(math.nan) == "–"
    assert points(0.0012) == "+0.12"
    assert points(-0.00002) == "-0.002"
    assert points(0.00006) == "+0.01"
    assert points(0) == "+0.00"
