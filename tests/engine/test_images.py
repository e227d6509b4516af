"""Images prepared in compiled loops, against torch's operations."""

import math
import threading
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mnist_exp.augment import RandomAffine, RandomRotation, rotate, transform
from mnist_exp.data import Digits, normalise
from mnist_exp.engine import images as compiled
from mnist_exp.engine import library
from mnist_exp.preprocess import Deslant
from mnist_exp.views import Rotations

quick = settings(max_examples=60, deadline=None)
sides = st.integers(1, 40)
shapes = st.tuples(st.integers(1, 4), st.integers(1, 3), sides, sides)
seeds = st.integers(0, 2**32)


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    """Images of uniform noise: a pixel that comes from the wrong place shows."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def in_loops(prepare: Callable[[], Tensor]) -> Tensor:
    with compiled.compiled_loops():
        return prepare()


def sampled(images: Tensor, matrices: Tensor) -> Tensor:
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance, equal_nan=True)


@quick
@given(
    shape=shapes, seed=seeds, degrees=st.floats(-400, 400), scale=st.floats(0.3, 3),
    shifts=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
)  # fmt: skip
def test_a_transformed_image_is_torchs(
    shape: tuple[int, ...], seed: int, degrees: float, scale: float, shifts: tuple[float, float]
) -> None:
    images, n = drawn(shape, seed), shape[0]
    change = partial(
        transform, images, math.radians(degrees) + 0.1 * torch.arange(n), torch.full((n,), scale),
        torch.tensor(shifts)[:, None].repeat(1, n),
    )  # fmt: skip
    # A place of up to 200 pixels is known to 1e-5, and a pixel away may be another grey value.
    assert_close(in_loops(change), change(), 2e-4)


@quick
@given(shape=shapes, seed=seeds)
def test_any_matrix_is_torchs_in_float64(shape: tuple[int, ...], seed: int) -> None:
    images = drawn(shape, seed)
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.randn(shape[0], 2, 3, generator=generator)
    assert_close(
        compiled.warp(images, matrices).double(),
        sampled(images.double(), matrices.double()),
        1e-4,
    )


@quick
@given(shape=shapes, seed=seeds, angles=st.lists(st.floats(-720, 720), min_size=4, max_size=4))
def test_a_rotation_takes_torchs_very_pixels(
    shape: tuple[int, ...], seed: int, angles: list[float]
) -> None:
    turn = partial(rotate, drawn(shape, seed), torch.tensor(angles[: shape[0]]))
    assert torch.equal(in_loops(turn), turn())


@pytest.mark.parametrize("angle", [0, 1e-4, 7, -7, 15, 30, 45, 60, 90, -90, 180, 270, 360])
@pytest.mark.parametrize("size", [27, 28])
def test_so_it_does_at_round_angles(angle: float, size: int) -> None:
    turn = partial(rotate, drawn((3, 2, size, size), seed=1), torch.full((3,), float(angle)))
    assert torch.equal(in_loops(turn), turn())


@quick
@given(shape=shapes, seed=seeds, sparse=st.booleans())
def test_an_upright_image_is_torchs(shape: tuple[int, ...], seed: int, sparse: bool) -> None:
    images = 255 * drawn(shape, seed)
    if sparse:  # few pixels, far from each other, make great slants
        images = images * (drawn(shape, seed + 1) > 0.97)
    change = partial(Deslant(), images)
    assert_close(in_loops(change), change(), 0.1)  # of 255


@pytest.mark.parametrize("row", [slice(0), slice(5, 6), slice(20, 21)])
def test_an_image_without_ink_or_with_one_row_stays(row: slice) -> None:
    image = torch.zeros(1, 1, 28, 40)
    image[:, :, row, 3:30] = 255
    assert_close(in_loops(partial(Deslant(), image)), image, 1e-2)


@pytest.mark.parametrize(
    "change", [RandomRotation(7), RandomAffine(8, 0.1, 0.04), RandomAffine(180, 0.5, 0.5)]
)
def test_digits_are_varied_by_the_same_draws(
    mnist: tuple[Digits, Digits], change: RandomRotation | RandomAffine
) -> None:
    digits = mnist[0].images[:256].float()
    in_torch, in_compiled = (torch.Generator().manual_seed(3) for _ in range(2))
    expected = change(digits, in_torch)
    assert_close(in_loops(lambda: change(digits, in_compiled)), expected, 0.01)  # of 255
    assert torch.equal(in_torch.get_state(), in_compiled.get_state())


def test_digits_are_made_upright_normalised_and_viewed_alike(mnist: tuple[Digits, Digits]) -> None:
    digits = mnist[1].images[:1000].float()
    for prepare in (Deslant(), normalise, lambda x: torch.cat(list(Rotations((-8, 0, 8))(x)))):
        expected = prepare(digits)
        assert_close(in_loops(partial(prepare, digits)), expected, 4e-6 * float(expected.max()))
    assert torch.equal(normalise(digits.byte()), normalise(digits))


@pytest.mark.parametrize("prepare", [
    RandomAffine(8, 0.1, 0.04), lambda x, _: Deslant()(x), lambda x, _: normalise(x)
])  # fmt: skip
def test_the_loops_are_taken_within_the_block_and_nowhere_else(
    prepare: Callable[[Tensor, torch.Generator], Tensor], mnist: tuple[Digits, Digits]
) -> None:
    """They round otherwise than torch, so that it shows which of both has computed."""
    digits = mnist[0].images[:64].float()
    run = lambda: prepare(digits, torch.Generator().manual_seed(1))  # noqa: E731
    expected = run()
    beside = []
    with compiled.compiled_loops():
        assert not torch.equal(run(), expected)
        thread = threading.Thread(target=lambda: beside.append(run()))
        thread.start()
        thread.join()
    assert torch.equal(beside[0], expected)  # another thread has its own block
    with pytest.raises(KeyError), compiled.compiled_loops():
        raise KeyError
    assert torch.equal(run(), expected)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-30, 1e30, -3e38, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", range(6))
def test_extreme_matrices_do_what_they_do_in_torch(value: float, place: int) -> None:
    images = drawn((2, 2, 9, 12), seed=1) + 1
    matrices = torch.eye(2, 3).repeat(2, 1, 1)
    matrices[1].view(-1)[place] = value
    assert_close(compiled.warp(images, matrices), sampled(images, matrices), 1e-4)
    turns = torch.eye(2).repeat(2, 1, 1) / 6
    turns[1].view(-1)[place % 4] = value
    turned = compiled.turn(images, turns)
    assert torch.equal(turned[0], compiled.turn(images[:1], turns[:1])[0])
    if abs(value) > 1e6 or math.isnan(value):  # from outside, but for a middle that is no pixel's
        assert turned[1].count_nonzero() < turned[1].numel() / 5


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 3e38, -3e38])
def test_pixels_that_are_not_finite_are_not_hidden(value: float) -> None:
    images = 255 * drawn((2, 1, 9, 12), seed=1)
    images[1, 0, 4, 4] = value
    for prepare in (Deslant(), normalise, lambda x: compiled.turn(x, torch.eye(2).expand(2, 2, 2))):
        found = in_loops(partial(prepare, images))
        assert found[0].isfinite().all()
    assert not in_loops(partial(normalise, images))[1, 0, 4, 4].abs() < 1e30
    upright, expected = in_loops(partial(Deslant(), images)), Deslant()(images)
    if not math.isfinite(value):
        assert upright[1].isnan().all()
        assert expected[1].isnan().all()


def test_any_number_of_threads_gives_the_same_bits(mnist: tuple[Digits, Digits]) -> None:
    digits = mnist[0].images[:100].float()  # no multiple of what a thread takes at once

    def prepared(threads: int) -> Tensor:
        library.loaded().set_threads(threads)
        generator = torch.Generator().manual_seed(1)
        varied = RandomAffine(8, 0.1, 0.04)(RandomRotation(7)(digits, generator), generator)
        return Deslant()(varied)

    try:
        first, *others = (in_loops(partial(prepared, threads)) for threads in (1, 2, 3))
    finally:
        library.loaded().set_threads(1)
    assert all(torch.equal(other, first) for other in others)
    assert_close(first, prepared(1), 0.02)  # of 255


def test_memory_in_any_order_is_read_rightly() -> None:
    images = drawn((4, 3, 10, 14), seed=1)
    others = [
        images.contiguous(memory_format=torch.channels_last),
        images.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([images, images], dim=3)[..., :14],
        images[:1].expand(4, -1, -1, -1),
    ]
    angles = torch.stack([torch.arange(4.0), torch.arange(4.0)], dim=1)[:, 0]  # every second number
    for other in others:
        before = other.clone()
        for prepare in (partial(rotate, angles=angles), Deslant(), normalise):
            assert_close(in_loops(partial(prepare, other)), prepare(other.contiguous()), 1e-5)
        assert torch.equal(other, before)


def test_what_the_loops_cannot_do_is_torchs() -> None:
    images = drawn((2, 1, 28, 28), seed=1)
    with compiled.compiled_loops():
        assert compiled.takes(images)
        learned = images.clone().requires_grad_()
        normalise(learned).sum().backward()
        assert learned.grad is not None
        with torch.no_grad():
            assert compiled.takes(learned)
        assert not compiled.takes(images, learned)
        assert not compiled.takes(images.double())
        assert not compiled.takes(images.to("meta"))
        assert not compiled.takes(torch.nn.Parameter(images))
        assert not compiled.takes(images.to_sparse())
        assert not compiled.takes(torch.zeros(1, 1, 1, compiled.LONGEST + 1))
        assert normalise(torch.zeros(0, 1, 28, 28)).shape == (0, 1, 28, 28)
        assert normalise(torch.tensor(255)).item() == pytest.approx(2.8215, abs=1e-4)
        each = torch.vmap(normalise)(images)
    assert torch.equal(each, normalise(images))


def test_an_empty_batch_is_as_in_torch() -> None:
    def outcome(prepare: Callable[[], Tensor]) -> object:
        try:
            return prepare().shape
        except (RuntimeError, ValueError) as error:
            return str(error)

    for shape in ((0, 1, 28, 28), (2, 1, 0, 28), (2, 0, 28, 28)):
        images = torch.zeros(shape)
        for prepare in (Deslant(), normalise, partial(rotate, angles=torch.zeros(shape[0]))):
            run = partial(prepare, images)
            assert outcome(partial(in_loops, run)) == outcome(run)


def test_what_is_exported_within_the_block_holds_torchs_operations(
    mnist: tuple[Digits, Digits],
) -> None:
    class Upright(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return normalise(Deslant()(images.float()))

    digits = mnist[0].images[:8]
    with compiled.compiled_loops():
        batch = ({0: torch.export.Dim.AUTO},)
        exported = torch.export.export(Upright(), (digits,), dynamic_shapes=batch).module()
    assert torch.equal(exported(mnist[0].images[8:40]), Upright()(mnist[0].images[8:40]))


def test_images_that_do_not_fit_their_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match="a matrix each"):
        compiled.warp(torch.zeros(2, 1, 28, 28), torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="a matrix each"):
        compiled.deslant(torch.zeros(28, 28))
