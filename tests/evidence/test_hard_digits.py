"""Mistakes of several seeds together, of outputs whose mistakes are known."""

import numpy as np
import pandas as pd
import pytest
import torch

from mnist_exp.data import Digits
from mnist_exp.evidence import hard_digits, mistakes, verdict
from mnist_exp.evidence.mistakes import Mistakes

TRUTH = [3, 3, 9, 0]


def seed(*guesses: int) -> Mistakes:
    """What a seed gets wrong that takes the four digits of TRUTH for these; each guess has the
    probability 9 / 18. Every pixel of a digit is its place."""
    images = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 1, 28, 28)
    output = torch.zeros(4, 10)
    output[range(4), list(guesses)] = torch.tensor(9.0).log()
    return mistakes.of_output(Digits(images, torch.tensor(TRUTH)), output)


THREE = [seed(3, 8, 4, 0), seed(3, 3, 4, 0), seed(3, 8, 7, 6)]


def test_each_digit_says_how_many_seeds_get_it_wrong() -> None:
    hard = hard_digits.together(THREE)
    rows = hard.digits[["index", "truth", "seeds", "guess"]].to_numpy().tolist()
    assert rows == [[2, 9, 3, 4], [1, 3, 2, 8], [3, 0, 1, 6]]
    assert hard.digits["probability"].tolist() == pytest.approx([0.5] * 3)
    assert hard.images[:, 0, 0].tolist() == [2, 1, 3]


def test_confusions_of_all_seeds_are_added() -> None:
    counts = hard_digits.together(THREE).counts
    assert counts.to_numpy().sum() == 12
    assert (counts.loc[3, 3], counts.loc[3, 8], counts.loc[9, 4], counts.loc[9, 7]) == (4, 2, 2, 1)


def test_hard_digits_stand_apart_from_luck() -> None:
    spread = hard_digits.together(THREE).spread
    assert spread["seeds"].tolist() == [1, 2, 3]
    assert spread["digits"].tolist() == [1, 1, 1]
    # Six of twelve guesses are wrong: by luck 3/8, 3/8 and 1/8 of the four digits.
    assert spread["by_luck"].tolist() == pytest.approx([1.5, 1.5, 0.5])


def test_seeds_scatter_by_luck_where_digits_are_wrong_for_some() -> None:
    hard = hard_digits.together(THREE)
    # 2, 1 and 3 of the four digits are wrong.
    assert hard.scatter == pytest.approx(1 / 4)
    # One digit is wrong for all three; of two that differ, each has a variance of 2 of 6.
    assert hard.lucky_scatter == pytest.approx((2 / 3) ** 0.5 / 4)
    alike = hard_digits.together([THREE[0], THREE[0]])
    assert (alike.scatter, alike.lucky_scatter) == (0, 0)
    assert str(hard_digits.together(THREE[:1]).lucky_scatter) == "nan"


def test_chance_is_found_where_there_is_nothing_else() -> None:
    wrong = np.random.default_rng(1).random((200, 1000)) < np.linspace(0, 0.2, 1000)
    runs = []
    for own in wrong:
        (places,) = own.nonzero()
        zeros = np.zeros_like(places)
        table = pd.DataFrame({"index": places, "truth": zeros, "guess": zeros + 1,
                              "probability": 0.5})  # fmt: skip
        counts = pd.DataFrame(0, range(10), range(10)).rename_axis("truth")
        counts.loc[0, 0], counts.loc[0, 1] = 1000 - len(places), len(places)
        runs.append(Mistakes(counts, table, np.zeros((len(places), 28, 28), np.uint8)))
    hard = hard_digits.together(runs)
    assert hard.scatter == pytest.approx(hard.lucky_scatter, rel=0.1)
    rates = np.linspace(0, 0.2, 1000)
    assert hard.lucky_scatter == pytest.approx((rates * (1 - rates)).sum() ** 0.5 / 1000, rel=0.02)
    assert hard.lucky_scatter < verdict.luck_alone(0.9, 1000)


def test_seeds_without_a_mistake_count() -> None:
    hard = hard_digits.together([seed(*TRUTH), seed(3, 8, 9, 0)])
    assert (hard.seeds, hard.digits["seeds"].tolist(), len(hard.images)) == (2, [1], 1)
    none = hard_digits.together([seed(*TRUTH)])
    assert (len(none.digits), none.spread["by_luck"].tolist()) == (0, [0])


def test_other_digits_are_refused() -> None:
    other = mistakes.of_output(Digits(torch.zeros(4, 1, 28, 28, dtype=torch.uint8),
                                      torch.tensor([3, 3, 3, 0])), torch.eye(10)[:4])  # fmt: skip
    with pytest.raises(ValueError, match="not of the same digits"):
        hard_digits.together([THREE[0], other])
