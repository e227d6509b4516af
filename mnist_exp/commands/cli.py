"""The command line: finds the command, and says how it ended.

Exit codes: 0 done, or the target is met; 1 the target is not met; 2 the request cannot be carried
out, with one line on stderr that says why; 130 interrupted.
"""

from __future__ import annotations

import errno
import inspect
import logging
import os
import sys

from mnist_exp.commands import arguments
from mnist_exp.commands.arguments import COMMANDS, Command
from mnist_exp.common import interrupts, startup
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import printable

# Each registers its commands, which are listed in this order.
# isort: off
from mnist_exp.commands import making, tuning, checking, telling, keeping  # noqa: F401
# isort: on

__all__ = ["COMMANDS", "listing", "main"]

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""What the system says of a place that is full, or that may not be written to, whatever for."""
HELP = {"-h", "--help"}
WIDTH = 80


def main(words: list[str] | None = None) -> int:
    """Run one command, by default that of the process; returns the exit code."""
    if words is None:
        startup.hash_as_always()
    startup.of_command()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("mnist_exp").setLevel(logging.INFO)
    words = sys.argv[1:] if words is None else words
    interrupts.listen()
    try:
        return _obey(words)
    except ExpectedError as error:
        print(_with_notes(f"mnist-exp: {error}", error), file=sys.stderr)
        return 2
    except BrokenPipeError:  # as in `mnist-exp compare | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(_with_notes(f"mnist-exp: {printable(where)}{error.strerror}", error), file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        with interrupts.answered():
            print(_with_notes("mnist-exp: interrupted", interrupt), file=sys.stderr)
        return 130


def _obey(words: list[str]) -> int:
    name, *settings = words or [""]
    asked = COMMANDS.get(name)
    if HELP & set(words):
        print(_help(name, asked) if asked else listing("mnist-exp"))
        return 0
    if asked is None:
        raise ExpectedError(
            f"a command is needed, not {name[:40]!r}: {', '.join(COMMANDS)}"
            + arguments.meant(name, COMMANDS)
        )
    return asked(**arguments.bind(name, asked, settings))


def _help(name: str, asked: Command) -> str:
    start = f"mnist-exp {name} "
    return "\n".join([*_wrapped(start, arguments.usage(asked)), "", str(inspect.getdoc(asked))])


def listing(program: str) -> str:
    """What each command does, and below it what it takes."""
    lines = []
    for name, listed in COMMANDS.items():
        summary = str(inspect.getdoc(listed)).partition("\n")[0].rstrip(".")
        start = f"{program} {name:12} "
        lines += _wrapped(start, (summary[0].lower() + summary[1:]).split())
        lines += _wrapped(" " * len(start), arguments.usage(listed))
    return "\n".join(lines)


def _wrapped(start: str, words: list[str]) -> list[str]:
    """Words, some of which hold spaces, behind a start, in lines that a terminal is wide enough
    for."""
    lines = [start + words[0]] if words else []
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(" " * len(start) + word)
    return lines


def _with_notes(message: str, error: BaseException) -> str:
    return "; ".join([message, *getattr(error, "__notes__", [])])
