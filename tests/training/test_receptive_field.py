"""The table against published and hand-computed answers, and the derived field against the
measured one."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import REFERENCE
from measured_field import measured_field
from torch import Tensor, nn

from mnist_exp.notebook import loading
from mnist_exp.training import receptive_field
from mnist_exp.training.axes import Axis, Field, ReceptiveFieldError
from mnist_exp.training.following import follow
from mnist_exp.training.receptive_field import receptive_field_table

IMAGE = (1, 28, 28)


def output_field(network: nn.Module, shape: tuple[int, ...]) -> Field:
    found = follow(network, shape).field
    assert found is not None
    return found


class Net(nn.Module):
    """Layers by name, put together by a function of them and the images."""

    def __init__(self, connect: Callable[["Net", Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.connect = connect
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.connect(self, x)


def conv(inputs: int, outputs: int, kernel: int | tuple[int, int], **options: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **options)


def squeeze_and_excite(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    gate = torch.sigmoid(net.gate(x.mean((2, 3))))
    return net.b(x * gate[:, :, None, None])


def u_net(net: Net, x: Tensor) -> Tensor:
    x = F.relu(net.down1(x))
    low = F.relu(net.down2(F.max_pool2d(x, 2)))
    return net.end2(torch.cat([x, F.relu(net.up2(low))], dim=1))


FOLLOWED = {
    "dilation": nn.Sequential(conv(1, 2, 3, dilation=2), conv(2, 2, 3, dilation=3)),
    "padding": nn.Sequential(conv(1, 2, 5, padding=2), conv(2, 2, 3, padding=1, stride=2)),
    "same padding": conv(1, 2, 3, padding="same", dilation=2),
    "rectangular kernel and stride": conv(1, 2, (3, 5), stride=(1, 2), padding=(0, 2)),
    "grouped": nn.Sequential(conv(1, 4, 3), conv(4, 4, 3, groups=2)),
    "depthwise separable": nn.Sequential(conv(1, 4, 3), conv(4, 4, 3, groups=4), conv(4, 8, 1)),
    "overlapping maximum pooling": nn.Sequential(conv(1, 2, 3), nn.MaxPool2d(3, 2, padding=1)),
    "dilated maximum pooling": nn.MaxPool2d(2, stride=1, dilation=3),
    "maximum pooling in ceil mode": nn.MaxPool2d(3, 2, ceil_mode=True),
    "average pooling": nn.Sequential(conv(1, 2, 3), nn.AvgPool2d(4, stride=3)),
    "adaptive pooling": nn.Sequential(conv(1, 2, 5, padding=2), nn.AdaptiveAvgPool2d(7)),
    "adaptive maximum pooling": nn.AdaptiveMaxPool2d((4, 14)),
    "global average pooling": nn.Sequential(conv(1, 2, 3), nn.AdaptiveAvgPool2d(1)),
    "mean over the map": Net(lambda n, x: n.c(x).mean((2, 3)), c=conv(1, 2, 3, stride=3)),
    "mean over the width": Net(lambda n, x: n.c(x).mean(3, keepdim=True), c=conv(1, 2, 3)),
    "maximum over the map": Net(lambda n, x: n.c(x).amax((-2, -1)), c=conv(1, 2, 3)),
    "fully connected": nn.Sequential(conv(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 10)),
    "residual": Net(
        lambda n, x: n.b(F.relu(n.a(x))) + n.a(x), a=conv(1, 4, 3), b=conv(4, 4, 3, padding=1)
    ),
    "residual with a cropped short cut": Net(
        lambda n, x: n.b(n.a(x)) + n.a(x)[:, :, 1:-1, 1:-1], a=conv(1, 4, 3), b=conv(4, 4, 3)
    ),
    "misaligned residual": Net(
        lambda n, x: n.b(n.a(x))[:, :, :26, :26] + n.a(x),
        a=conv(1, 4, 3),
        b=conv(4, 4, 2, padding=1),
    ),
    "concatenation": Net(
        lambda n, x: torch.cat([n.a(x), n.b(x), F.max_pool2d(x, 3, 1, 1)], dim=1),
        a=conv(1, 2, 1),
        b=conv(1, 2, 7, padding=3),
    ),
    "squeeze and excitation": Net(
        squeeze_and_excite, a=conv(1, 4, 3), gate=nn.Linear(4, 4), b=conv(4, 4, 3)
    ),
    "functional padding": Net(lambda n, x: n.c(F.pad(x, (2, 2, 1, 1))), c=conv(1, 2, 3)),
    "channel split": Net(lambda n, x: sum(n.c(x).chunk(2, dim=1)), c=conv(1, 4, 3)),
    "control flow": Net(lambda n, x: n.c(x) if x.shape[-1] == 28 else x, c=conv(1, 2, 3)),
    "layers with no spatial effect": nn.Sequential(
        conv(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.PReLU(),
        nn.Dropout2d(0.1),
        nn.Hardswish(),
        nn.Tanh(),
        nn.GELU(),
        nn.SiLU(inplace=True),
        nn.Identity(),
        nn.Softmax(dim=1),
        conv(4, 2, 3),
        nn.ReLU6(inplace=True),
        nn.LogSoftmax(dim=1),
    ),
    "group normalisation": nn.Sequential(conv(1, 4, 3), nn.GroupNorm(2, 4), conv(4, 4, 3)),
    "instance normalisation": nn.Sequential(conv(1, 4, 3), nn.InstanceNorm2d(4), conv(4, 2, 3)),
    "layer normalisation": nn.Sequential(conv(1, 4, 3), nn.LayerNorm((4, 26, 26)), conv(4, 4, 3)),
    "normalisation of each cell": Net(
        lambda n, x: n.b(n.norm(n.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        a=conv(1, 4, 3),
        norm=nn.LayerNorm(4),
        b=conv(4, 4, 3),
    ),
    "mean of a mean": Net(lambda n, x: n.c(x).mean(3).mean(2), c=conv(1, 2, 3)),
    "mean of a flattened map": Net(
        lambda n, x: n.c(x).view(len(x), 2, -1).mean(2), c=conv(1, 2, 3)
    ),
    "channel shuffle": nn.Sequential(conv(1, 4, 3), nn.ChannelShuffle(2), conv(4, 4, 3, groups=2)),
    "channel shuffle by hand": Net(
        lambda n, x: n.b(n.a(x).view(-1, 2, 2, 26, 26).transpose(1, 2).reshape(-1, 4, 26, 26)),
        a=conv(1, 4, 3),
        b=conv(4, 4, 3, groups=2),
    ),
    "gated linear unit": nn.Sequential(conv(1, 4, 3), nn.GLU(1), conv(2, 4, 3)),
    "stack": Net(
        lambda n, x: n.c(torch.stack([n.a(x), n.b(x)]).sum(0)),
        a=conv(1, 2, 3, padding=1),
        b=conv(1, 2, 5, padding=2),
        c=conv(2, 2, 3),
    ),
    "mirrored border": nn.Sequential(
        conv(1, 2, 3, padding=1, padding_mode="reflect"), conv(2, 2, 3)
    ),
    "repeated border": nn.Sequential(
        conv(1, 2, 5, padding=2, padding_mode="replicate"), conv(2, 2, 3)
    ),
    "upsampling": nn.Sequential(conv(1, 2, 3), nn.Upsample(scale_factor=2), conv(2, 2, 3)),
    "bilinear upsampling": nn.Sequential(
        nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear"), conv(1, 2, 3)
    ),
    "bicubic upsampling": nn.Sequential(
        nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bicubic"), conv(1, 2, 3)
    ),
    "resizing": Net(
        lambda n, x: n.c(F.interpolate(x, size=(32, 14), mode="bilinear")), c=conv(1, 2, 3)
    ),
    "transposed convolution": nn.Sequential(
        conv(1, 2, 3, stride=2), nn.ConvTranspose2d(2, 2, 3, stride=2), conv(2, 2, 3)
    ),
    "pixel shuffle": nn.Sequential(
        conv(1, 4, 3, padding=1, stride=2), nn.PixelShuffle(2), conv(1, 2, 3)
    ),
    "pixel unshuffle": nn.Sequential(nn.PixelUnshuffle(2), conv(4, 2, 3)),
    "u-net": Net(
        u_net,
        down1=conv(1, 4, 3, padding=1),
        down2=conv(4, 4, 3, padding=1),
        up2=nn.ConvTranspose2d(4, 4, 2, 2),
        end2=conv(8, 4, 3, padding=1),
    ),
    "linear along the width": Net(lambda n, x: n.l(n.c(x)), c=conv(1, 2, 3), l=nn.Linear(26, 5)),
    "mirror image": Net(lambda n, x: n.c(x.flip(3)), c=conv(1, 2, (3, 5))),
    "a layer used twice": Net(lambda n, x: n.b(n.b(n.a(x))), a=conv(1, 2, 3), b=conv(2, 2, 3)),
}
MODELS = {f"model {number}": number for number in range(1, 7)}


@pytest.mark.parametrize("number", range(2, 7))
def test_equals_the_published_table(number: int) -> None:
    published = pd.read_csv(REFERENCE / "receptive_field.csv")
    table = receptive_field_table(loading.load_iteration(number).recipe.network(), IMAGE)
    derived = table[published.columns].astype(object).where(table.notna(), None)
    pd.testing.assert_frame_equal(
        derived, published.astype(object).where(published.notna(), None), check_dtype=False
    )


@pytest.mark.parametrize("name", [*FOLLOWED, *MODELS])
def test_derived_field_is_the_measured_one(name: str) -> None:
    module = (
        loading.load_iteration(MODELS[name]).recipe.network() if name in MODELS else FOLLOWED[name]
    )
    derived = tuple(axis.seen(axis.n // 2, 28) for axis in output_field(module, IMAGE))
    assert derived == measured_field(module, IMAGE)


def test_a_hand_computed_chain() -> None:
    module = nn.Sequential(
        conv(1, 2, 3, padding=1),  # start -1, size 3
        nn.MaxPool2d(2),  # start -1, size 3 + 1 = 4, jump 2
        conv(2, 2, 3, padding=2, dilation=2),  # start -1 - 2 * 2 = -5, size 4 + 2 * 2 * 2 = 12
        conv(2, 2, 5, stride=2),  # start -5, size 12 + 4 * 2 = 20, jump 4
    )
    assert output_field(module, IMAGE) == (Axis(n=5, start=-5, size=20, jump=4),) * 2


def test_axes_that_differ_have_columns_of_their_own() -> None:
    table = receptive_field_table(conv(1, 2, (3, 5), stride=(1, 2), padding=(0, 2)), (1, 28, 20))
    row = table.iloc[-1]
    assert (row["kernel_height"], row["kernel_width"]) == (3, 5)
    assert (row["r_out_height"], row["r_out_width"]) == (3, 5)
    assert (row["n_out_height"], row["n_out_width"]) == (26, 10)
    assert (row["j_out_height"], row["j_out_width"]) == (1, 2)
    assert (row["start_height"], row["start_width"]) == (0, -2)
    assert row["dilation"] == 1  # the same on both axes


def test_joined_branches_take_the_largest_field_and_report_misaligned_centres() -> None:
    table = receptive_field_table(FOLLOWED["misaligned residual"], IMAGE)
    join = table.iloc[-1]
    # a sees pixels 0..2 (centre 1); b, a 2x2 window one cell further out, sees -1..2 (centre 0.5).
    assert (join["start"], join["r_out"], join["misaligned"]) == (-1, 4, 0.5)
    aligned = receptive_field_table(FOLLOWED["residual"], IMAGE).iloc[-1]
    assert (aligned["start"], aligned["r_out"], aligned["misaligned"]) == (-1, 5, 0)


def table_of(network: nn.Module) -> pd.DataFrame:
    return receptive_field_table(network, IMAGE).set_index("layer")


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm(26)])
def test_statistics_of_the_map_are_told_from_there_on(norm: nn.Module) -> None:
    table = table_of(nn.Sequential(conv(1, 4, 3), norm, conv(4, 4, 3)))
    assert table["global"].tolist() == [False, False, True, True]
    assert table["r_out"].tolist() == [1, 3, 3, 5]


def test_batch_normalisation_with_fixed_statistics_is_local() -> None:
    table = table_of(nn.Sequential(conv(1, 4, 3), nn.BatchNorm2d(4), conv(4, 4, 3)))
    assert table["global"].tolist() == [False] * 3


def test_a_gate_leaves_the_field_of_the_map() -> None:
    wide = [conv(1, 4, 3, padding=6, dilation=6), conv(4, 4, 3, padding=6, dilation=6)]
    wide += [conv(4, 4, 3, padding=6, dilation=6)]  # 1 + 3 * 12 = 37 pixels, of an image of 28
    layers = {"a": nn.Sequential(*wide), "gate": nn.Linear(4, 4), "b": conv(4, 4, 3)}
    table = table_of(Net(squeeze_and_excite, **layers))
    assert table["r_out"].tolist() == [1, 13, 25, 37, 37 + 27, 37, 39]
    assert table["global"].tolist() == [False] * 5 + [True] * 2


class Patches(nn.Module):
    """A small vision transformer, with a token for the class."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = conv(1, 16, 7, stride=7)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.encoder = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1)
        return self.head(self.encoder(tokens)[:, 0])


