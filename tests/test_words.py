"""Numbers and texts as they are shown everywhere."""

import pytest

from mnist_exp.common.words import duration, seeds_named


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (192, "3 min 12 s"), (4530, "76 min")],
)
def test_a_duration_is_as_exact_as_it_is_of_use(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_seeds_are_one_or_several() -> None:
    assert seeds_named([3]) == "seed 3"
    assert seeds_named({5, 1, 2, 3}) == "seeds 1-3 5"
