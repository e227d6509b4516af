"""Ctrl-C, SIGTERM and a closed terminal, heard wherever a program is when they come.

Python raises KeyboardInterrupt at the line that runs just then. Where that belongs to a destructor
or to the callback of a weak reference, as often while garbage is collected, the exception is
swallowed: so the signal is remembered, and raised again at the next point that asks. Where an
exception would do harm, as within a transaction, whose lock it might leave behind, the signal is
held: remembered only.
"""

import signal
import threading

_unheard = False
_holds = 0


def listen() -> None:
    """From now on each of the three raises KeyboardInterrupt, unless it is ignored, as by nohup."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt for a signal that nobody has heard."""
    if _unheard:
        raise KeyboardInterrupt


def heard() -> None:
    """Say that a KeyboardInterrupt has arrived where something is done about it."""
    global _unheard
    _unheard = False


def hold() -> None:
    """From now on the main thread, where signals arrive, only remembers them, until `release` has
    been called as often."""
    global _holds
    if threading.current_thread() is threading.main_thread():
        _holds += 1


def release() -> None:
    """The end of what `hold` began; the next `check` raises what has come meanwhile."""
    global _holds
    if threading.current_thread() is threading.main_thread():
        _holds = max(0, _holds - 1)


def _interrupt(*_: object) -> None:
    global _unheard
    _unheard = True
    if not _holds:
        raise KeyboardInterrupt