def test_patches_are_followed_up_to_the_attention_and_then_global() -> None:
    table = table_of(Patches())
    assert table.iloc[1][["kernel", "r_out", "n_out", "j_out"]].tolist() == [7, 7, 4, 7]
    assert table["r_out"].tolist() == [1, 7, 28, 7, 28]
    assert table["global"].tolist() == [False, False, False, True, True]
    assert table.index[2:].tolist() == [
        "encoder.self_attn.scaled_dot_product_attention", "encoder.add", "select",
    ]  # fmt: skip
    assert str(receptive_field.of_network(Patches(), IMAGE)) == "28"


def test_cells_that_are_not_alike_have_phases() -> None:
    # Cells 0, 1, 2, 3 of a bilinear upsampling see cells (-1, 0), (0, 1), (0, 1), (1, 2).
    bilinear = nn.Upsample(scale_factor=2, mode="bilinear")
    axis, _ = output_field(bilinear, IMAGE)
    assert [axis.span(i) for i in range(4)] == [(-1, 1), (0, 2), (0, 2), (1, 3)]
    row = receptive_field_table(bilinear, IMAGE).iloc[-1]
    assert row[["r_out", "n_out", "j_out", "phases"]].tolist() == [2, 56, 0.5, 2]
    # Kernel 3 at stride 2: an even cell is made of two cells, an odd one of one.
    axis, _ = output_field(nn.ConvTranspose2d(1, 1, 3, stride=2), IMAGE)
    assert [axis.span(i) for i in range(4)] == [(-1, 1), (0, 1), (0, 2), (1, 2)]


