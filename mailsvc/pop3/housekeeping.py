"""What happens to mail without a session: deleted mail goes for good, old mail goes, what no device wants any more.

One `Housekeeper` for the service.  It works in slices of one short transaction each and rests in between, so that
deliveries and logins hardly notice it; what it could not do now it does in its next round.

The hardest idea is what it must not touch.  RFC 1939 section 4: nothing is removed while a session has the maildrop
open; so an account with a session waits for a later round.  A session that begins while a slice is being removed
has perhaps just seen what goes; it can fetch it all the same, because what is removed here is always kept as deleted
mail first, also where deleted mail cannot come back: then it goes for good in the next round.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from mailsvc.pop3.mailbox import Maildrops
from mailsvc.rounds import Rounds
from mailsvc.storage.deleted import purge, purge_excess
from mailsvc.storage.devices import accounts_by_device, sweep
from mailsvc.storage.expiry import expire, expired, expiring_accounts, own_expiry
from mailsvc.storage.store import Store

ROUND = 60.0
"""Seconds between two rounds."""

AGES = 3600.0
"""Seconds between two looks at every account's old mail, which is counted in days."""

_REST = 0.05
"""Seconds between two slices."""


class RoomyStore(Store, Protocol):
    """A store that knows how much room there is."""

    def removing_helps(self) -> bool:
        """Whether mail is put off for want of room that removed mail would give."""


class Housekeeper:
    """Works between `start` and `stop`."""

    _log = Logger()

    def __init__(self, store: RoomyStore, clock: IReactorTime, maildrops: Maildrops) -> None:
        self._store = store
        self._clock = clock
        self._maildrops = maildrops
        self._keeping = maildrops.keeping
        self._aged: float | None = None
        self._resting: Deferred[None] | None = None
        self._rounds = Rounds(clock, ROUND, self._tidy, self._log, "old and deleted mail could not be removed")

    def start(self) -> None:
        """The database is open: begin."""
        self._rounds.start(at_once=True)

    def stop(self) -> Deferred[None]:
        """Begin nothing more; fires when the slice that is being removed is removed."""
        ended = self._rounds.stop()
        if self._resting is not None:
            self._resting.cancel()
        return ended

    async def _tidy(self) -> None:
        store, now = self._store, self._clock.seconds()
        self._maildrops.learn_expiry(await store.read(own_expiry))
        await self._repeat(lambda: store.write(purge, self._keeping.purged_before(now)))
        await self._repeat(lambda: store.write(purge_excess))
        # Mail that comes in is worth more than what was deleted.
        await self._repeat(lambda: store.write(purge, None), store.removing_helps)
        if self._rounds.running and (self._aged is None or now >= self._aged + AGES):
            await self._expire(now)
            await self._sweep(now)
            self._aged = now

    async def _expire(self, now: float) -> None:
        last = 0
        while accounts := await self._store.read(expiring_accounts, self._keeping.expire, last):
            for account_id, days in accounts:
                # Most accounts have nothing old, and a look costs less than a transaction that writes.
                if not self._is_free(account_id):
                    continue
                old = await self._store.read(expired, account_id, days, now)
                if old:
                    removed = partial(self._store.write, expire, account_id, days, now)
                    await self._repeat(removed, partial(self._is_free, account_id))
            last, _ = accounts[-1]

    async def _sweep(self, now: float) -> None:
        in_use_since = self._keeping.in_use_since(now)
        for account_id in await self._store.read(accounts_by_device):
            removed = partial(self._store.write, sweep, account_id, in_use_since, now)
            await self._repeat(removed, partial(self._is_free, account_id))

    def _is_free(self, account_id: int) -> bool:
        return self._rounds.running and not self._maildrops.is_open(account_id)

    async def _repeat(self, removed: Callable[[], Deferred[int]], may: Callable[[], bool] = lambda: True) -> None:
        """Remove slice after slice, as long as there is more and it may be."""
        while self._rounds.running and may() and await removed() and self._rounds.running:
            self._resting = deferLater(self._clock, _REST, lambda: None)
            try:
                await self._resting
            except CancelledError:
                return
            finally:
                self._resting = None
