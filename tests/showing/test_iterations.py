"""Figures that compare iterations, from hand-made tables."""

import io

import pandas as pd
import pytest

from mnist_exp.evidence.effect import Effect
from mnist_exp.notebook import loading
from mnist_exp.showing import iterations, limits

TARGET = loading.load_target()
PUBLIC = pd.DataFrame({"source": ["firekind/ERA4"], "parameters": [6_174], "lowest": [0.9942]})


def runs_and_history(seeds: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    ids = [f"{model}-{seed}" for model in (3, 6) for seed in range(seeds)]
    runs = pd.DataFrame({"run_id": ids, "model": [3] * seeds + [6] * seeds})
    runs["seed"] = [*range(seeds), *range(seeds)]
    rows = [
        {
            "run_id": run,
            "epoch": epoch,
            "train_accuracy": 0.98,
            "test_accuracy": 0.9938 + place / 1e4,
        }
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
    assert [0.9941, 0.9941] in lines
    assert any(line == pytest.approx([0.9942, 0.9942]) for line in lines)  # the mean of 3, 4 and 5
    assert [0.994, 0.994] in lines
    # From the bar to the best, with some room, but never less than 0.1 points in all.
    assert six.get_ylim() == pytest.approx((0.99388, 0.99442))


def test_runs_of_one_epoch_are_points_above_a_whole_number() -> None:
    runs, history = runs_and_history(1)
    axes = iterations.accuracy_by_seed(runs, history[history["epoch"] == 1], TARGET).axes[-1]
    test = [line for line in axes.get_lines() if list(line.get_ydata()) == [0.9939]]
    assert [line.get_marker() for line in test] == ["o", "o"]  # of the seed and the mean
    assert [tick for tick in axes.get_xticks() if 0.9 < tick < 1.1] == [1]


def test_many_seeds_become_a_band() -> None:
    figure = iterations.accuracy_by_seed(*runs_and_history(11), TARGET)
    axes = figure.axes[0]
    assert len(axes.get_lines()) == 3  # two means and the target
    band = axes.collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.9938, 0.9948))


