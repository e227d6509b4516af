"""Figures and Markdown, from hand-made tables."""

import dataclasses
import io
import time

import numpy as np
import pandas as pd

from mnist_exp import recipe, report
from mnist_exp.verdict import Condition, Verdict


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
    figure = report.curves(history("validation"), "validation", recipe.load_target())
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
    report.curves(long, "test", recipe.load_target()).savefig(io.BytesIO())
    assert time.perf_counter() - start < 5


def test_a_confusion_matrix_counts_truth_by_guess() -> None:
    counts = pd.DataFrame(0, index=pd.RangeIndex(10, name="truth"), columns=range(10))
    counts = counts.rename_axis(columns="guess")
    for truth, guess in [(3, 3), (3, 3), (3, 8), (5, 5), (9, 4)]:
        counts.loc[truth, guess] += 1
    axes = report.confusion_matrix(counts, "two errors").axes[0]
    shown = {(round(t.get_position()[0] - 0.5), round(t.get_position()[1] - 0.5)): t.get_text()
             for t in axes.texts if t.get_text() not in ("", "0")}  # fmt: skip
    assert shown == {(3, 3): "2", (8, 3): "1", (5, 5): "1", (4, 9): "1"}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("guess", "truth")


def test_a_sheet_shows_each_digit_under_its_label() -> None:
    figure = report.digit_sheet(np.zeros((12, 28, 28)), np.arange(12) % 10, "digits")
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "0", "1"]


def test_a_description_shows_text_as_text() -> None:
    iteration = recipe.load(5)
    sections = iteration.sections | {"Change": "<script>alert(1)</script> & more"}
    iteration = dataclasses.replace(iteration, sections=sections)
    text = report.run_description(iteration, "Target met.", "| table |")
    assert "**Change:** &lt;script>alert(1)&lt;/script> &amp; more" in text
    title = "## Model 5: rotate the training images"
    assert text.startswith(f"{title}\n\nTarget met.\n\n**Target:** narrow")
    assert text.endswith("\n\n| table |")


def test_a_verdict_table() -> None:
    verdict = Verdict((Condition("at most 15 epochs", "16", False), Condition("few", "7", True)))
    assert report.verdict_table(verdict).splitlines() == [
        "| condition | measured | met |",
        "|---|---|---|",
        "| at most 15 epochs | 16 | **no** |",
        "| few | 7 | yes |",
    ]
