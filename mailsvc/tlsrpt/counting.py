"""Counts sessions with MX hosts for TLS reports, and writes the counts down now and then.

A session is counted in memory; every `PAUSE` seconds what has come together is written in one transaction.  The
hardest idea is what a crash may cost: at most the counts of these seconds, which is why nothing here waits for the
disk, and no delivery does.
"""

from __future__ import annotations

from collections import Counter

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mailsvc.errors import TemporaryFailure
from mailsvc.storage import tls_reports
from mailsvc.storage.store import Store
from mailsvc.tlsrpt.report import DAY, Counted

PAUSE = 10.0
"""Seconds between two transactions."""

MOST = 5000
"""Different counts in memory; what comes beyond is not counted."""

SPREAD = 4 * 3600.0
"""Reports of a day are sent within so many seconds after it (RFC 8460 section 4.1: not all senders at midnight)."""


class SessionCounter:
    """Counts between `add` and `stop`.  ``share`` (0 to 1) is when in `SPREAD` this service sends."""

    _log = Logger()

    def __init__(self, store: Store, clock: IReactorTime, share: float) -> None:
        self._store = store
        self._clock = clock
        self._delay = share * SPREAD
        self._counts: Counter[tuple[int, str, str, str]] = Counter()
        self._timer: IDelayedCall | None = None
        self._stopping = False
        self._writing: Deferred[None] = succeed(None)

    def add(self, domain: str, counted: Counted) -> None:
        """There was a session with a host of the domain."""
        key = (int(self._clock.seconds() // DAY), domain, counted.policy, counted.failure)
        if len(self._counts) >= MOST and key not in self._counts:
            return
        self._counts[key] += counted.sessions
        if self._timer is None and not self._stopping:
            self._timer = self._clock.callLater(PAUSE, self._write)

    def stop(self) -> Deferred[None]:
        """Fires when everything is written, or cannot be."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._write()
        return self._writing

    def _write(self) -> None:
        self._timer = None
        self._writing = Deferred.fromCoroutine(self._write_all())

    async def _write_all(self) -> None:
        counts, self._counts = self._counts, Counter()
        try:
            for day in sorted({day for day, *_ in counts}):
                rows = [
                    (domain, Counted(policy, failure, sessions))
                    for (its_day, domain, policy, failure), sessions in counts.items()
                    if its_day == day
                ]
                await self._store.write(tls_reports.count_sessions, day, rows, self._delay)
        except TemporaryFailure:
            pass  # the database has said so in the log, and mail is worth more than numbers
        except Exception:
            self._log.failure("a defect: sessions could not be counted for TLS reports")
