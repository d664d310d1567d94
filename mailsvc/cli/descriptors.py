"""Standard input, output and error when whoever has started us has closed them (``sendmail -t <&- >&- 2>&-``).

A daemon, a careless script or cron may start a program with descriptor 0, 1 or 2 closed.  Python then has None for
``sys.stdin`` and its like, which is an AttributeError where somebody reads or writes; and worse, the next file that is
opened gets the number, so that a message for standard error could end up in it.

The hardest idea is what to put in their place.  Not /dev/null for input and output: a message that nobody has given is
not an empty one, and an answer that nobody gets is no success.  As the C library does for set-uid programs, they become
descriptors that fail when they are used the natural way.  Standard error is another matter: what could not be said
changes nothing of what was done, so it goes nowhere.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

import click

_INSTEAD = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)
"""How /dev/null is opened as descriptor 0, 1 and 2."""


def fill() -> None:
    """See to it that the descriptors 0 to 2 are open, and `sys.stdin`, `sys.stdout` and `sys.stderr` are files.

    To be called before anything is imported that opens a descriptor and keeps it, as Twisted's reactor does.
    """
    for number, flags in enumerate(_INSTEAD):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, and those below are open.
            os.open(os.devnull, flags)
    # Python does not ask a descriptor whether it can be read or written when it makes a file of it.
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open


def complain(line: str, stream: TextIO | None = None) -> None:
    """Say a line on standard error, or on ``stream``; when nobody can be told, what was done is still what it is."""
    stream = stream or sys.stderr
    try:
        click.echo(line, file=stream)
    except OSError:
        give_up(stream)


def give_up(stream: TextIO) -> None:
    """Forget what waits for a stream that takes nothing any more: the interpreter would try again when it ends, and
    make an exit status of its own (120) of that."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
