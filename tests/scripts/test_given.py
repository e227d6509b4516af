"""An accuracy that a script gives is a count of digits, exactly, or refused."""

from typing import Any

import numpy as np
import pytest
import torch

from mnist_exp.scripts.given import digits_right


def test_a_count_is_exact_in_every_form() -> None:
    for correct in range(10_001):
        fractions = correct / 10_000, np.float32(correct / 10_000), (correct, 10_000)
        assert [digits_right("test", fraction, 10_000) for fraction in fractions] == [correct] * 3
    right = torch.arange(10_000) < 9_912
    assert digits_right("test", right.float().mean(), 10_000) == 9_912
    assert digits_right("test", (right.sum(), 10_000), 10_000) == 9_912


@pytest.mark.parametrize(
    ("accuracy", "why"),
    [
        (99.12, "is a fraction, as in test=0.9912"),
        (-0.1, "is a fraction"),
        (float("nan"), "is a fraction"),
        (0.99125, "is no whole number of 10,000 digits"),
        (0.991_200_5, "is no whole number"),
        (True, "a number is needed"),
        ("0.99", "a number is needed"),
        (torch.ones(3), "a number is needed"),
        ((9_912, 9_999), "of 10,000 digits, which the split has"),
        ((10_001, 10_000), "of 10,000 digits"),
        ((9_912.5, 10_000), r"as in test=0.9912, or test=\(9912, 10000\)"),
        ((1, 2, 3), "of how many"),
    ],
)
def test_an_accuracy_that_is_no_count(accuracy: Any, why: str) -> None:
    with pytest.raises((TypeError, ValueError), match=why) as raised:
        digits_right("test", accuracy, 10_000)
    assert str(raised.value).startswith("test=")
    assert "\n" not in str(raised.value)
