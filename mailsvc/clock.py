"""A clock that is set back must not stop the service.

Twisted's reactor plans by the time of day.  When that is set back an hour, every timer waits an hour longer than it
should: the queue does not look at what is due, no client is cut off for its silence, no handshake has a limit.  Nothing
in the reactor notices, because what would notice is a timer, too.  So a thread looks once a second, by the clock that
nobody can set, and moves the timers when the other one has gone back.

The hardest idea: which timers.  Those that were there before were all to fire at the old time or later; those that were
made since, by the new time, are left alone.  A clock that is set forward is no trouble of this kind: timers fire early,
once, and each of them must stand that anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

LOOK = 1.0
"""Seconds between two looks."""

TOLERANCE = 1.0
"""Seconds that a clock may be put right by without a word; a timer is late by no more."""


class ClockWatch:
    """Moves the timers of ``reactor`` when its clock is set back.

    ``steady`` tells seconds and never goes back.  Without `IReactorFromThreads`, as in tests, nothing is watched.
    """

    _log = Logger()

    def __init__(self, reactor: Any, *, every: float = LOOK, steady: Callable[[], float] = time.monotonic) -> None:
        self._reactor = reactor
        self._every = every
        self._steady = steady
        self._offset = self._now()
        self._stopped = Event()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        if not IReactorFromThreads.providedBy(self._reactor) or self._thread is not None:
            return
        self._offset = self._now()
        self._stopped.clear()
        self._thread = Thread(target=self._watch, name="mailsvc clock watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        thread, self._thread = self._thread, None
        self._stopped.set()
        if thread is not None:
            thread.join()

    def look(self) -> None:
        """Compare the clocks; in any thread."""
        before, self._offset = self._offset, self._now()
        back = before - self._offset
        if back > TOLERANCE:
            self._reactor.callFromThread(self._move, back)

    def _now(self) -> float:
        return float(self._reactor.seconds()) - self._steady()

    def _watch(self) -> None:
        while not self._stopped.wait(self._every):
            self.look()

    def _move(self, back: float) -> None:
        was = self._reactor.seconds() + back - self._every - TOLERANCE
        calls = [call for call in self._reactor.getDelayedCalls() if call.active() and call.getTime() >= was]
        for call in calls:
            call.delay(-back)
        self._log.warn(
            "the clock was set back by {back:.0f} s: {count} timers go on as if it had not been",
            back=back,
            count=len(calls),
        )
