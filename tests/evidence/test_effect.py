"""Effects of steps, on hand-made tables with known answers."""

import pandas as pd
import pytest

from mnist_exp.evidence import effect as effects


def finals(**models: dict[int, float]) -> pd.DataFrame:
    rows = [
        (int(name[1:]), seed, value) for name, own in models.items() for seed, value in own.items()
    ]
    return pd.DataFrame(rows, columns=["model", "seed", "final_accuracy"])


def test_an_effect_is_paired_by_seed() -> None:
    runs = finals(m5={1: 0.98, 2: 0.99, 3: 0.97, 9: 0.5}, m6={1: 0.981, 2: 0.992, 3: 0.973, 4: 0.1})
    effect = effects.effect(runs, 6, 5)
    assert effect.seeds == (1, 2, 3)
    assert effect.mean == pytest.approx(0.002)
    assert effect.interval == pytest.approx((0.001, 0.003))
    assert not effect.worse
    assert effect.better
    assert effects.effect(runs, 5, 6).worse
    assert str(effect) == "+0.20 points, 95 % interval +0.10 to +0.30 (3 pairs)"


def test_two_pairs_are_not_enough_to_tell() -> None:
    runs = finals(m5={1: 0.98, 2: 0.99}, m6={1: 0.99, 2: 1.0}, m7={3: 0.9})
    effect = effects.effect(runs, 6, 5)
    assert effect.interval is None
    assert not effect.worse
    assert str(effect) == "not enough seeds to tell (2 pairs, mean +1.00)"
    assert str(effects.effect(runs, 7, 6)) == "not enough seeds to tell (0 pairs)"


def test_an_effect_that_is_the_same_on_every_seed() -> None:
    runs = finals(m5={1: 0.98, 2: 0.98, 3: 0.98}, m6={1: 0.98, 2: 0.98, 3: 0.98})
    assert effects.effect(runs, 6, 5).interval == (0, 0)
    assert not effects.effect(runs, 6, 5).worse


def test_an_error_of_rounding_is_no_effect() -> None:
    exact, rounded = 0.3, 0.1 + 0.2
    runs = finals(m5=dict.fromkeys((1, 2, 3), rounded), m6=dict.fromkeys((1, 2, 3), exact))
    assert exact < rounded
    assert not effects.effect(runs, 6, 5).worse
    assert not effects.effect(runs, 5, 6).better
