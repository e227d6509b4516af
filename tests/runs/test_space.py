"""Spaces as text, and what a recipe takes of them."""

from functools import partial

import pytest
from torch import nn
from torch.optim import SGD

from mnist_exp.augment import RandomRotation
from mnist_exp.common.errors import ExpectedError
from mnist_exp.recipe import ExponentialAverage, Recipe
from mnist_exp.runs.space import Choices, Range, read_space, space_text

RECIPE = Recipe(
    network=nn.Identity, batch_size=64, epochs=15, optimizer=partial(SGD, lr=0.1),
    augment=RandomRotation(degrees=7), averaging=ExponentialAverage(decay=0.9),
)  # fmt: skip


def test_a_space_has_ranges_and_lists() -> None:
    text = "learning_rate=0.01..1:log batch_size=16..128 averaging.every=1..8:log "
    text += "augment=none averaging.decay=0.9..0.999 optimizer.nesterov=False,True epochs=5,15"
    space = read_space(text, RECIPE, None)
    assert space == {
        "augment": Choices((None,)),
        "averaging.decay": Range(0.9, 0.999, log=False),
        "averaging.every": Range(1, 8, log=True),
        "batch_size": Range(16, 128, log=False),
        "epochs": Choices((5, 15)),
        "optimizer.lr": Range(0.01, 1.0, log=True),
        "optimizer.nesterov": Choices((False, True)),
    }
    assert [name for name, x in space.items() if isinstance(x, Range) and x.whole] == [
        "averaging.every", "batch_size",
    ]  # fmt: skip
    assert read_space(space_text(space), RECIPE, None) == space
    assert space_text(space).startswith(
        "augment=none averaging.decay=0.9..0.999 averaging.every=1..8"
    )


@pytest.mark.parametrize(
    ("low", "high", "value", "short"),
    [
        (0.01, 0.3, 0.02515447463986303, 0.02515),
        (0.99, 0.9999, 0.99123456, 0.991235),
        (0.12341, 0.9, 0.123411, 0.12341),
        (-5.0, 5.0, -1.23456, -1.235),
        (1e-9, 1.0, 1.23456e-8, 1.235e-8),
        (0.0, 1.0, 0.0, 0.0),
        (1, 200_000, 123_456, 123_456),
        (-1e308, 1e308, 1.23456e307, 1.235e307),
    ],
)
def test_a_value_of_a_range_is_short_and_within(
    low: float, high: float, value: float, short: float
) -> None:
    assert Range(low, high, log=False).short(value) == short


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "SPACE= is needed, as in optimizer.lr=0.01..0.3:log"),
        ("optimizer.lr", "optimizer.lr: NAME=value is needed"),
        ("optimizer.lr=0..1:log", "a logarithm is of numbers above 0"),
        ("optimizer.lr=-1..1:log", "a logarithm is of numbers above 0"),
        ("optimizer.lr=1..0.1", "optimizer.lr=1..0.1: a range goes up"),
        ("optimizer.lr=1..1.0", "a range goes up"),
        ("optimizer.lr=1..2..3", "optimizer.lr=2..3: a number"),
        ("optimizer.lr=a..b", "optimizer.lr=a: a number"),
        ("optimizer.lr=0.1..0.2:exp", "behind a range stands :log or nothing"),
        ("optimizer.nesterov=False..True", "a range goes from a number to another"),
        ("batch_size=16.5..32", "batch_size=16.5: a whole number is needed"),
        (
            "optimizer.lr=0.01-0.2",
            "=0.01-0.2: did you mean 0.01..0.2? a range is written 0.01..0.2",
        ),
        ("optimizer.lr=1e-4:1e-2:log", "did you mean 1e-4..1e-2:log? a range is written"),
        ("optimizer.lr=0.1...2", "optimizer.lr=0.1...2: a range is written 0.01..0.2"),
        ("optimizer.lr=uniform(0,1)", "optimizer.lr=uniform(0,1): a range is written 0.01..0.2"),
        ("optimizer.lrr=0.1..1", "optimizer has no lrr"),
        ("averaging.decay=0.5..2", "averaging.decay=2: decay must be in 0..1"),
        ("batch_size=32,0", "batch_size=0: batch_size must be a whole number"),
        ("epochs=1..3", "epochs is given twice, by EPOCHS= and by SPACE="),
        ("augment=none augment.degrees=1..2", "augment is in the space as well"),
        ("optimizer.lr=0.1..1 learning_rate=0.1..1", "optimizer.lr is given twice"),
        ("optimizer.lr='0.1..1'", "optimizer.lr='0.1..1': a number is needed"),
        ("optimizer.lr=__import__('os')..1", "optimizer.lr=__import__"),
    ],
)
def test_a_wrong_space_is_one_line_that_names_the_field(text: str, said: str) -> None:
    with pytest.raises(ExpectedError) as refused:
        read_space(text, RECIPE, 2)
    assert said in str(refused.value)
