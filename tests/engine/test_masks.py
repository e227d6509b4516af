"""Dropout by the engine: how much is dropped, that nothing else tells what, and the way back."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from against_torch import assert_near, in_engine, noise
from torch import Tensor, nn

ONES = torch.ones(400, 4, 10, 10)


class Twice(nn.Module):
    """The same numbers, dropped by two layers."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.one, self.other = nn.Dropout(p), nn.Dropout(p)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), self.other(x)


def kept(network: nn.Module, seed: int, images: Tensor = ONES) -> Tensor:
    """1 where a number is kept and 0 elsewhere, float32."""
    torch.manual_seed(seed)
    output, names = in_engine(network, images)
    assert names == ()
    return (output != 0).float()


@pytest.mark.parametrize("p", [0.03, 0.1, 0.25, 0.5, 0.9])
def test_as_many_are_dropped_as_asked_for(p: float) -> None:
    torch.manual_seed(1)
    output, _ = in_engine(nn.Dropout(p), ONES)
    share = float((output == 0).double().mean())
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / output.numel()) + 2**-17
    scale = 65536 / round(65536 * (1 - p))  # of what is kept, so that the expectation is exact
    assert torch.equal(output.unique(), torch.tensor([0.0, scale]))
    for axes in ((1, 2, 3), (0, 2, 3), (0, 1)):  # of each image, channel and pixel
        shares = (output == 0).double().mean(axes)
        numbers = output.numel() // shares.numel()
        assert (shares - p).abs().max() < 6 * math.sqrt(p * (1 - p) / numbers) + 2**-17


def correlation(one: Tensor, other: Tensor) -> float:
    both = torch.stack([one.flatten(), other.flatten()]).double()
    return float(torch.corrcoef(both)[0, 1]) * math.sqrt(both.shape[1])  # in standard deviations


def test_no_number_tells_of_another() -> None:
    network = nn.Dropout(0.5)
    one, other = kept(network, 1), kept(network, 2)
    found = {"steps": correlation(one, other), "mirrored": correlation(one, other.flip(0))}
    for axis, size in enumerate(one.shape):
        for distance in (1, 2, 3, 4, 7, 8, 15, 16, 17, 32):
            if distance < size:
                apart = one.narrow(axis, distance, size - distance)
                near = one.narrow(axis, 0, size - distance)
                found[f"{distance} along axis {axis}"] = correlation(near, apart)
    assert max(map(abs, found.values())) < 4.5, found


def test_each_pattern_is_as_frequent() -> None:
    masks = kept(nn.Dropout(0.5), 5).permute(2, 3, 1, 0)  # as it lies in memory
    for numbers in (masks.reshape(-1, 8), masks.reshape(400, -1, 8)[:, :, 0].reshape(-1, 8),
                    masks.transpose(2, 3).reshape(-1, 8)):  # fmt: skip
        codes = (numbers * 2 ** torch.arange(8)).sum(1).long()
        counts = torch.bincount(codes, minlength=256).double()
        expected = len(codes) / 256
        surprise = float(((counts - expected) ** 2 / expected).sum())  # chi-square, 255 of freedom
        assert abs(surprise - 255) < 5 * math.sqrt(2 * 255)


def test_layers_and_steps_drop_others() -> None:
    torch.manual_seed(1)
    network = Twice(0.5)
    (a, b), _ = in_engine(network, ONES)
    (c, d), _ = in_engine(network, ONES)
    for one, other in itertools.combinations((a, b, c, d), 2):
        assert abs(correlation((one != 0).float(), (other != 0).float())) < 4.5


def test_the_same_seed_drops_the_same_on_any_threads() -> None:
    before, masks = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        masks.append(kept(nn.Dropout(0.3), 7))
    torch.set_num_threads(before)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
    assert torch.equal(masks[0][:33], kept(nn.Dropout(0.3), 7, ONES[:33]))
    assert not torch.equal(masks[0], kept(nn.Dropout(0.3), 8))


class Dropping(nn.Module):
    """Shows what it has dropped, and uses it."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.conv1, self.conv2 = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 4, 3, padding=1)
        self.norm, self.drop = nn.BatchNorm2d(5), nn.Dropout(p)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        one = self.drop(F.silu(self.norm(F.relu(self.conv1(x)))))
        return one, F.dropout(self.conv2(one), self.p)

    def by(self, x: Tensor, masks: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The same with these masks."""
        one = F.silu(self.norm(F.relu(self.conv1(x)))) * masks[0]
        return one, self.conv2(one) * masks[1]


@pytest.mark.parametrize("batch", [1, 16, 37])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_way_back_drops_the_same(batch: int, p: float) -> None:
    torch.manual_seed(2)
    network = Dropping(p)
    images = noise(batch, 2, 9, 9)
    outputs, names = in_engine(network, images)
    assert names == ()
    for output in outputs:
        assert float((output == 0).float().mean()) == pytest.approx(p, abs=0.1)
    scale = 65536 / round(65536 * (1 - p))
    masks = [torch.where(output == 0, 0.0, scale).double() for output in outputs]
    directions = [noise(*output.shape, seed=3) for output in outputs]
    torch.autograd.backward(outputs, directions)
    found = {name: weight.grad.clone() for name, weight in network.named_parameters()}
    network.zero_grad()
    expected = network.double().by(images.double(), masks)
    torch.autograd.backward(expected, [direction.double() for direction in directions])
    for one, other in zip(outputs, expected, strict=True):
        assert_near(one.detach(), other.detach(), 1e-4, "output")
    largest = max(float(weight.grad.abs().max()) for weight in network.parameters())
    for name, weight in network.named_parameters():
        assert_near(found[name], weight.grad, 1e-4, name, largest)


@pytest.mark.parametrize("function", [False, True])
def test_nothing_or_everything_is_dropped(function: bool) -> None:
    class Dropped(nn.Module):
        def __init__(self, p: float) -> None:
            super().__init__()
            self.p, self.conv, self.drop = p, nn.Conv2d(1, 3, 1), nn.Dropout(p)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return F.dropout(x, self.p, self.training) if function else self.drop(x)

    images = noise(20, 1, 5, 5)
    network = Dropped(0.0)
    torch.testing.assert_close(in_engine(network, images)[0], network.conv(images))
    network = Dropped(1.0)
    output, _ = in_engine(network, images)
    assert not output.any()
    output.sum().backward()
    assert not network.conv.weight.grad.any()
    network = Dropped(0.5).eval()
    torch.testing.assert_close(in_engine(network, images)[0], network.conv(images))


def test_what_is_no_number_is_not_hidden() -> None:
    images = torch.full((200, 1, 3, 3), math.nan)
    assert in_engine(nn.Dropout(0.5), images)[0].isnan().all()
