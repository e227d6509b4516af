"""What a network gets wrong, from outputs whose mistakes are known."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from handmade import record_run

from mnist_exp.data import Digits
from mnist_exp.evidence import mistakes
from mnist_exp.evidence.mistakes import Mistakes
from mnist_exp.evidence.mistakes_archive import read_archive, write_archive
from mnist_exp.tracking import RunWriter


def some_mistakes() -> Mistakes:
    """Of four digits, a 3 that is taken for an 8 and a 9 that is taken for a 4."""
    images = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 1, 28, 28)
    output = torch.zeros(4, 10)
    # softmax of log(9) beside nine zeros: 9 / 18
    output[range(4), [3, 8, 4, 0]] = torch.tensor(9.0).log()
    return mistakes.of_output(Digits(images, torch.tensor([3, 3, 9, 0])), output)


def test_mistakes_are_counted_by_truth_and_guess() -> None:
    counts = some_mistakes().counts
    assert (counts.index.name, counts.columns.name) == ("truth", "guess")
    cells = {(3, 3): 1, (3, 8): 1, (9, 4): 1, (0, 0): 1}
    assert {place: counts.loc[place] for place in cells} == cells
    assert counts.to_numpy().sum() == 4


def test_each_misclassified_digit_stands_with_its_guess_and_image() -> None:
    wrong = some_mistakes()
    rows = wrong.misclassified.to_dict("records")
    assert [(row["index"], row["truth"], row["guess"]) for row in rows] == [(1, 3, 8), (2, 9, 4)]
    assert [row["probability"] for row in rows] == pytest.approx([0.5, 0.5])
    assert wrong.images[:, 5, 5].tolist() == [1, 2]


def same(one: Mistakes, other: Mistakes) -> bool:
    pd.testing.assert_frame_equal(one.counts, other.counts)
    pd.testing.assert_frame_equal(one.misclassified, other.misclassified, check_dtype=False)
    return bool((one.images == other.images).all())


def without_a_mistake() -> Mistakes:
    digits = Digits(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.tensor([7]))
    return mistakes.of_output(digits, torch.eye(10)[[7]])


@pytest.mark.parametrize("made", [some_mistakes, without_a_mistake])
@pytest.mark.usefixtures("store")
def test_a_run_gives_them_back(made: Callable[[], Mistakes]) -> None:
    wrong = made()
    run_id = record_run(6)
    assert mistakes.mistakes_of(run_id) is None
    wrong.record(RunWriter(run_id, "1", 0))
    kept = mistakes.mistakes_of(run_id)
    assert kept is not None
    assert same(kept, wrong)


def of_labels(guesses: list[int]) -> Mistakes:
    """Of the same four digits, taken for these."""
    images = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 1, 28, 28)
    output = torch.zeros(4, 10)
    output[range(4), guesses] = torch.tensor(9.0).log()
    return mistakes.of_output(Digits(images, torch.tensor([3, 3, 9, 0])), output)


def test_an_archive_gives_back_what_each_run_gets_wrong(tmp_path: Path) -> None:
    found = {
        "a": some_mistakes(), "b": of_labels([3, 3, 9, 0]), "c": of_labels([8, 8, 9, 0]),
        "of other digits": without_a_mistake(),
    }  # fmt: skip
    write_archive(found, tmp_path / "mistakes")
    again = read_archive(tmp_path / "mistakes")
    assert again.keys() == {"a", "b", "c"}
    assert all(same(again[name], found[name]) for name in again)
    assert len(pd.read_csv(tmp_path / "mistakes" / "digits.csv")) == 3  # each is there once


def test_an_archive_of_runs_without_a_mistake_has_no_picture(tmp_path: Path) -> None:
    folder = tmp_path / "mistakes"
    write_archive({"a": without_a_mistake()}, folder)
    assert not (folder / "digits.png").exists()
    assert same(read_archive(folder)["a"], without_a_mistake())
    assert read_archive(tmp_path / "nothing") == {}


@pytest.mark.parametrize(
    "line", ["1>8:0.5 2", "1>8", "7>8:0.5", "1>8:x", "1>99:0.5", "1>8:0.5 1>9:0.1"]
)
def test_a_line_of_an_archive_that_is_none_is_refused(line: str, tmp_path: Path) -> None:
    folder = tmp_path / "mistakes"
    write_archive({"a": some_mistakes()}, folder)
    (folder / "runs.csv").write_text(f"run_id,wrong\na,{line}\n")
    with pytest.raises((KeyError, ValueError)):
        read_archive(folder)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    wrong = some_mistakes()
    for other in (
        {"images": wrong.images[:1]},
        {"misclassified": wrong.misclassified.head(1)},
        {"counts": wrong.counts.head(9)},
    ):
        with pytest.raises(ValueError, match="count"):
            dataclasses.replace(wrong, **other)


def test_digits_lie_ten_in_a_row() -> None:
    images = np.arange(1, 14, dtype=np.uint8)[:, None, None] * np.ones((28, 28), np.uint8)
    sheet = mistakes.rows_of_ten(images)
    assert sheet.shape == (56, 280)
    assert (sheet[28:, 56:84] == 13).all()
    assert (sheet[28:, 84:] == 0).all()
    assert (mistakes.from_rows(sheet, 13) == images).all()
