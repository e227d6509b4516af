"""What layers see, as texts and as a figure, from tables of small networks."""

import pandas as pd
import pytest
from matplotlib.axes import Axes
from torch import nn

from mnist_exp.notebook import loading
from mnist_exp.showing import fields
from mnist_exp.training.receptive_field import receptive_field_table

IMAGE = (1, 28, 28)


def bars(axes: Axes) -> list[tuple[float, float]]:
    """Where each bar begins, and how wide it is; the first patch is the band."""
    return [(bar.get_x(), bar.get_width()) for bar in axes.patches[1:]]


def test_a_receptive_field_is_a_bar_as_wide_as_what_is_seen() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 5))
    table = receptive_field_table(network, (1, 28, 28))  # 1, 3 and 3 + 4 pixels
    (axes,) = fields.receptive_field_growth(table).axes
    assert bars(axes) == [(-0.5, 1), (-1.5, 3), (-3.5, 7)]
    assert axes.get_xlabel() == "pixels seen; the shaded band is the input, 28 pixels wide"


def test_a_receptive_field_that_is_no_square_has_a_panel_for_each_side() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, (3, 5)), nn.Conv2d(2, 2, 3))
    table = receptive_field_table(network, (1, 28, 28))
    high, wide = fields.receptive_field_growth(table).axes
    assert bars(high) == [(-0.5, 1), (-1.5, 3), (-2.5, 5)]
    assert bars(wide) == [(-0.5, 1), (-2.5, 5), (-3.5, 7)]
    assert high.get_xlabel() == "pixels of the height seen, of 28"
    assert [text.get_text() for text in wide.texts] == ["1", "5", "7"]
    assert high.yaxis_inverted()
    assert wide.yaxis_inverted()


def test_each_use_of_a_layer_has_a_bar_and_a_name_of_its_own() -> None:
    twice = nn.Conv2d(2, 2, 3)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), twice, nn.ReLU(), twice)
    table = receptive_field_table(network, IMAGE)
    assert table["layer"].tolist() == ["input", "0", "1", "1"]
    (axes,) = fields.receptive_field_growth(table).axes
    assert bars(axes) == [(-0.5, 1), (-1.5, 3), (-2.5, 5), (-3.5, 7)]
    assert [bar.get_y() for bar in axes.patches[1:]] == pytest.approx([-0.35, 0.65, 1.65, 2.65])
    names = ["input", "0", "1 (use 1)", "1 (use 2)"]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert [text.get_text() for text in axes.texts] == ["1", "3", "5", "7"]
    assert fields.shown_fields(table)["layer"].tolist() == names


@pytest.mark.parametrize("number", [2, 12, 15, 21])
def test_what_is_printed_gives_the_field_of_the_next_row(number: int) -> None:
    network = loading.load_iteration(number).recipe.network()
    shown = fields.shown_fields(receptive_field_table(network, IMAGE))
    rows = shown.iloc[1:].drop(columns="layer").map(int)
    assert ("dilation" in shown) == (number in (15, 21))
    dilation = rows.get("dilation", 1)
    grown = rows["r_in"] + dilation * (rows["kernel"] - 1) * rows["j_in"]
    assert grown.tolist() == rows["r_out"].tolist()
    assert (rows["j_in"] * rows["stride"]).tolist() == rows["j_out"].tolist()


def test_sides_that_differ_are_shown_together() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, (3, 5), dilation=(1, 2)), nn.Conv2d(2, 2, 3))
    shown = fields.shown_fields(receptive_field_table(network, IMAGE))
    # 28 - 2 and 28 - 2 * 4 cells; 1 + 2 and 1 + 2 * 4 pixels; then two more of each.
    assert shown["kernel"].tolist() == ["", "3x5", "3"]
    assert shown["n_out"].tolist() == ["28", "26x20", "24x18"]
    assert shown["r_out"].tolist() == ["1", "3x9", "5x11"]
    assert shown["dilation"].tolist() == ["", "1x2", "1"]


def test_a_table_that_ends_early_says_why_in_its_figure() -> None:
    table = receptive_field_table(nn.Conv2d(1, 2, 3), IMAGE)
    figure = fields.receptive_field_growth(table, "layer mix mixes the images")
    words = "It is not known from here on: layer mix mixes the images"
    assert figure.get_supxlabel() == words
    assert fields.receptive_field_growth(table).get_supxlabel() == ""


def test_a_long_name_leaves_room_for_the_bars() -> None:
    rows = {"layer": ["input", "a." * 30 + "add"], "r_out": [1, 3], "n_out": [28, 26]}
    (axes,) = fields.receptive_field_growth(pd.DataFrame(rows)).axes
    (_, label) = (text.get_text() for text in axes.get_yticklabels())
    assert label == "a.a.a.a.a.a.a.a.a….a.a.a.a.a.a.add"


def test_what_comes_from_everywhere_is_marked() -> None:
    rows = {"layer": ["input", "a", "norm"], "r_out": [1, 3, 3], "n_out": [28, 26, 26]}
    table = pd.DataFrame(rows | {"global": [False, False, True]})
    (axes,) = fields.receptive_field_growth(table).axes
    assert [text.get_text() for text in axes.texts] == ["1", "3", "3 + global"]
    assert fields.shown_fields(table)["global"].tolist() == ["", "", "yes"]
    table["global"] = False
    assert "global" not in fields.shown_fields(table)
