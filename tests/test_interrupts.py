"""Signals that come where an exception is swallowed."""

import os
import signal
import weakref
from collections.abc import Iterator

import pytest

from mnist_exp import interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    interrupts.heard()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_in_a_callback_is_raised_again(number: signal.Signals) -> None:
    class Something:
        pass

    signal.signal(number, signal.SIG_DFL)
    interrupts.listen()
    something = Something()
    called = []
    watch = weakref.ref(something, lambda _: (os.kill(os.getpid(), number), called.append(1)))
    del something  # Python says "Exception ignored in", and goes on
    assert watch() is None
    assert not called
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    interrupts.heard()
    interrupts.check()


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    interrupts.listen()
    os.kill(os.getpid(), signal.SIGHUP)
    interrupts.check()
