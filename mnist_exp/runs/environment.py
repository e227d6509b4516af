"""What decides the numbers of a run beside its recipe and seed: machine, versions and code."""

import hashlib
import inspect
import platform
from functools import cache
from importlib.metadata import version

import torch

from mnist_exp import augment, preprocess, recipe, views
from mnist_exp.common import copying, randomness, sameness, values
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.processor import processor
from mnist_exp.data import digits, writers
from mnist_exp.engine import (
    compiled,
    convolution,
    draft,
    elementwise,
    execution,
    fallback,
    images,
    kernels,
    layers,
    operations,
    plan,
    reads,
    schedule,
    shaping,
    trace,
)
from mnist_exp.notebook import code_hash
from mnist_exp.training import (
    apart,
    averaging,
    beside,
    classifier,
    computing,
    determinism,
    faster,
    loop,
    seeding,
    stacking,
    stepping,
    together,
    torch_internals,
    transforms,
)

TRAINING_CODE = (
    values, randomness, copying, sameness, recipe, augment, preprocess, views, digits, writers,
    transforms, classifier, torch_internals, faster, seeding, beside, averaging, stepping,
    computing, determinism, loop, apart, stacking, together, images, operations, layers, reads,
    trace, fallback, kernels, schedule, draft, convolution, elementwise, shaping, plan, execution,
    compiled,
)  # fmt: skip
"""The modules that take part in a training."""


def surroundings(device: torch.device) -> dict[str, object]:
    """What decides the numbers of a run beside its recipe and seed, as parameters of the run."""
    return {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        # Which of their kernels torch's operations take.
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "mlflow", "mnist-exp")},
    }


@cache
def training_sha256() -> str:
    """SHA-256 of the package's code that takes part in a training, without comments and layout."""
    sources = map(inspect.getsource, TRAINING_CODE)
    return hashlib.sha256("".join(map(code_hash.code_sha256, sources)).encode()).hexdigest()


def choose_device(name: str) -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `mps`; auto takes the fastest there is.

    Raises ExpectedError when it is not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, is_there in available.items() if is_there)
    if not available.get(name):
        devices = ", ".join(device for device, is_there in available.items() if is_there)
        raise ExpectedError(f"DEVICE={name}: this machine has {devices}; DEVICE=auto chooses")
    return torch.device(name)
