"""What a run is made from, in words: its layers, and the state of the code in git."""

import subprocess

import torchinfo
from torch import nn

from mnist_exp import ROOT
from mnist_exp.recipe import PIXELS


def layers(network: nn.Module) -> str:
    """The layers of a network, as a table to read: shapes, kernels and parameters of each."""
    summary = torchinfo.summary(
        network, (1, *PIXELS), verbose=0, device="cpu", row_settings=("var_names",),
        col_names=("input_size", "output_size", "kernel_size", "num_params"),
    )  # fmt: skip
    return f"{summary}\n"


def git_state() -> tuple[dict[str, str], str]:
    """Where the code stands in git: its commit and whether anything is not committed, as tags; and
    what is not committed, as text that `git apply` takes."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        status, diff = _git("status", "--porcelain"), _git("diff", "HEAD")
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or no checkout of it
        return {"git_commit": "unknown", "git_dirty": "unknown"}, ""
    tags = {"git_commit": commit, "git_dirty": str(bool(status)).lower()}
    # The status names new files, which a diff leaves out; `git apply` skips what precedes a diff.
    return tags, f"{status}\n{diff}" if status else ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, check=True)
    return done.stdout.decode(errors="backslashreplace")
