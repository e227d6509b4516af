"""What tests do until something happens."""

import time
from collections.abc import Callable

import pytest

from mnist_exp import tracking


def when(condition: Callable[[], list], seconds: float = 60) -> list:
    """What `condition` gives, as soon as that is anything."""
    for _ in range(round(10 * seconds)):
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    pytest.fail(f"it did not come to that; the runs are {tracking.runs()['status'].tolist()}")
