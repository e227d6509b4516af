"""Numbers and texts as they are shown everywhere."""

import math

import pytest

from mnist_exp.common.words import duration, percent, points, ranges, read_ranges, seeds_named


def test_ranges() -> None:
    assert ranges([5, 1, 2, 3, 7]) == "1-3 5 7"
    assert ranges(range(101, 111)) == "101-110"
    assert read_ranges("1-3 5 7") == [1, 2, 3, 5, 7]
    assert read_ranges("4294967295") == [2**32 - 1]


def test_numbers_are_shown_one_way() -> None:
    assert percent(0.994) == "99.40 %"
    assert percent(9_939 / 10_000) == "99.39 %"
    assert percent(1) == "100.00 %"
    assert percent(0.99999) == percent(0.999901) == "99.99 %"
    assert percent(0.9999) == "99.99 %"
    assert percent(math.nan) == "–"
    assert points(0.0012) == "+0.12"
    assert points(-0.00002) == "-0.002"
    assert points(0.00006) == "+0.01"
    assert points(0) == "+0.00"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (192, "3 min 12 s"), (4530, "76 min")],
)
def test_a_duration_is_as_exact_as_it_is_of_use(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_seeds_are_one_or_several() -> None:
    assert seeds_named([3]) == "seed 3"
    assert seeds_named({5, 1, 2, 3}) == "seeds 1-3 5"
