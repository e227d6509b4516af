"""What a run says of itself when it has ended."""

import dataclasses

import pytest

from mnist_exp.evidence.verdict import Condition, RunVerdict
from mnist_exp.notebook import entries
from mnist_exp.showing import description

FIVE = entries.read_entry(5)
MET = RunVerdict((Condition("at most 15 epochs", "15", True),))


def test_the_result_comes_first_and_the_conditions_last() -> None:
    text = description.of_ended_run(
        FIVE, split="test", accuracy=0.9941, verdict=MET, receptive_field="28x30", table="/#/t"
    )
    title, result, *sections, table = text.split("\n\n")
    assert title == "## Model 5: rotate the training images"
    assert result == (
        "Target met. Final test accuracy 99.41 %. Receptive field 28x30 ([table](/#/t))."
    )
    assert [section.partition(":")[0] for section in sections] == [
        "**Target", "**Change", "**Expect", "**Analysis",
    ]  # fmt: skip
    assert table.endswith("| at most 15 epochs | 15 | yes |")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, ""),
        ({"receptive_field": "28"}, " Receptive field 28."),
        ({"overridden": "epochs=2"}, " Overridden: epochs=2."),
        ({"why_not_kept": "no *way*"}, r" The network could not be exported: no \*way\*"),
    ],
)
def test_what_there_is_nothing_to_say_of_is_left_out(said: dict[str, str], words: str) -> None:
    lost = dataclasses.replace(FIVE, sections={})
    text = description.of_ended_run(
        lost, split="validation", accuracy=0.99, verdict=None,
        **({"receptive_field": "", "table": ""} | said),
    )  # fmt: skip
    assert text == (
        "## Model 5: rotate the training images\n\nFinal validation accuracy 99.00 %." + words
    )