def write_in_place(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    x[:, :2] += F.max_pool2d(x[:, :2], 3, 1, 1)
    return x


NOT_FOLLOWED = {
    "gaps of a transposed convolution": (
        nn.Sequential(conv(1, 2, 3), nn.ConvTranspose2d(2, 2, 1, stride=2)), "layer 1.*see nothing",
    ),
    "aligned corners": (
        Net(lambda _, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)),
        "upsample_bilinear2d aligns corners",
    ),
    "a border that wraps around": (
        nn.Sequential(conv(1, 2, 3), conv(2, 2, 3, padding=1, padding_mode="circular")), "layer 1",
    ),
    "a border mirrored from afar": (
        nn.Sequential(nn.ReflectionPad2d(5), nn.ReLU(), conv(1, 2, 3)), "layer 2.*copied cells",
    ),
    "some of channels that differ": (
        Net(lambda n, x: torch.cat([x, n.c(x)], 1)[:, :1], c=conv(1, 1, 3, padding=1)),
        "channels that see differently",
    ),
    "batch statistics": (
        nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)), "layer 0",
    ),
    "uneven adaptive pooling": (nn.Sequential(nn.AdaptiveAvgPool2d(5)), "unevenly"),
    "transposition": (Net(lambda _, x: x.transpose(2, 3)), "transpose"),
    "shuffled cells": (Net(lambda n, x: n.c(x.roll(3, dims=2)), c=conv(1, 1, 3)), "since roll"),
    "a way through numpy": (
        Net(lambda _, x: x + torch.from_numpy(F.avg_pool2d(x, 9, 1, 4).detach().numpy())),
        "numpy: it leaves torch",
    ),
    "a way through numpy by its array function": (
        Net(lambda _, x: x + torch.from_numpy(np.asarray(x))), "it leaves torch",
    ),
    "an empty slice": (Net(lambda _, x: x[:, :, 28:]), "leaves nothing"),
    "a number taken out": (Net(lambda _, x: x * x.mean().item()), "mean"),
    "a write in place": (Net(write_in_place, a=conv(1, 4, 3)), "in place"),
    "different jumps": (
        Net(lambda n, x: F.max_pool2d(x, 2) + n.c(x), c=conv(1, 1, 15)), "jumps",
    ),
    "a kernel made from the images": (
        Net(lambda _, x: F.conv2d(x, x.mean((2, 3), keepdim=True)[:1])),
        "takes its weight from the images",
    ),
    "flattened maps of different sizes": (
        Net(
            lambda n, x: n.a(x).flatten(1) + n.b(x).flatten(1),
            a=conv(1, 1, 15),
            b=conv(1, 4, 22),
        ),
        "in no order",
    ),
    "input not used": (Net(lambda *_: torch.ones(1, 1, 3, 3)), "does not depend"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_FOLLOWED)
