"""Ctrl-C, SIGTERM and a closed terminal, heard wherever a program is when they come.

Python raises KeyboardInterrupt at the line that runs just then. Where that belongs to a destructor
or to the callback of a weak reference, as often while garbage is collected or a module imported,
the exception is swallowed: so the signal is remembered, and raised again and again until somebody
says that it was `heard`. Where an exception would do harm, as within a transaction, whose lock it
might leave behind, the signal is held: remembered only.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN = 0.2
"""Seconds after which a signal that nobody has heard is raised again: what may take much longer
until it asks by `check`, as the export of a network, would otherwise go on for as long."""

_unheard = False
_holds = 0


def listen() -> None:
    """From now on each of the three raises KeyboardInterrupt, unless it is ignored, as by nohup."""
    if hasattr(signal, "SIGALRM"):  # not on Windows, where only `check` raises again
        signal.signal(signal.SIGALRM, lambda *_: check())
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt for a signal that nobody has heard, unless signals are held."""
    if _unheard and not _holds:
        raise KeyboardInterrupt


def pending() -> bool:
    """Whether a signal has come that nobody has heard."""
    return _unheard


def heard() -> None:
    """Say that a KeyboardInterrupt has arrived where something is done about it."""
    global _unheard
    if _unheard:
        _again_every(0)
    _unheard = False


def hold() -> None:
    """From now on the main thread, where signals arrive, only remembers them, until `release` has
    been called as often."""
    global _holds
    if threading.current_thread() is threading.main_thread():
        _holds += 1


def release() -> None:
    """The end of what `hold` began; what has come meanwhile is raised by the next `check`, and
    soon without one."""
    global _holds
    if threading.current_thread() is threading.main_thread():
        _holds = max(0, _holds - 1)


@contextmanager
def held() -> Iterator[None]:
    """A block with `hold` at its beginning and `release` at its end."""
    hold()
    try:
        yield
    finally:
        release()


@contextmanager
def answered() -> Iterator[None]:
    """A block that is what an interrupt asks for, as the end of a run: one that comes meanwhile
    asks for nothing more. A closed terminal, for one, sends its signal twice."""
    with held():
        heard()
        yield
        heard()


@contextmanager
def heeded() -> Iterator[None]:
    """A block of a program that does not `listen`, as a script or a notebook, in which Ctrl-C waits
    while signals are held. It is raised once, since whoever catches it there may go on."""
    by_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not by_default or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _interrupt_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt_once(*_: object) -> None:
    global _unheard
    if not _holds:
        raise KeyboardInterrupt
    _unheard = True


def _interrupt(*_: object) -> None:
    global _unheard
    _unheard = True
    _again_every(AGAIN)
    check()


def _again_every(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
