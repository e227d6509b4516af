"""Checkpoints: what a run needs to go on when its process is gone, on the disk of its machine.

One file per run, which is replaced after each epoch and whole at any moment.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from mnist_exp.common.errors import ExpectedError

MAGIC = b"mnist-exp checkpoint 1\n"
"""A file begins with this, and the SHA-256 (32 bytes) of all that follows."""


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of one run: nested dictionaries and lists of tensors, numbers and texts."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run that it belongs to."""
        return self.path.stem

    @property
    def lock(self) -> Path:
        """The file that is locked while a process trains the run."""
        return self.path.with_suffix(".lock")

    def save(self, content: dict[str, Any]) -> None:
        """Replace the content; where that fails, the last one stays. Raises ExpectedError."""
        packed = pack(content)
        part = self.path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                file.write(packed)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
            if hasattr(os, "O_DIRECTORY"):  # Windows opens no folder
                folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
                os.fsync(folder)  # of the name, which a power cut could take back
                os.close(folder)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise ExpectedError(
                f"the checkpoint {self.path} cannot be written: {error.strerror}"
            ) from None

    def load(self) -> dict[str, Any]:
        """The content, on the CPU. Raises ExpectedError where there is none, or a file that is cut
        off, damaged or something else; nothing in it is executed."""
        try:
            packed = self.path.read_bytes()
        except FileNotFoundError:
            raise ExpectedError(
                f"there is no checkpoint of run {self.run_id} here: its loss was not finite, "
                "its study pruned it, its recipe cannot be resumed, it was trained on another "
                "machine, or the file was removed"
            ) from None
        except OSError as error:
            raise ExpectedError(f"{self.path} cannot be read: {error.strerror}") from None
        loaded = unpack(packed, str(self.path))
        if not isinstance(loaded, dict) or loaded.get("run_id") != self.run_id:
            raise ExpectedError(f"{self.path} is the checkpoint of another run")
        return loaded

    def remove(self) -> None:
        """Delete it, once the run needs it no more, with the lock of whoever trained the run; where
        that may not be, it stays, which does no harm."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            self.lock.unlink(missing_ok=True)


def pack(content: dict[str, Any]) -> bytes:
    """Nested dictionaries and lists of tensors, numbers and texts, as a checkpoint has them."""
    buffer = io.BytesIO()
    torch.save(_without_more(content), buffer)
    return MAGIC + hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue()


def _without_more(value: Any) -> Any:
    """The same value without what a tensor is only a part of, as of those of all seeds that are
    trained as one: torch would keep that with it."""
    if isinstance(value, dict):
        return {key: _without_more(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_without_more, value))
    if isinstance(value, Tensor) and value.layout == torch.strided:
        own = value.numel() * value.element_size()
        return value.detach().clone() if value.untyped_storage().nbytes() > own else value
    return value


def unpack(packed: bytes, name: str = "the checkpoint") -> Any:
    """What `pack` was given, on the CPU. Raises ExpectedError, which calls it by its `name`."""
    start = len(MAGIC)
    digest, content = packed[start : start + 32], packed[start + 32 :]
    if not packed.startswith(MAGIC):
        raise ExpectedError(f"{name} is not a checkpoint of mnist-exp")
    if hashlib.sha256(content).digest() != digest:
        raise ExpectedError(f"{name} is cut off or damaged")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # torch has no common class for what it refuses
        raise ExpectedError(f"{name} holds more than data") from None


def checkpoint_of(run_id: str, folder: Path) -> Checkpoint:
    """The checkpoint of a run in `folder`, whether it is there or not."""
    if not re.fullmatch("[0-9a-f]{32}", run_id):
        raise ExpectedError(
            f"RUN={ascii(run_id)[1:-1][:40]}: the id of a run is needed, 32 hexadecimal digits, as "
            "make ui shows it"
        )
    return Checkpoint(folder / f"{run_id}.pt")


def all_in(folder: Path) -> list[Checkpoint]:
    """Every checkpoint in `folder`, newest first."""
    times = {}
    for file in folder.glob("*.pt"):
        with suppress(FileNotFoundError):  # its run has ended meanwhile
            times[file] = file.stat().st_mtime
    return [Checkpoint(file) for file in sorted(times, key=times.__getitem__, reverse=True)]


@contextmanager
def claim(run_id: str, folder: Path) -> Iterator[Checkpoint]:
    """The checkpoint of a run, for one process at a time. Raises ExpectedError while another
    process trains the run."""
    checkpoint = checkpoint_of(run_id, folder)
    lock = FileLock(checkpoint.lock, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ExpectedError(f"run {run_id} is being trained by another process") from None
    except OSError as error:
        raise ExpectedError(f"{folder} cannot be written: {error.strerror}") from None
    try:
        yield checkpoint
    finally:
        if not checkpoint.path.exists():
            checkpoint.lock.unlink(missing_ok=True)
        lock.release()
