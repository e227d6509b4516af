"""The library of kernels, as its functions are called."""

import ctypes
from functools import cache

from mnist_exp.engine import library


@cache
def functions() -> ctypes.CDLL:
    """The library of kernels. Raises library.UnavailableError."""
    loaded = library.loaded()
    loaded.plan_new.restype = loaded.memory_new.restype = ctypes.c_void_p
    address, count = ctypes.c_void_p, ctypes.c_int
    loaded.are_classes.argtypes = [address, count, count]
    loaded.cross_entropy.argtypes = [address, address, count, count, address, address]
    loaded.cross_entropy.restype = ctypes.c_int64
    loaded.peak_gflops.restype, loaded.peak_gflops.argtypes = ctypes.c_double, [ctypes.c_double]
    return loaded


def pixel(channels: int) -> int:
    """How many floats of a tile a pixel with so many channels takes."""
    return int(functions().pixel_floats(channels))


def lanes() -> int:
    """How many images are side by side in a tile."""
    return int(functions().lanes())
