"""Code that iterations share, as a user has it: a checkout, and the commands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_exp import ROOT

BLOCKS = """
from torch import nn

def block(size):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, size), nn.ReLU())
"""
MODEL = '''"""Model 30: a block.

Target: a
Change: b
Expect: c
Analysis: d
"""

from functools import partial

from torch import nn
from torch.optim import SGD

from experiments import blocks
from mnist_exp.recipe import Recipe


def network() -> nn.Module:
    return nn.Sequential(blocks.block(4), nn.Linear(4, 10))


RECIPE = Recipe(network=network, batch_size=500, epochs=1, optimizer=partial(SGD, lr=0.1))
'''


@pytest.fixture
def checkout(store: Path, tmp_path: Path) -> Path:
    """A copy of this checkout, with an iteration that imports a helper."""
    assert store.is_dir()
    root = tmp_path / "checkout"
    for folder in ("mnist_exp", "experiments"):
        shutil.copytree(ROOT / folder, root / folder)
    (root / "data").symlink_to(ROOT / "data")
    (root / "experiments" / "blocks.py").write_text(BLOCKS)
    (root / "experiments" / "model_30.py").write_text(MODEL)
    return root


def command(root: Path, *words: str, code: int = 0) -> str:
    """What a command says."""
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-m", "mnist_exp", *words], cwd=root, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_changed_helper_leaves_no_number_behind(checkout: Path) -> None:
    said = command(checkout, "sweep", "MODELS=30", "SEEDS=1")
    assert "1 to train" in said
    assert "0 to train" not in said
    assert "nothing is missing" in command(checkout, "sweep", "MODELS=30", "SEEDS=1").lower()
    blocks = checkout / "experiments" / "blocks.py"
    blocks.write_text(f'"""Layers."""\n{BLOCKS}')
    assert "3,190" in command(checkout, "compare", "MODELS=30")  # 784 x 4 + 4 + 4 x 10 + 10
    blocks.write_text(BLOCKS.replace("ReLU", "Tanh"))
    assert "no run counts (1 stale" in command(checkout, "compare", "MODELS=30", code=2)
    assert "1 to train" in command(checkout, "sweep", "MODELS=30", "SEEDS=1")
    blocks.unlink()
    refused = command(checkout, "run", "MODEL=30", code=2)
    assert refused == (
        "mnist-exp: experiments/model_30.py, line 14: ImportError: cannot import name 'blocks' "
        "from experiments: there is no experiments/blocks.py\n"
    )
