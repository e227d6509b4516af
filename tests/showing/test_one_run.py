"""Figures of one run, from hand-made tables."""

import io
import time

import numpy as np
import pandas as pd

from mnist_exp.notebook import loading
from mnist_exp.showing import one_run


def history(split: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "train_accuracy": [0.9, 0.97, 0.98],
            "train_loss": [0.3, 0.1, 0.05],
            f"{split}_accuracy": [0.95, 0.98, 0.99],
            f"{split}_loss": [0.2, 0.08, 0.04],
        }
    )


def test_curves_draw_what_the_history_holds() -> None:
    figure = one_run.curves(history("validation"), "validation", loading.load_target())
    accuracy, loss = figure.axes
    lines = {line.get_label(): list(line.get_ydata()) for line in accuracy.get_lines()}
    assert lines["train"] == [0.9, 0.97, 0.98]
    assert lines["validation"] == [0.95, 0.98, 0.99]
    assert [0.994, 0.994] in lines.values()
    assert (accuracy.get_ylabel(), loss.get_ylabel()) == ("accuracy", "loss")


def test_curves_of_a_long_run_are_quick() -> None:
    long = pd.concat([history("test")] * 400, ignore_index=True)
    long["epoch"] = range(1, 1201)
    start = time.perf_counter()
    one_run.curves(long, "test", loading.load_target()).savefig(io.BytesIO())
    assert time.perf_counter() - start < 5


def test_a_confusion_matrix_counts_truth_by_guess() -> None:
    counts = pd.DataFrame(0, index=pd.RangeIndex(10, name="truth"), columns=range(10))
    counts = counts.rename_axis(columns="guess")
    for truth, guess in [(3, 3), (3, 3), (3, 8), (5, 5), (9, 4)]:
        counts.loc[truth, guess] += 1
    axes = one_run.confusion_matrix(counts, "two errors").axes[0]
    shown = {(round(t.get_position()[0] - 0.5), round(t.get_position()[1] - 0.5)): t.get_text()
             for t in axes.texts if t.get_text() not in ("", "0")}  # fmt: skip
    assert shown == {(3, 3): "2", (8, 3): "1", (5, 5): "1", (4, 9): "1"}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("guess", "truth")


def test_a_sheet_shows_each_digit_under_its_label() -> None:
    images = np.arange(1, 13)[:, None, None] * np.ones((12, 28, 28))
    figure = one_run.digit_sheet(images, np.arange(12) % 10, "digits")
    (axes,) = figure.axes
    sheet = axes.images[0].get_array()
    assert [text.get_text() for text in axes.texts] == [*"0123456789", "0", "1"]
    for text, image in zip(axes.texts, images, strict=True):  # each stands above its digit
        x, y = map(int, text.get_position())
        assert np.ma.is_masked(sheet[y - 2, x])
        assert np.array_equal(sheet[y + 2 : y + 30, x - 14 : x + 14], image)
