"""Who wrote each digit, and the folds that share no writer."""

from pathlib import Path

import numpy as np
import pytest

from mnist_exp.common.errors import ExpectedError
from mnist_exp.data import Digits, writers
from mnist_exp.data.writers import Writers


def chosen(of: Writers, which: object) -> Writers:
    return Writers(of.number[which], of.series[which])  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def labels(mnist: tuple[Digits, Digits]) -> np.ndarray:
    return mnist[0].labels.numpy()


def test_what_is_known_of_the_writers() -> None:
    train, test = writers.writers("train"), writers.writers("test")
    assert (len(train.number), len(test.number)) == (60_000, 10_000)
    assert set(train.series) == set(test.series) == {0, 4}
    assert len(set(train.number)) == 539
    assert not set(train.number) & set(test.number)
    assert (test.series == 0).mean() == pytest.approx(0.5, abs=0.001)


def test_the_last_training_digits_are_no_split_by_writers() -> None:
    train = writers.writers("train")
    first, last = chosen(train, slice(50_000)), chosen(train, slice(50_000, None))
    known = np.isin(last.number, first.number)
    assert (len(set(last.number[known])), len(set(last.number))) == (251, 305)
    assert known.mean() == pytest.approx(0.408, abs=0.0005)
    assert (last.series == 0).mean() == pytest.approx(0.595, abs=0.0005)


def test_folds_share_no_writer_and_are_alike(labels: np.ndarray) -> None:
    train, fold = writers.writers("train"), writers.folds(labels)
    assert set(fold) == set(range(1, 1 + writers.FOLDS))
    for number in set(train.number):
        assert len(set(fold[train.number == number])) == 1
    kinds = [(series, label) for series in (0, 4) for label in range(10)]
    for series, label in kinds:
        of_kind = fold[(train.series == series) & (labels == label)]
        counts = np.bincount(of_kind, minlength=7)[1:]
        assert counts == pytest.approx(len(of_kind) / 6, rel=0.025)
    assert np.bincount(fold)[1:] == pytest.approx(10_000, rel=0.01)


def test_a_table_that_was_changed_is_refused(
    labels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(writers.FILE) as table:
        changed = dict(table)
    changed["train_writer"][0] = changed["train_writer"][1]
    np.savez(tmp_path / "writers.npz", **changed)
    monkeypatch.setattr(writers, "FILE", tmp_path / "writers.npz")
    with pytest.raises(ExpectedError, match="not as it was published"):
        writers.folds(labels)
