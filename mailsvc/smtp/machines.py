"""`mailsvc.smtp.seams.Machines` on the tables: relay clients, which hand in mail by their certificates alone.

What a certificate may stand for at all is `mailsvc.tls.identity`; as whom a machine may send `mailsvc.smtp.ownership`
asks.  It gives what a login gives and no more: mail for others needs a way to them.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailsvc.accounts.proofs import USE_NOTED_EVERY
from mailsvc.errors import StorageFailure
from mailsvc.smtp.seams import Client, Machine
from mailsvc.storage.identities import note_relay_client, relay_client
from mailsvc.storage.store import Store
from mailsvc.tls.identity import proven_key


class RelayClients:
    """Knows the machines of the table relay_client."""

    _log = Logger()

    def __init__(self, store: Store, clock: IReactorTime) -> None:
        self._store = store
        self._clock = clock

    async def recognise(self, client: Client) -> Machine | None:
        """See `mailsvc.smtp.seams.Machines`."""
        spki = "" if client.tls is None else proven_key(client.tls.client)
        if not spki:
            return None
        found = await self._store.read(relay_client, spki)
        if found is None:
            return None
        now = self._clock.seconds()
        if found.last_used is None or abs(now - found.last_used) >= USE_NOTED_EVERY:
            # Nobody waits for it: that it was not noted is no reason to refuse a message.
            Deferred.fromCoroutine(self._note(found.id, now))
        return Machine(found.id, found.label)

    async def _note(self, number: int, now: float) -> None:
        try:
            await self._store.write(note_relay_client, number, now)
        except StorageFailure as error:
            self._log.warn("the use of relay client {number} was not noted: {error}", number=number, error=str(error))
