"""Figures of iterations side by side, from hand-made tables."""

import io

import pandas as pd
import pytest

from mnist_exp.notebook import loading
from mnist_exp.showing import beside

TARGET = loading.load_target()
LABELS = {41: "41 Ann", 42: "42 Bob", 43: "43 $x$"}
RUNS = pd.DataFrame({"model": [41, 41, 42, 43, 43], "final_accuracy": [0.97, 0.98, 0.95, 0.3, 0.5]})


def test_a_point_per_seed_and_their_mean_in_a_row_per_name() -> None:
    figure = beside.final_by_seed(RUNS.head(3), LABELS, TARGET, "test")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["41 Ann", "42 Bob"]
    points, mean, *_ = axes.get_lines()
    assert list(points.get_xdata()) == [0.97, 0.98]
    assert list(mean.get_xdata()) == pytest.approx([0.975, 0.975])
    # 0.03 from end to end, of which a tenth is room; the target is nearer than that.
    assert axes.get_xlim() == pytest.approx((0.947, 0.997))
    assert [text.get_text() for text in axes.texts] == ["target 99.40 %"]


def test_what_is_far_below_the_best_is_named_at_the_edge() -> None:
    axes = beside.final_by_seed(RUNS, LABELS, None, "validation").axes[0]
    assert [text.get_text() for text in axes.texts] == ["← 30.00 %"]
    assert axes.get_xlim()[0] > 0.9
    assert axes.get_xlabel() == "validation accuracy after the last epoch"


def test_a_target_that_is_far_is_an_arrow() -> None:
    axes = beside.final_by_seed(RUNS.tail(2), LABELS, TARGET, "test").axes[0]
    assert [t.get_text() for t in axes.texts] == ["← 30.00 %", "target 99.40 % →"]


def test_sizes_name_each_and_what_is_off_the_scale() -> None:
    means = [0.975, 0.95, 0.4]
    table = pd.DataFrame({"model": [41, 42, 43], "final_accuracy": means})
    table["parameters"] = [5_000, 9_000, 12_000]
    figure = beside.sizes(table, LABELS, TARGET, "test")
    (axes,) = figure.axes
    assert axes.collections[0].get_offsets().tolist() == [[5_000, 0.975], [9_000, 0.95]]
    texts = {text.get_text() for text in axes.texts}
    assert texts == {"41 Ann", "42 Bob", "8,000 parameters", "99.40 %"}
    assert axes.get_title(loc="left") == "off the scale: 43 $x$ 40.00 %"
    figure.savefig(io.BytesIO())


def test_one_run_of_one_still_draws() -> None:
    beside.final_by_seed(RUNS[2:3], LABELS, TARGET, "test").savefig(io.BytesIO())
    one = pd.DataFrame({"model": [42], "final_accuracy": [0.95], "parameters": [9_000]})
    beside.sizes(one, LABELS, None, "validation").savefig(io.BytesIO())
