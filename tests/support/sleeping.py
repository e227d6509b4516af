"""What a process is timed at: sleeping. It imports nothing, so that the process begins at once."""

import time

slept = 0.0


def prepare(seconds: float) -> None:
    global slept
    slept = seconds


def sleep() -> float:
    time.sleep(slept)
    return slept