def verdicts(*rows: tuple[int, int, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["model", "parameters", "worst_accuracy"])
    met = table["worst_accuracy"] >= 0.994
    return table.assign(met=met, passing=met + (table["worst_accuracy"] > 0.9938))


def test_the_frontier_is_what_no_other_beats_in_both() -> None:
    table = verdicts(
        (1, 6_000_000, 0.995), (2, 7_000, 0.98), (3, 7_500, 0.991), (4, 7_500, 0.99),
        (5, 7_000, 0.97),
    )  # fmt: skip
    assert iterations.frontier(table)["model"].tolist() == [2, 3, 1]


def test_the_price_is_on_a_log_scale_with_the_limit_and_the_bar() -> None:
    figure = iterations.price(verdicts((6, 7_416, 0.9941), (1, 6_379_786, 0.9921)), TARGET, PUBLIC)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    vertical, horizontal = ([line for line in axes.get_lines() if test(line)] for test in (
        lambda line: list(line.get_xdata()) == [8000, 8000],
        lambda line: list(line.get_ydata()) == [0.994, 0.994],
    ))  # fmt: skip
    assert len(vertical) == len(horizontal) == 1
    passing, some, failing, public = (each.get_offsets().tolist() for each in axes.collections)
    assert some == []
    assert passing == [[7_416, 0.9941]]
    ((x, y),) = failing  # at the edge, since it is far larger
    assert y == 0.9921
    assert 8_000 < x < axes.get_xlim()[1] < 20_000
    assert public == [[6_174, 0.9942]]
    assert {text.get_text() for text in axes.texts} >= {"6", "1 →", "99.40 %"}


def test_what_is_far_below_the_bar_is_below_a_break_of_the_axis() -> None:
    table = verdicts((6, 7_416, 0.9941), (2, 7_272, 0.979), (5, 7_448, 0.9878))
    upper, lower = iterations.price(table, TARGET, PUBLIC).axes
    assert upper.get_ylim()[0] > 0.99
    assert lower.get_ylim() == pytest.approx((0.979 - 0.12 * 0.0088, 0.9878 + 0.12 * 0.0088))
    assert {"2", "5"} <= {text.get_text() for text in lower.texts}
    assert not upper.spines["bottom"].get_visible()


def test_few_iterations_have_their_names_and_many_their_numbers() -> None:
    def texts(count: int) -> set[str]:
        table = verdicts(*((model, 7_000 + model, 0.994) for model in range(count)))
        labels = {model: f"{model} Ann" for model in range(count)}
        axes = iterations.price(table, TARGET, PUBLIC.head(0), labels).axes[0]
        assert axes.get_legend_handles_labels()[1][-1] != "public, one seed"
        return {text.get_text() for text in axes.texts}

    assert texts(12) >= {"0 Ann", "11 Ann"}
    assert texts(13) >= {"0", "12"}


def test_where_all_are_far_from_the_target_they_are_on_the_scale() -> None:
    axes = iterations.price(verdicts((1, 6_379_786, 0.98)), TARGET, PUBLIC).axes[0]
    assert axes.get_xlim()[1] > 6_379_786
    assert axes.get_ylim()[0] < 0.98
    assert not any("off the scale" in text.get_text() for text in axes.texts)


def test_a_bar_out_of_sight_takes_no_room() -> None:
    figure = iterations.price(verdicts((41, 170, 0.08), (42, 170, 0.2)), TARGET, PUBLIC.head(0))
    figure.savefig(io.BytesIO())  # which would warn that nothing is left for the axes
    assert figure.axes[0].yaxis.get_tightbbox().x0 >= 0


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


def test_a_target_far_above_is_an_arrow_and_does_not_flatten_the_curves() -> None:
    runs, history = runs_and_history(3)
    history[["train_accuracy", "test_accuracy"]] -= 0.07  # to 0.9238, 0.9239, 0.924 of model 3
    axes = iterations.accuracy_by_seed(runs, history, TARGET, {3: "3 Ann", 6: "6 Bob"}).axes[0]
    assert axes.get_title() == "3 Ann, 3 seeds"
    assert axes.get_ylim() == pytest.approx((0.92368, 0.92412))
    assert [text.get_text() for text in axes.texts] == ["target 99.40 % ↑"]


def test_a_training_that_failed_does_not_set_the_axes() -> None:
    history = pd.DataFrame({"epoch": [1, 2, 2, 2], "a": [0.5, 0.97, 0.11, 0.95]})
    assert limits.of_curves(history, "a", None) == pytest.approx((0.9476, 0.9724))
    assert limits.near([0.11, 0.5], None) == [0.5]
    assert limits.near([0.98, 0.9905, 0.995], 0.994) == [0.995]
    assert limits.near([0.98, 0.9911, float("nan")], 0.994) == [0.9911]


def test_more_panels_than_can_be_read_are_shared_by_families() -> None:
    few = list(range(1, 31))
    assert iterations.in_panels(few, {}) == [[model] for model in few]
    many = list(range(1, 32))
    families = {model: model % 3 for model in many}
    assert iterations.in_panels(many, families)[0] == [1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31]
    assert iterations.in_panels(many, {})[:2] == [[1, 2], [3, 4]]  # neighbours, without families
    runs = pd.DataFrame({"run_id": many, "model": many, "seed": 1})
    history = pd.DataFrame({"run_id": many, "epoch": 1, "train_accuracy": 0.9, "test_accuracy": 1})
    panels = iterations.accuracy_by_seed(runs, history, TARGET, families=families).axes
    assert len([axes for axes in panels if axes.get_legend()]) == 3


def test_an_effect_that_would_flatten_the_others_has_a_panel_of_its_own() -> None:
    small = [Effect(model, model - 1, (1,), 0.0001 * model, None) for model in (2, 3, 4)]
    assert len(iterations.effects(small).axes) == 1
    enlarged, whole = iterations.effects([*small, Effect(5, 4, (1,), 0.01, None)]).axes
    assert enlarged.get_xlim() == pytest.approx((-0.175, 0.175))  # five times the median, 0.035
    assert whole.get_xlim()[1] > 1
    (arrow,) = [line for line in enlarged.get_lines() if line.get_marker() in ("<", ">")]
    assert (arrow.get_marker(), arrow.get_xydata().tolist()) == (">", [pytest.approx([0.175, 3])])


def test_effects_against_one_that_is_the_same_for_all_name_each() -> None:
    differences = [Effect(41, 6, (1,), -0.02, None), Effect(42, 6, (1,), 0.01, None)]
    axes = iterations.effects(differences, {41: "41 Ann", 42: "42 Bob"}, "validation").axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["41 Ann", "42 Bob"]
    said = "difference of final validation accuracy to model 6,\npercentage points"
    assert axes.get_xlabel() == said
