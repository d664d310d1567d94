"""The `Directory` of the SMTP server: the resolver on the database, in one read transaction for each recipient.

What the resolver does not know is added here: who asks (for somebody who has logged in, a domain that is not ours is
not "relaying denied" but a relay that does not exist yet), and how large the message will be.
"""

from __future__ import annotations

from mailsvc.directory import quota
from mailsvc.directory.resolve import NO_RELAY, NOT_OURS
from mailsvc.mail.address import Address
from mailsvc.smtp.seams import Client, Destination
from mailsvc.storage.aliases import resolution
from mailsvc.storage.store import Reader


class TableDirectory:
    """Fits `mailsvc.smtp.seams.Directory`.  ``programs``: whether mail may be given to programs."""

    def __init__(self, store: Reader, hostname: str, *, programs: bool) -> None:
        self._store = store
        self._hostname = hostname
        self._programs = programs

    async def resolve(self, address: Address, client: Client, size: int = 0) -> Destination:
        """See `mailsvc.smtp.seams.Directory`."""
        found = await self._store.read(resolution, address, hostname=self._hostname, programs=self._programs)
        refusal = found.refusal or quota.refusal(found, size)
        if refusal is NOT_OURS and client.is_ours:
            refusal = NO_RELAY
        if refusal is not None:
            return Destination(refusal=refusal)
        return Destination(
            tuple(account.id for account in found.accounts),
            programs=found.programs if self._programs else (),
            beyond_quota=found.is_reserved,
        )
