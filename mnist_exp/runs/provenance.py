"""What a run is made from, in words: its layers."""

import torchinfo
from torch import Tensor, nn


def layers(network: nn.Module, example: Tensor) -> str:
    """The layers of a network, as a table to read: shapes, kernels and parameters of each, for the
    first image of `example`, (N, C, H, W). The network is called once, in evaluation mode."""
    summary = torchinfo.summary(
        network, input_data=example[:1], verbose=0, device="cpu", row_settings=("var_names",),
        col_names=("input_size", "output_size", "kernel_size", "num_params"),
    )  # fmt: skip
    return f"{summary}\n"
