"""What is drawn on a terminal, and only there: elsewhere each line is plain text.

rich, which draws, is imported where there is a terminal alone. It leaves colours out where NO_COLOR
is set; whatever has a colour has a shape as well.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import textwrap
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, RenderableType
    from rich.live import Live

NOTEBOOK = "JPY_PARENT_PID"
"""Set by Jupyter for its kernels, and what they start."""
WIDE = 120
"""Characters from which a terminal has room for more."""
PER_SECOND = 2
"""How often what is drawn is drawn anew."""


def draws(stream: TextIO) -> bool:
    """Whether what is written there is seen on a terminal that can do more than text: not in the
    cell of a notebook, whose `!make run` has a terminal that draws nothing anew."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and NOTEBOOK not in os.environ


def is_wide() -> bool:
    """Whether stdout is a terminal with room for more than the least."""
    return draws(sys.stdout) and console(sys.stdout).width >= WIDE


def console(stream: TextIO) -> Console:
    """A terminal, which takes every text literally."""
    from rich.console import Console

    return Console(
        file=stream, force_terminal=True, markup=False, highlight=False, emoji=False, soft_wrap=True
    )


def say(line: str, style: str = "", *, indent: int = 2) -> None:
    """Print a line; on a terminal in a style, its marks in their colours, and wrapped between
    words, indented from the second line on."""
    if not draws(sys.stdout):
        print(line)
        return
    from rich.text import Text

    from mnist_exp.showing.style import MARKS

    text = Text(_wrapped(line, indent), style)
    for symbol, colour in MARKS.items():
        text.highlight_words([symbol], colour)
    console(sys.stdout).print(text)


def _wrapped(line: str, indent: int) -> str:
    """A line, wrapped between words where it is seen on a terminal."""
    if not draws(sys.stdout):
        return line
    wrapped = textwrap.wrap(
        line, console(sys.stdout).width, subsequent_indent=" " * indent, break_on_hyphens=False,
        drop_whitespace=True, replace_whitespace=False,
    )  # fmt: skip
    return "\n".join(wrapped)


class Screen:
    """What `drawn` gives for a width, at the bottom of a terminal while the block lasts; nothing
    where the stream, by default stderr, is no terminal.

    What is printed meanwhile stands above it. It is drawn anew at each `refresh`, or `by_itself` as
    well, in a thread of its own. At the end it is wiped out, unless it `stays`.
    """

    def __init__(
        self, drawn: Callable[[int], RenderableType], stream: TextIO | None = None, *,
        by_itself: bool = False, stays: bool = False,
    ) -> None:  # fmt: skip
        self.live: Live | None = None
        stream = stream or sys.stderr
        if draws(stream):
            from rich.live import Live

            screen = console(stream)
            self.live = Live(
                console=screen, get_renderable=lambda: drawn(screen.width),
                auto_refresh=by_itself, refresh_per_second=PER_SECOND, transient=not stays,
                redirect_stdout=draws(sys.stdout),  # into a file, lines are plain
            )  # fmt: skip

    def __enter__(self) -> Screen:
        if self.live:
            self.live.start()
            _log_to_stderr()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            try:
                self.live.stop()
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
            _log_to_stderr()

    def refresh(self) -> None:
        if self.live:
            with_terminal(self.live.refresh)


def tell(line: str, *, indent: int = 2) -> None:
    """Print a line at once, above what is drawn: by `print`, which rich takes over meanwhile."""
    with_terminal(lambda: print(_wrapped(line, indent), flush=True))


def with_terminal(do: Callable[[], object]) -> None:
    """Do what writes to a terminal, which may be gone."""
    try:
        do()
    except OSError as error:
        if error.errno == errno.EIO:  # its signal went to make alone
            raise KeyboardInterrupt from None
        raise


def _log_to_stderr() -> None:
    """Have log lines go where stderr is now, which rich takes over while it draws."""
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setStream(sys.stderr)