def test_what_cannot_be_followed_is_an_error_that_names_the_layer(name: str) -> None:
    module, named = NOT_FOLLOWED[name]
    with pytest.raises(ReceptiveFieldError, match=named):
        receptive_field_table(module, IMAGE)


def test_a_receptive_field_as_a_run_records_it() -> None:
    square = receptive_field.of_network(conv(1, 2, 5), IMAGE)
    assert (square.size, str(square)) == ((5, 5), "5")
    oblong = receptive_field.of_network(conv(1, 2, (3, 5)), IMAGE)
    assert (oblong.size, str(oblong)) == ((3, 5), "3x5")
    assert oblong.table is not None
    assert oblong.table["r_out_width"].tolist() == [1, 5]
    normalised = receptive_field.of_network(nn.Sequential(nn.GroupNorm(1, 1), conv(1, 2, 5)), IMAGE)
    assert (normalised.size, str(normalised)) == ((5, 5), "5 + global")


def test_a_refusal_keeps_the_rows_before_it() -> None:
    network = Net(lambda n, x: n.b(torch.fft.fft2(n.a(x)).abs()), a=conv(1, 2, 5), b=conv(2, 2, 3))
    found = receptive_field.of_network(network, IMAGE)
    assert found.size is None
    assert str(found).startswith("unknown: the receptive field cannot be followed through layer")
    assert found.table is not None
    assert found.table["layer"].tolist() == ["input", "a"]
    assert found.table["r_out"].tolist() == [1, 5]


def test_the_module_is_left_as_it_was() -> None:
    module = nn.Sequential(conv(1, 2, 3), nn.BatchNorm2d(2)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    receptive_field_table(module, IMAGE)
    measured_field(module, IMAGE)
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
