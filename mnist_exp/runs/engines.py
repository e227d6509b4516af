"""Which engine computes the steps of a run: the compiled one, or torch alone."""

import logging
from dataclasses import dataclass
from functools import cache

import torch

from mnist_exp.common.errors import ExpectedError
from mnist_exp.engine import library
from mnist_exp.engine.library import UnavailableError
from mnist_exp.runs import environment
from mnist_exp.training.computing import Engine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChosenEngine:
    """The engine of a run, and the SHA-256 of what decides what it computes; "" for torch, whose
    version the run records anyway."""

    name: Engine
    sha256: str = ""

    @property
    def words(self) -> str:
        """As a person reads it, such as `compiled (1a2b3c4)`."""
        return f"{self.name} ({self.sha256[:7]})" if self.sha256 else self.name

    def settings(self) -> dict[str, object]:
        """As parameters of the run."""
        return {"engine": self.name, **({"engine_sha256": self.sha256} if self.sha256 else {})}


TORCH = ChosenEngine("torch")


def choose_engine(asked: str, device: str) -> tuple[ChosenEngine, torch.device]:
    """The engine called `auto`, `compiled` or `torch`, and the device for it, called as
    `environment.choose_device` takes it.

    The compiled one computes on the processor alone, where auto takes it if it can be had; else a
    warning says why not. Raises ExpectedError where one is asked for that cannot be had.
    """
    if asked not in ("auto", "compiled", "torch"):
        raise ExpectedError(f"ENGINE={asked[:40]}: auto, compiled or torch is needed")
    if asked == "compiled" and device == "auto":
        device = "cpu"
    on = environment.choose_device(device)
    if asked == "torch" or (asked == "auto" and on.type != "cpu"):
        return TORCH, on
    if on.type != "cpu":
        raise ExpectedError(
            f"ENGINE=compiled computes on a processor: DEVICE={on.type} needs torch"
        )
    compiled, why_not = _compiled()
    if compiled:
        return compiled, on
    if asked == "compiled":
        raise ExpectedError(f"ENGINE=compiled: {why_not}")
    _warn(f"{why_not}, or set ENGINE=torch; training goes on with torch, more slowly")
    return TORCH, on


@cache
def _compiled() -> tuple[ChosenEngine | None, str]:
    """The compiled engine, or why it cannot be had; tried once in a process."""
    try:
        library.loaded()
    except UnavailableError as error:
        return None, str(error)
    return ChosenEngine("compiled", library.sha256()), ""


@cache
def _warn(text: str) -> None:
    """Once, whatever is trained after another."""
    log.warning("%s", text)
