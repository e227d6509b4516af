"""Checkpoints that are cut off, foreign, malicious, or held by another process."""

import hashlib
import io
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnist_exp import ROOT
from mnist_exp.common.errors import ExpectedError
from mnist_exp.runs import checkpoint
from mnist_exp.runs.checkpoint import MAGIC, Checkpoint

RUN = "0123456789abcdef" * 2


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoint:
    return checkpoint.checkpoint_of(RUN, tmp_path)


def content() -> dict[str, object]:
    state = {"weights": torch.arange(5.0), "rate": 0.1, "name": "ü", "list": [1, {"a": None}]}
    return {"run_id": RUN, "state": state}


def test_what_is_saved_is_loaded(kept: Checkpoint) -> None:
    kept.save(content())
    kept.save(content() | {"second": True})
    loaded = kept.load()
    assert loaded["second"] is True
    assert torch.equal(loaded["state"].pop("weights"), torch.arange(5.0))
    assert loaded["state"] == {"rate": 0.1, "name": "ü", "list": [1, {"a": None}]}
    assert [file.name for file in kept.path.parent.iterdir()] == [f"{RUN}.pt"]
    kept.remove()
    with pytest.raises(ExpectedError, match="there is no checkpoint of run 0123"):
        kept.load()


def test_a_system_that_opens_no_folder_keeps_checkpoints(
    kept: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError("this is a folder")

    monkeypatch.delattr(os, "O_DIRECTORY")  # Windows
    monkeypatch.setattr(os, "open", refuse)
    kept.save(content())
    assert kept.load()["run_id"] == RUN


def test_a_file_that_is_cut_off_anywhere_is_refused_by_name(kept: Checkpoint) -> None:
    kept.save(content())
    whole = kept.path.read_bytes()
    for length in [
        0,
        1,
        len(MAGIC),
        len(MAGIC) + 32,
        *range(100, len(whole), 97),
    ]:
        kept.path.write_bytes(whole[:length])
        with pytest.raises(ExpectedError, match=f"{RUN}.pt is (cut off|not a checkpoint)"):
            kept.load()


@given(place=st.integers(0), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(
    place: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = checkpoint.checkpoint_of(RUN, tmp_path_factory.getbasetemp())
    kept.save(content())
    flipped = bytearray(kept.path.read_bytes())
    flipped[place % len(flipped)] ^= 1 << bit
    kept.path.write_bytes(flipped)
    with pytest.raises(ExpectedError):
        kept.load()


@given(junk=st.binary(max_size=2000))
def test_a_file_of_something_else_is_refused(
    junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = checkpoint.checkpoint_of(RUN, tmp_path_factory.getbasetemp())
    for prefix in (b"", MAGIC, MAGIC + hashlib.sha256(junk).digest()):
        kept.path.write_bytes(prefix + junk)
        with pytest.raises(ExpectedError):
            kept.load()


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("write", [torch.save, pickle.dump])
def test_code_in_a_checkpoint_is_not_run(kept: Checkpoint, write: object, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    buffer = io.BytesIO()
    write({"run_id": RUN, "state": Malicious(mark)}, buffer)
    packed = buffer.getvalue()
    kept.path.write_bytes(MAGIC + hashlib.sha256(packed).digest() + packed)
    with pytest.raises(ExpectedError, match="holds more than data"):
        kept.load()
    assert not mark.exists()


def test_the_checkpoint_of_another_run_is_refused(kept: Checkpoint) -> None:
    kept.save(content() | {"run_id": "another"})
    with pytest.raises(ExpectedError, match="is the checkpoint of another run"):
        kept.load()


@pytest.mark.parametrize(
    "run_id",
    ["", "..", "../" * 10 + "etc/passwd", "/etc/passwd", RUN.upper(), RUN + "\n", "x" * 99],
)
def test_only_the_id_of_a_run_names_a_file(run_id: str, tmp_path: Path) -> None:
    with pytest.raises(ExpectedError, match="the id of a run is needed") as refused:
        checkpoint.checkpoint_of(run_id, tmp_path)
    assert str(refused.value).isprintable()


def test_what_cannot_be_written_leaves_the_last_one(kept: Checkpoint) -> None:
    kept.save(content())
    before = kept.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ExpectedError, match="cannot be written: File too large"):
            kept.save(content())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert kept.path.read_bytes() == before
    assert [file.name for file in kept.path.parent.iterdir()] == [f"{RUN}.pt"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from mnist_exp.runs import checkpoint\n"
    code += f"with checkpoint.claim('{RUN}', Path(sys.argv[1])): print(1, flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert other.stdout.readline() == "1\n"
        with (
            pytest.raises(ExpectedError, match="is being trained by another process"),
            checkpoint.claim(RUN, tmp_path),
        ):
            pass
    finally:
        other.kill()
        other.communicate()
    with checkpoint.claim(RUN, tmp_path) as kept:  # a dead process holds nothing
        kept.save(content())
    assert [found.path.stem for found in checkpoint.all_in(tmp_path)] == [RUN]


def test_a_part_of_a_large_tensor_is_kept_without_the_rest() -> None:
    part = torch.arange(100_000.0).view(1000, 100)[3]
    packed = checkpoint.pack({"rows": [part, (part[:2],)]})
    assert len(packed) < 10_000
    rows, (few,) = checkpoint.unpack(packed)["rows"]
    assert rows.equal(part)
    assert few.tolist() == [300.0, 301.0]
