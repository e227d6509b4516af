"""Settings as text: the same for the same settings, in every process."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch.optim import SGD

from mnist_exp.common.values import as_text


def power(base: float) -> Callable[[int], float]:
    return lambda epoch: base**epoch


@dataclass(frozen=True)
class Setting:
    rule: Callable[[int], float]


class Plain:
    def __init__(self, size: int) -> None:
        self.size = size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"), (3, "3"), ("cos", "cos"), (None, "None"), (True, "True"),
        ((0.9, 0.999), "(0.9, 0.999)"), ((1,), "(1,)"), ([1, "a"], "[1, 'a']"),
        ({"a": [1]}, "{'a': [1]}"), (SGD, "SGD"), (len, "len"),
        (torch.tensor(0.5), "tensor(0.5000)"),
        (partial(SGD, lr=0.1, name="x"), "SGD(lr=0.1, name='x')"), (Plain(3), "Plain(size=3)"),
    ],
)  # fmt: skip
def test_settings_read_as_they_were_written(value: object, text: str) -> None:
    assert as_text(value) == text


def falling() -> Callable[[int], float]:
    def rate(epoch: int) -> float:
        return rate(epoch - 1) * 0.9 if epoch else 1.0

    return rate


def test_what_refers_to_itself_has_a_text() -> None:
    assert as_text(falling()) == as_text(falling())


def test_functions_are_told_apart_by_what_they_do() -> None:
    assert as_text(power(0.9)) == as_text(power(0.9)) != as_text(power(0.8))
    assert as_text(lambda x: x + 1) == as_text(lambda x: x + 1) != as_text(lambda x: x + 2)
    assert as_text(lambda x, y=1: x + y) != as_text(lambda x, y=2: x + y)
    assert as_text(Setting(power(0.9))) == as_text(Setting(power(0.9)))
    assert as_text(Setting(power(0.9))) != as_text(Setting(power(0.8)))
    assert as_text([power(0.9)]) != as_text([power(0.8)])


def test_another_process_gives_the_same_text() -> None:
    program = (
        "from mnist_exp.common.values import as_text\n"
        "print(as_text([lambda x: x in {'a', 'b', 'c'}, lambda: (lambda: 1), {'d', 'e', 'f'}]))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(texts) == 1
