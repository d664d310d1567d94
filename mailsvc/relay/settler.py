"""Writes what became of recipients: gathers results while a transaction runs, and writes them in the next one.

What is written is `mailsvc.relay.settling`.

The hardest idea is a database that cannot write.  A result that is lost would be a delivery made twice, so results are
kept until they are written, in their order; `Settler.is_stuck` says meanwhile that nothing new should be begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from mailsvc.errors import TemporaryFailure
from mailsvc.relay.seams import Bounces
from mailsvc.relay.settling import Result, Settled, settle
from mailsvc.storage import outbound
from mailsvc.storage.store import Store

AT_ONCE = 200
"""Results of one transaction."""

RETRY = 1.0
"""Seconds after which what the database could not do is tried again."""

LAST_TRIES = 3
"""So often it is tried when mailsvc stops."""


class Settler:
    """Takes results with `write`; ``told`` hears what was committed, ``quiet`` says which messages want no report.

    ``put_off``: seconds for a row of which nothing can be noted.  ``owner``: in whose name, the queue's own.
    """

    _log = Logger()

    def __init__(
        self,
        store: Store,
        clock: IReactorTime,
        owner: str,
        bounces: Bounces,
        *,
        told: Callable[[Sequence[Result], Settled], None],
        quiet: Callable[[Sequence[Result]], frozenset[int]],
        put_off: float,
    ) -> None:
        self.is_stuck = False
        self._store = store
        self._clock = clock
        self.owner = owner
        self._bounces = bounces
        self._told = told
        self._quiet = quiet
        self._put_off = put_off
        self._results: deque[Result] = deque()
        self._is_writing = False
        self._stopping = False
        self._writing: Deferred[None] = succeed(None)
        self._pausing: Deferred[None] | None = None

    def write(self, results: Sequence[Result]) -> None:
        """Write these soon."""
        self._results.extend(results)
        if self._results and not self._is_writing:
            self._is_writing = True
            self._writing = Deferred.fromCoroutine(self._write_all())

    def stop(self) -> Deferred[None]:
        """Fires when everything is written, or cannot be."""
        self._stopping = True
        if self._pausing is not None:
            self._pausing.cancel()
        return self._writing

    async def _write_all(self) -> None:
        tries = 0
        try:
            while self._results:
                taken = [self._results[number] for number in range(min(AT_ONCE, len(self._results)))]
                try:
                    settled = await self._write_some(taken)
                except TemporaryFailure:
                    # The database has said so in the log.
                    self.is_stuck = True
                    tries += 1
                    if self._stopping and tries >= LAST_TRIES:
                        self._lose()
                        return
                    await self._pause()
                    continue
                tries, self.is_stuck = 0, False
                for _ in taken:
                    self._results.popleft()
                self._told(taken, settled)
        finally:
            self._is_writing = False

    async def _write_some(self, taken: Sequence[Result]) -> Settled:
        now = self._clock.seconds()
        try:
            return await self._store.write(settle, self.owner, taken, self._bounces, now, self._quiet(taken))
        except TemporaryFailure:
            raise
        except Exception:
            if len(taken) == 1:
                self._log.failure(
                    "a defect: what became of {recipient} could not be noted; it is tried again",
                    recipient=taken[0].row.recipient,
                )
                return await self._keep(taken[0], now)
        # One of them cannot be written; the others shall be.
        parts = [await self._write_some([result]) for result in taken]
        return Settled(
            frozenset().union(*(part.reachable for part in parts)),
            any(part.reported for part in parts),
            frozenset().union(*(part.lost for part in parts)),
        )

    async def _keep(self, result: Result, now: float) -> Settled:
        """A row of which the sender could not be told must not go."""
        later = replace(result.row, due=now + self._put_off)
        await self._store.write(outbound.give_back, self.owner, [later])
        return Settled(frozenset(), False, frozenset({result.row.id}))

    async def _pause(self) -> None:
        if self._stopping:
            return
        self._pausing = deferLater(self._clock, RETRY, lambda: None)
        try:
            await self._pausing
        except CancelledError:
            pass
        finally:
            self._pausing = None

    def _lose(self) -> None:
        self._log.error(
            "what became of {count} recipients could not be noted; they are tried again, and some may get the message"
            " twice",
            count=len(self._results),
        )
