"""What a run is made from, in words: its layers."""

import torchinfo
from torch import nn

from mnist_exp.recipe import PIXELS


def layers(network: nn.Module) -> str:
    """The layers of a network, as a table to read: shapes, kernels and parameters of each."""
    summary = torchinfo.summary(
        network, (1, *PIXELS), verbose=0, device="cpu", row_settings=("var_names",),
        col_names=("input_size", "output_size", "kernel_size", "num_params"),
    )  # fmt: skip
    return f"{summary}\n"
