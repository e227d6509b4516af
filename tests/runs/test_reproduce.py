"""How well runs agree that were trained twice."""

import pytest

from mnist_exp.runs.reproduce import EpochPair, agree

PAIRS = [
    EpochPair(epoch, recorded, now, identical=recorded == now)
    for epoch, (recorded, now) in enumerate([(0.5, 0.9), (0.99, 0.991), (0.992, 0.99)], start=1)
]


def test_accuracy_is_compared_in_the_last_epochs_that_the_target_looks_at() -> None:
    last_two, all_three = agree(PAIRS, last_epochs=2), agree(PAIRS, last_epochs=3)
    assert (last_two.reproduced, last_two.largest) == (True, pytest.approx(0.002))
    assert (all_three.reproduced, all_three.largest) == (False, pytest.approx(0.4))
    assert str(last_two) == (
        "Reproduced within 0.5 points: accuracy in the last 2 epochs differs by at most 0.20 "
        "points."
    )


def test_what_is_identical_in_every_epoch_is_said_to_be() -> None:
    same = [EpochPair(1, 0.5, 0.5, identical=True)]
    assert str(agree(same, last_epochs=5)) == "Reproduced: identical, bit for bit, in 1 epoch."
