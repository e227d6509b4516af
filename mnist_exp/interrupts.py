"""Ctrl-C, SIGTERM and a closed terminal, heard wherever a program is when they come.

Python raises KeyboardInterrupt at the line that runs just then. Where that belongs to a destructor
or to the callback of a weak reference, as often while garbage is collected, the exception is
swallowed: so the signal is remembered, and raised again at the next point that asks.
"""

import signal

_unheard = False


def listen() -> None:
    """From now on each of the three raises KeyboardInterrupt, unless it is ignored, as by nohup."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt for a signal that nobody has heard."""
    if _unheard:
        raise KeyboardInterrupt


def heard() -> None:
    """Say that a KeyboardInterrupt has arrived where something is done about it."""
    global _unheard
    _unheard = False


def _interrupt(*_: object) -> None:
    global _unheard
    _unheard = True
    raise KeyboardInterrupt
