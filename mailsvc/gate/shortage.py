"""Says aloud, once, that connections cannot be accepted, because the process or the machine has no descriptor left.

Twisted does what is to be done (``twisted.internet.tcp``): it keeps a descriptor in reserve, gives it up to accept and
close those who wait, so that the reactor does not spin, and takes it again.  It tells so with a line of information for
each connection, which nobody sees, or with too many.  `Shortage` listens for those lines and makes an alarm of the
first one of an outbreak.

What is wrong with it: it knows Twisted's messages by their words.  A test with real sockets holds it to them.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import ILogObserver, LogEvent, Logger
from zope.interface import implementer

_SIGNS = ("EMFILE encountered", "Could not accept new connection")
_OUTBREAK = 60.0
"""Seconds without a sign after which the next one is a new outbreak."""


@implementer(ILogObserver)
class Shortage:
    """A log observer; ``now`` gives seconds."""

    _log = Logger("mailsvc")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last: float | None = None

    def __call__(self, event: LogEvent) -> None:
        """Look at one line of the log."""
        if not str(event.get("log_format", "")).startswith(_SIGNS):
            return
        now = self._now()
        fresh = self._last is None or now - self._last > _OUTBREAK
        self._last = now
        if fresh:
            self._log.critical(
                "connections are turned away: no file descriptor is left ({why}). Raise the limit (ulimit -n,"
                " LimitNOFILE=, fs.file-max) or lower limits.connections; mailsvc goes on by itself when there are"
                " some again",
                why=event.get("acceptError", "EMFILE"),
            )
