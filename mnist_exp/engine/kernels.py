"""The library of kernels, as its functions are called."""

import ctypes
from functools import cache

from mnist_exp.engine import library


@cache
def functions() -> ctypes.CDLL:
    """The library of kernels. Raises library.UnavailableError."""
    loaded = library.loaded()
    loaded.plan_new.restype = loaded.memory_new.restype = ctypes.c_void_p
    loaded.peak_gflops.restype, loaded.peak_gflops.argtypes = ctypes.c_double, [ctypes.c_double]
    return loaded


def pixel(channels: int) -> int:
    """How many floats of a tile a pixel with so many channels takes."""
    return int(functions().pixel_floats(channels))


def lanes() -> int:
    """How many images are side by side in a tile."""
    return int(functions().lanes())
