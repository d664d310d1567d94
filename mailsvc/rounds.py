"""Work that is done again and again while the service runs: old mail, lists, policies, reports.

`Rounds` owns the timer and what a failure means; what a round does, and what of it can be broken off, is its owner's.

The hardest idea is that a round may fail, and the next one comes all the same.  That the database cannot be used now is
in the log already; anything else is a defect, which is logged, and does not end the service's housekeeping for good.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mailsvc.errors import TemporaryFailure


class Rounds:
    """Awaits ``work``, and again ``pause`` seconds after it has ended, between `start` and `stop`.

    ``defect`` says, in the owner's ``log``, what could not be done when ``work`` raises what is not foreseen.
    """

    def __init__(
        self, clock: IReactorTime, pause: float, work: Callable[[], Awaitable[None]], log: Logger, defect: str
    ) -> None:
        self._clock = clock
        self._pause = pause
        self._work = work
        self._log = log
        self._defect = defect
        self._timer: IDelayedCall | None = None
        self._round: Deferred[None] = succeed(None)
        self.running = False

    def start(self, *, at_once: bool) -> None:
        """Begin, ``at_once`` or after a pause."""
        self.running = True
        if at_once:
            self._begin()
        else:
            self._wait()

    def stop(self, *, break_off: bool = False) -> Deferred[None]:
        """Begin nothing more; fires when the round that is under way has ended, which may be broken off."""
        self.running = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if break_off:
            self._round.cancel()
        return self._round

    def _wait(self) -> None:
        self._timer = self._clock.callLater(self._pause, self._begin)

    def _begin(self) -> None:
        self._round = Deferred.fromCoroutine(self._go())

    async def _go(self) -> None:
        try:
            await self._work()
        except TemporaryFailure:
            pass  # the database has said so in the log
        except Exception as error:
            if self.running or not isinstance(error, CancelledError):
                self._log.failure(f"a defect: {self._defect}")
        if self.running:
            self._wait()
