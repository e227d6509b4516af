"""Figures that compare iterations, from hand-made tables."""

import io

import pandas as pd
import pytest

from mnist_exp.evidence.effect import Effect
from mnist_exp.notebook import loading
from mnist_exp.showing import iterations

TARGET = loading.load_target()
PUBLIC = pd.DataFrame({"source": ["firekind/ERA4"], "parameters": [6_174], "lowest": [0.9942]})


def runs_and_history(seeds: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    ids = [f"{model}-{seed}" for model in (3, 6) for seed in range(seeds)]
    runs = pd.DataFrame({"run_id": ids, "model": [3] * seeds + [6] * seeds})
    runs["seed"] = [*range(seeds), *range(seeds)]
    rows = [
        {"run_id": run, "epoch": epoch, "train_accuracy": 0.98, "test_accuracy": 0.98 + place / 1e4}
        for place, run in enumerate(ids)
        for epoch in (1, 2)
    ]
    return runs, pd.DataFrame(rows)


def test_a_line_per_seed_and_their_mean_around_the_target() -> None:
    figure = iterations.accuracy_by_seed(*runs_and_history(3), TARGET)
    three, six = (axes for axes in figure.axes if axes.get_title())
    assert [axes.get_title() for axes in (three, six)] == ["model 3, 3 seeds", "model 6, 3 seeds"]
    lines = [list(line.get_ydata()) for line in six.get_lines()]
    assert len(lines) == 3 + 1 + 3 + 1 + 1  # seeds and mean, of train and of test; the target
    assert [0.9803, 0.9803] in lines
    assert any(line == pytest.approx([0.9804, 0.9804]) for line in lines)  # the mean of 3, 4 and 5
    assert [0.994, 0.994] in lines
    assert six.get_ylim() == (0.98, 1.0)


def test_runs_of_one_epoch_are_points_above_a_whole_number() -> None:
    runs, history = runs_and_history(1)
    axes = iterations.accuracy_by_seed(runs, history[history["epoch"] == 1], TARGET).axes[-1]
    test = [line for line in axes.get_lines() if list(line.get_ydata()) == [0.9801]]
    assert [line.get_marker() for line in test] == ["o", "o"]  # of the seed and the mean
    assert [tick for tick in axes.get_xticks() if 0.9 < tick < 1.1] == [1]


def test_many_seeds_become_a_band() -> None:
    figure = iterations.accuracy_by_seed(*runs_and_history(11), TARGET)
    axes = figure.axes[0]
    assert len(axes.get_lines()) == 3  # two means and the target
    band = axes.collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.98, 0.981))


def verdicts(*rows: tuple[int, int, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["model", "parameters", "worst_accuracy"])
    return table.assign(met=table["worst_accuracy"] >= 0.994)


def test_the_frontier_is_what_no_other_beats_in_both() -> None:
    table = verdicts(
        (1, 6_000_000, 0.995), (2, 7_000, 0.98), (3, 7_500, 0.991), (4, 7_500, 0.99),
        (5, 7_000, 0.97),
    )  # fmt: skip
    assert iterations.frontier(table)["model"].tolist() == [2, 3, 1]


def test_the_price_is_on_a_log_scale_with_the_limit_and_the_bar() -> None:
    figure = iterations.price(verdicts((6, 7_416, 0.9941), (1, 6_379_786, 0.9921)), TARGET, PUBLIC)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    vertical, horizontal = ([line for line in axes.get_lines() if test(line)] for test in (
        lambda line: list(line.get_xdata()) == [8000, 8000],
        lambda line: list(line.get_ydata()) == [0.994, 0.994],
    ))  # fmt: skip
    assert len(vertical) == len(horizontal) == 1
    passing, failing, public = (points.get_offsets().tolist() for points in axes.collections)
    assert passing == [[7_416, 0.9941]]
    assert failing == [[6_379_786, 0.9921]]
    assert public == [[6_174, 0.9942]]
    assert {text.get_text() for text in axes.texts} >= {"6", "1", "99.40 %", "off the scale: 1"}
    assert axes.get_xlim()[1] < 20_000


def test_where_all_are_far_from_the_target_they_are_on_the_scale() -> None:
    axes = iterations.price(verdicts((1, 6_379_786, 0.98)), TARGET, PUBLIC).axes[0]
    assert axes.get_xlim()[1] > 6_379_786
    assert axes.get_ylim()[0] < 0.98
    assert not any("off the scale" in text.get_text() for text in axes.texts)


def test_an_effect_without_an_interval_is_hollow() -> None:
    told = Effect(6, 5, (1, 2, 3), 0.002, (0.001, 0.003))
    figure = iterations.effects([told, Effect(7, 6, (1,), -0.001, None)])
    lines = figure.axes[0].get_lines()
    points = [line for line in lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == pytest.approx([0.2, -0.1])
    assert [line.get_markerfacecolor() for line in points] == [iterations.HELD_OUT, "none"]
    assert any(list(line.get_xdata()) == pytest.approx([0.1, 0.3]) for line in lines)


def test_no_verdict_and_no_run_still_draw() -> None:
    runs, history = runs_and_history(1)
    iterations.accuracy_by_seed(runs.head(0), history.head(0), TARGET).savefig(io.BytesIO())
    iterations.price(verdicts(), TARGET, PUBLIC).savefig(io.BytesIO())


def test_the_axes_fit_what_was_reached() -> None:
    runs, history = runs_and_history(3)
    history[["train_accuracy", "test_accuracy"]] -= 0.07  # the lowest of the last is 0.91
    axes = iterations.accuracy_by_seed(runs, history, TARGET, {3: "3 Ann", 6: "6 Bob"}).axes[0]
    assert axes.get_title() == "3 Ann, 3 seeds"
    assert axes.get_ylim() == (0.86, 1.0)  # half as much below as there is above, in whole percents
    assert [0.994, 0.994] in [list(line.get_ydata()) for line in axes.get_lines()]


def test_a_target_far_above_is_an_arrow() -> None:
    runs, history = runs_and_history(3)
    history[["train_accuracy", "test_accuracy"]] -= 0.48  # the best of the last is 0.5005
    axes = iterations.accuracy_by_seed(runs, history, TARGET).axes[0]
    assert axes.get_ylim() == (0.47, 0.56)
    assert [text.get_text() for text in axes.texts] == ["target 99.40 % ↑"]


def test_what_is_far_below_the_best_does_not_set_the_axes() -> None:
    assert iterations.shown_accuracies(pd.Series([0.97, 0.11, 0.95])) == (0.92, 1.0)
    assert iterations.shown_accuracies(pd.Series([0.11, 0.99])) == iterations.SHOWN


def test_effects_against_one_that_is_the_same_for_all_name_each() -> None:
    differences = [Effect(41, 6, (1,), -0.02, None), Effect(42, 6, (1,), 0.01, None)]
    axes = iterations.effects(differences, {41: "41 Ann", 42: "42 Bob"}, "validation").axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["41 Ann", "42 Bob"]
    said = "difference of final validation accuracy to model 6,\npercentage points"
    assert axes.get_xlabel() == said
