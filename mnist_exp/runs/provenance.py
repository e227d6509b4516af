"""What a run is made from, in words: its layers; and which run is made from no iteration."""

import pandas as pd
import torchinfo
from torch import Tensor, nn

from mnist_exp.common.errors import ExpectedError


def layers(network: nn.Module, example: Tensor) -> str:
    """The layers of a network, as a table to read: shapes, kernels and parameters of each, for the
    first image of `example`, (N, C, H, W). The network is called once, in evaluation mode."""
    summary = torchinfo.summary(
        network, input_data=example[:1], verbose=0, device="cpu", row_settings=("var_names",),
        col_names=("input_size", "output_size", "kernel_size", "num_params"),
    )  # fmt: skip
    return f"{summary}\n"


def refuse_tracked(run: pd.Series) -> None:
    """Raise ExpectedError for a run, a row of `tracking.runs`, that a script tracked."""
    if pd.notna(run["tracked"]):
        raise ExpectedError(
            f"run {run['run_id']} has no iteration: a script tracked it, which alone can train it "
            "again"
        )
