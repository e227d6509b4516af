"""Networks that hypothesis draws: the derived field of each against the one that a gradient
shows."""

import pytest
from drawn_networks import Drawn, Layer, heads, layers, with_head
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from measured_field import measured_field

from mnist_exp.training.following import follow

sizes = st.integers(12, 30)


def check(drawn: list[Layer], size: int, head: str) -> None:
    """What is derived of each cell that is looked at is what is measured. It holds more where it
    counts padding: at the border of the image, and where padding takes the place of cells that a
    transposed convolution cut off."""
    is_cut = any(name == "transposed" for name, *_ in drawn)
    network = Drawn(drawn, size)
    module = with_head(network, head)
    found = follow(module, (1, size, size))
    assert found.field is not None, found.stops
    height, width = found.field
    middle = height.n // 2, width.n // 2
    border = {(0, 0), (height.n - 1, width.n - 1)}
    cells = set(border)
    for step in range(max(height.period, width.period)):
        cells |= {(min(middle[0] + step, height.n - 1), min(middle[1] + step, width.n - 1))}
    for cell in sorted(cells):
        spans = [axis.span(place) for axis, place in zip(found.field, cell, strict=True)]
        measured = measured_field(module, (1, size, size), cell)
        if measured is None:  # it sees padding alone
            assert any(first < 0 or end > size for first, end in spans), cell
            continue
        for derived, (first, end) in zip(spans, measured, strict=True):
            if derived[0] >= 0 and derived[1] <= size and not (is_cut and cell in border):
                assert derived == (first, end), cell
            else:
                assert derived[0] <= first, cell
                assert end <= derived[1], cell


fast = settings(
    deadline=None, derandomize=True, max_examples=40, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


SHUFFLED = [
    ("conv", (3, 4), (3, 3), (2, 0), (2, 1), 1, "reflect"), ("pixels",), ("transposed", 3, 2, 1, 0),
    ("again", 0), ("pixels",), ("pixels",),
]  # fmt: skip
CUT_OFF = [("transposed", 3, 2, 2, 2), ("conv", (1, 2), (2, 3), (1, 2), (1, 2), 4, "zeros")]


@fast
@example(drawn=SHUFFLED, size=12, head="none")
@example(drawn=CUT_OFF, size=14, head="linear")
@given(layers, sizes, heads)
def test_the_field_of_a_drawn_network_is_the_measured_one(
    drawn: list[Layer], size: int, head: str
) -> None:
    check(drawn, size, head)


@pytest.mark.slow
@settings(fast, max_examples=500)
@given(layers, sizes, heads)
def test_the_fields_of_many_drawn_networks_are_the_measured_ones(
    drawn: list[Layer], size: int, head: str
) -> None:
    check(drawn, size, head)
